"""What a prediction writes beside the label: probabilities, uncertainty, volumes, previews."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from autoseg import __version__
from autoseg.errors import BadFile
from autoseg.image import Image
from autoseg.pipeline.making import Making, writing
from autoseg.readers import Windows
from autoseg.records import Question
from autoseg.steps import outputs
from autoseg.steps.pieces import Piece
from autoseg.store import lock, save_text, whole

TABLE = "volumes.csv"
PATIENCE = 60.0  # seconds to wait for another process that writes the table
Values = Callable[[Piece], NDArray[np.float32]]


@dataclass(frozen=True)
class ExtraWish:
    """What is wanted beside the labels."""

    probabilities: bool = False
    uncertainty: bool = False
    volumes: bool = False
    previews: bool = False

    @property
    def of_networks(self) -> bool:
        """Whether the pieces must have probabilities; `uncertainty` wants their disagreement too."""
        return self.probabilities or self.uncertainty


class Extra(Protocol):
    """Takes the pieces of one case, in any order, and writes one file, which appears with `close` alone.

    `of_label`: it is made of the label, as that is after postprocessing, and not of what the networks say.
    """

    of_label: bool

    def take(self, piece: Piece) -> None:
        """Raises: RunFailed when it cannot be written."""
        ...

    def close(self) -> list[Path]:
        """All pieces have been taken: the case's own files. Raises: RunFailed when one cannot be written."""
        ...

    def abandon(self) -> None: ...  # leaves nothing behind


def extras_for(
    wish: ExtraWish, question: Question, image: Image, out: Path, stem: str, windows: Windows | None = None
) -> list[Extra]:
    """What is wanted of a case.

    Args:
        image: as it was read, or a grid without values; `windows` is where the values come from then.
        out, stem: the folder of the labels, and the name of this one without its ending.
    Raises: RunFailed when a file cannot be begun.
    """
    flat = len(image.spacing) == 2
    values = RasterValues if flat else VolumeValues
    ending = ".tif" if flat else ".nii.gz"
    made: list[Extra] = []
    try:
        if wish.probabilities:
            made.append(Probabilities(out / f"{stem}.probabilities.b2nd", image, question))
        if wish.uncertainty:
            made.append(values(out / f"{stem}.entropy{ending}", image, lambda one: outputs.entropy_of(one, question)))
            made.append(values(out / f"{stem}.disagreement{ending}", image, outputs.disagreement_of))
        if wish.volumes:
            made.append(Volumes(out / TABLE, stem, image, question))
        if wish.previews:
            made.append(Preview(out / f"{stem}.preview.png", stem, image, question, windows))
    except BaseException:
        for extra in made:
            extra.abandon()
        raise
    return made


# -- probabilities -------------------------------------------------------------------------------------


class Probabilities:
    """A blosc2 array (K, *S) of float16, in chunks, written box by box; its `vlmeta["autoseg"]` says what it holds."""

    of_label = False

    def __init__(self, file: Path, image: Image, question: Question) -> None:
        import blosc2

        blosc2.set_nthreads(1)
        self.making = Making(file)
        told = {
            "version": __version__,
            "outputs": list(question.outputs),
            "overlap": bool(question.regions),
            "axes": "yx" if len(image.spacing) == 2 else "zyx",
            "spacing": list(image.spacing),
        }
        with self.making.begun():
            self.array = _empty(self.making.path, (len(question.outputs), *image.shape), told)

    def take(self, piece: Piece) -> None:
        assert piece.probabilities is not None
        values = piece.probabilities.cpu().numpy().astype(np.float16, order="C")
        everywhere = (slice(None), *piece.box)
        with writing(self.making.target):
            self.array[everywhere] = values

    def close(self) -> list[Path]:
        return self.making.done()

    def abandon(self) -> None:
        self.making.drop()


def _empty(file: Path, shape: Sequence[int], told: Mapping[str, Any]) -> Any:
    import blosc2

    volume = len(shape) == 4
    chunks = (1, *(min(size, 64 if volume else 512) for size in shape[1:]))
    blocks = (1, *(min(size, 32 if volume else 128) for size in shape[1:]))
    made = blosc2.zeros(
        tuple(shape), dtype=np.float16, chunks=chunks, blocks=blocks, urlpath=str(file), mode="w",
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1), dparams=blosc2.DParams(nthreads=1),
    )  # fmt: skip
    made.schunk.vlmeta["autoseg"] = dict(told)
    return made


# -- uncertainty ---------------------------------------------------------------------------------------


