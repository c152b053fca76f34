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

REMEDY = "remove scores.json of its run and train it again, which predicts its validation cases anew"


class Prepared(Record):
    """Header of a preprocessed case. `signature` changes with its files and with how it was preprocessed; `raters` are
    those that it has labels of, the first one's being the label."""

    signature: str
    shape: tuple[int, int, int]
    raters: tuple[int, ...] = (0,)


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
    earlier_file: Path | None = None
    raters: tuple[int, ...] = (0,)

    def read(self, box: tuple[slice, ...]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Image (C, *box) and label (*box) of a box that lies inside the case."""
        return _read(self.image_file, (slice(None), *box)), _read(self.label_file, box)

    def label_by(self, rater: int, box: tuple[slice, ...]) -> NDArray[np.uint8]:
        """The label (*box) of one of the case's raters."""
        first = rater == self.raters[0]
        return _read(self.label_file if first else _of_rater(self.label_file, rater), box)

    def earlier(self, box: tuple[slice, ...]) -> NDArray[np.uint8]:
        """The class indices (*box) that an earlier stage gave, 255 for none; of a case that has them."""
        assert self.earlier_file is not None
        return _read(self.earlier_file, box)


@dataclass(frozen=True)
class StoredLabels:
    """The folder of an earlier stage's labels, on the grids of preprocessed cases.

    A file's name tells the content of the case that it was made for, so that one that is there is the right one.
    """

    folder: Path

    def file(self, case: str, content: str) -> Path:
        return self.folder / f"{case}.{content[:16]}.b2nd"

    def holds(self, case: str, content: str) -> bool:
        """Whether the label is there, whole."""
        import blosc2

        try:
            blosc2.open(str(self.file(case, content)), "r")
        except (OSError, RuntimeError):
            return False
        return True

    def save(self, case: str, content: str, label: NDArray[np.uint8]) -> None:
        """Stores a label (z, y, x) of class indices."""
        _save_array(self.file(case, content), label)


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
            for file in (*arrays, *(_of_rater(arrays[1], rater) for rater in header.raters[1:])):
                blosc2.open(str(file), "r")
        except (BadFile, OSError, RuntimeError):  # the last is how blosc2 tells that a file is cut short
            return None
        return header.signature

    def save(
        self,
        case: str,
        signature: str,
        image: NDArray[np.float32],
        labels: Mapping[int, NDArray[np.uint8]],
        points: Mapping[int, NDArray[np.int32]],
    ) -> None:
        """Stores image (C, z, y, x), in float16, and the labels (z, y, x) of class indices by rater, in order."""
        image_file, label_file, points_file = self._files(case)
        points_file.unlink(missing_ok=True)
        limit = float(np.finfo(np.float16).max)
        _save_array(image_file, np.clip(image, -limit, limit).astype(np.float16))
        (_, label), *others = labels.items()
        _save_array(label_file, label)
        for rater, other in others:
            _save_array(_of_rater(label_file, rater), other)
        z, y, x = label.shape
        arrays = {str(index): at for index, at in points.items()}
        save_arrays(points_file, arrays, Prepared(signature=signature, shape=(z, y, x), raters=tuple(labels)))

    def shape(self, case: str) -> tuple[int, int, int]:
        """(z, y, x) of the stored case. Raises: BadFile when it is damaged."""
        return load_header(Prepared, self._files(case)[-1]).shape

    def earlier(self, name: str) -> StoredLabels:
        """Where labels of an earlier stage lie on the grids of these cases; `name` tells which."""
        return StoredLabels(self.folder / f"earlier_{name}")

    def open(self, case: str, earlier: Path | None = None) -> StoredCase:
        """The stored case, with the file of its label by an earlier stage. Raises: BadFile when it is damaged."""
        image_file, label_file, points_file = self._files(case)
        header, tensors = load_tensors(Prepared, points_file)
        points = {int(index): at.numpy() for index, at in tensors.items()}
        return StoredCase(case, header.shape, points, image_file, label_file, earlier, header.raters)


def save_indices(file: Path, array: NDArray[np.uint8]) -> None:
    """Stores an array of two axes or more, compressed."""
    _save_array(file, array)


def read_indices(file: Path) -> NDArray[np.uint8]:
    """The array that `save_indices` stored. Raises: BadFile where there is none, or a damaged one."""
    if not file.exists():
        raise BadFile("is not there", where=str(file), remedy=REMEDY)
    try:
        return _read(file, (slice(None),))
    except BadFile as problem:
        raise BadFile(problem.what, where=problem.where, remedy=REMEDY) from None


def _of_rater(label: Path, rater: int) -> Path:
    """Beside the first rater's label, that of another."""
    return label.with_name(label.name.replace(".label.b2nd", f".label_{rater}.b2nd"))


def _read(file: Path, box: tuple[slice, ...]) -> NDArray[Any]:
    """A box of a stored array. Raises: BadFile when it is damaged."""
    import blosc2

    blosc2.set_nthreads(1)  # many threads read at once; more inside each only get in the way
    try:
        array: NDArray[Any] = blosc2.open(str(file), "r")[box]
        return array
    except (RuntimeError, ValueError, OSError) as problem:  # how blosc2 tells of damage
        remedy = "remove it: the next run makes it anew"
        raise BadFile(f"is damaged ({problem})", where=str(file), remedy=remedy) from None


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
