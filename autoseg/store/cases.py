"""Preprocessed arrays on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadFile
from autoseg.records import Record
from autoseg.store.files import load_header, load_tensors, save_arrays, whole


class Prepared(Record):
    """Header of a preprocessed case. `signature` changes with its files and with how it was preprocessed."""

    signature: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case on disk, read box by box.

    Attributes:
        points: up to 10,000 voxels (n, 3) per class index that occurs, for foreground sampling.
    """

    id: str
    shape: tuple[int, int, int]
    points: dict[int, NDArray[np.int32]]
    image_file: Path
    label_file: Path

    def read(self, box: tuple[slice, ...]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Image (C, *box) and label (*box) of a box that lies inside the case."""
        import blosc2

        blosc2.set_nthreads(1)  # many threads read at once; more inside each only get in the way
        everywhere = (slice(None),)
        try:
            image, label = blosc2.open(str(self.image_file), "r"), blosc2.open(str(self.label_file), "r")
            return image[everywhere + box], label[box]
        except (RuntimeError, ValueError, OSError) as problem:  # how blosc2 tells of damage
            where, remedy = str(self.image_file), "remove it: the next run makes it anew"
            raise BadFile(f"or its label is damaged ({problem})", where=where, remedy=remedy) from None


@dataclass(frozen=True)
class Preprocessed:
    """The folder of one way of preprocessing one task. Points are written last: with them a case is whole."""

    folder: Path

    def _files(self, case: str) -> tuple[Path, Path, Path]:
        return (
            self.folder / f"{case}.image.b2nd",
            self.folder / f"{case}.label.b2nd",
            self.folder / f"{case}.points.safetensors",
        )

    def signature(self, case: str) -> str | None:
        """What the stored case was made from; None when it is not there or damaged."""
        import blosc2

        *arrays, points = self._files(case)
        try:
            header = load_header(Prepared, points)
            for file in arrays:
                blosc2.open(str(file), "r")
        except (BadFile, OSError, RuntimeError):  # the last is how blosc2 tells that a file is cut short
            return None
        return header.signature

    def save(
        self,
        case: str,
        signature: str,
        image: NDArray[np.float32],
        label: NDArray[np.uint8],
        points: Mapping[int, NDArray[np.int32]],
    ) -> None:
        """Stores image (C, z, y, x), in float16, and label (z, y, x) of class indices."""
        image_file, label_file, points_file = self._files(case)
        points_file.unlink(missing_ok=True)
        limit = float(np.finfo(np.float16).max)
        _save_array(image_file, np.clip(image, -limit, limit).astype(np.float16))
        _save_array(label_file, label)
        z, y, x = label.shape
        arrays = {str(index): at for index, at in points.items()}
        save_arrays(points_file, arrays, Prepared(signature=signature, shape=(z, y, x)))

    def open(self, case: str) -> StoredCase:
        """The stored case. Raises: BadFile when it is damaged."""
        image_file, label_file, points_file = self._files(case)
        header, tensors = load_tensors(Prepared, points_file)
        points = {int(index): at.numpy() for index, at in tensors.items()}
        return StoredCase(case, header.shape, points, image_file, label_file)


def _save_array(file: Path, array: NDArray[Any]) -> None:
    import blosc2

    blocks = tuple(min(32, size) for size in array.shape[-3:])
    chunks = tuple(min(128, size) for size in array.shape[-3:])
    lead = (1,) * (array.ndim - 3)
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1),
        chunks=(*lead, *chunks),
        blocks=(*lead, *blocks),
    )
    with whole(file) as temporary:
        temporary.write_bytes(packed.to_cframe())