class VolumeValues:
    """A NIfTI image of float32 on the grid of the input; until then float16 in a file, not in memory."""

    of_label = False

    def __init__(self, file: Path, image: Image, values: Values) -> None:
        self.making, self.image, self.values = Making(file), image, values
        self.scratch = self.making.path.with_name(f"{self.making.path.name}.scratch")
        with self.making.begun():
            self.making.stack.callback(self._forget)
            _reserve(self.scratch, 2 * prod(image.shape))
            self.array: Any = np.memmap(self.scratch, np.float16, "r+", shape=image.shape)

    def take(self, piece: Piece) -> None:
        self.array[piece.box] = self.values(piece)

    def close(self) -> list[Path]:
        with writing(self.making.target):
            _save_nifti(self.making.path, self.array, self.image)
        return self.making.done()

    def abandon(self) -> None:
        self.making.drop()

    def _forget(self) -> None:
        self.array = None  # the file can be removed on Windows then
        self.scratch.unlink(missing_ok=True)


def _save_nifti(file: Path, values: NDArray[Any], image: Image) -> None:
    """Values (z, y, x) where the input's file has them; of one that is not NIfTI, along the axes in memory."""
    import nibabel as nib

    placement = cast(Mapping[str, Any], image.placement)
    array = values.transpose(2, 1, 0)
    if "header" not in placement:
        affine = np.asarray(placement.get("ras", np.diag([*image.spacing[::-1], 1.0])), dtype=np.float64)
        header = nib.Nifti1Header()
        header.set_data_dtype(np.float32)
        header.set_xyzt_units("mm")
        nib.save(nib.Nifti1Image(array, affine, header), file)
        return
    array = np.flip(array, placement["flips"]).transpose(np.argsort(placement["order"]))
    array = array[..., 0] if placement["flat"] else array
    kind = nib.Nifti2Image if placement["version"] == 2 else nib.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(np.float32)
    header.set_data_shape(array.shape)
    for name, value in placement["header"].items():
        header[name] = value
    header["pixdim"][:4] = placement["pixdim"]
    header.set_slope_inter(1, 0)
    nib.save(kind(array, None, header), file)


class RasterValues:
    """A tiled GeoTIFF of float32 with the input's coordinates, written by windows; NaN is nodata."""

    of_label = False

    def __init__(self, file: Path, image: Image, values: Values) -> None:
        from autoseg.readers.raster_writing import open_label

        self.making, self.values = Making(file), values
        nothing: Any = float("nan")
        like = replace(image, placement={**image.placement, "nodata": nothing})
        with self.making.begun():
            self.target = self.making.stack.enter_context(open_label(self.making.path, like, np.float32, nothing))

    def take(self, piece: Piece) -> None:
        self.target.write(piece.box, self.values(piece))

    def close(self) -> list[Path]:
        return self.making.done()

    def abandon(self) -> None:
        self.making.drop()


# -- volumes -------------------------------------------------------------------------------------------


def _reserve(file: Path, size: int) -> None:
    """Makes a file of that size; a disk that is too full for it says so here, and not where the file is filled."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, max(1, size))
        opened.truncate(size)


def _table_of(file: Path) -> str:
    """The table as it is; nothing where there is none. Raises: BadFile for what is no text."""
    try:
        return file.read_text(encoding="utf-8") if file.exists() else ""
    except UnicodeDecodeError:
        raise BadFile("is no text in UTF-8", where=str(file), remedy="move it away; it is written anew") from None


def is_in_table(out: Path, case: str) -> bool:
    """Whether the folder's table has rows of the case. Raises: BadFile."""
    return any(row and row[0] == case for row in csv.reader(_table_of(out / TABLE).splitlines()))


class Volumes:
    """The rows of a case in the folder's table, where they take the place of earlier ones of it."""

    of_label = True

    def __init__(self, file: Path, case: str, image: Image, question: Question) -> None:
        self.file, self.case, self.image, self.tally = file, case, image, outputs.Tally(question)

    def take(self, piece: Piece) -> None:
        self.tally.take(piece)

    def close(self) -> list[Path]:
        """No file is the case's own. Raises: BadFile when there is another table of this name."""
        with lock(self.file.parent / f".{self.file.stem}", PATIENCE):
            before = _table_of(self.file)
            save_text(self.file, outputs.table(before, self.case, self.tally.counts(), self.image, str(self.file)))
        return []

    def abandon(self) -> None:
        """Nothing has been written."""


# -- previews ------------------------------------------------------------------------------------------


class Preview:
    """A PNG to look at."""

    of_label = True

    def __init__(self, file: Path, title: str, image: Image, question: Question, windows: Windows | None) -> None:
        self.file, self.title = file, title
        if len(image.spacing) == 3:
            self.made: outputs.VolumePreview | outputs.RasterPreview = outputs.VolumePreview(image, question)
            return
        read = None if windows is None else lambda box: windows.read((box[0], box[1]))
        self.made = outputs.RasterPreview(image, question, read)

    def take(self, piece: Piece) -> None:
        self.made.take(piece)

    def close(self) -> list[Path]:
        with whole(self.file) as temporary, temporary.open("wb") as opened:
            self.made.draw(opened, self.title)
        return [self.file]

    def abandon(self) -> None:
        """Nothing has been written."""
