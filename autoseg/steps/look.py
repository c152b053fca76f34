"""What is looked at of a case: all of it, or of a raster too large to be held, windows spread over it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.statistics import AFTER, BEFORE, rim
from autoseg.image import Array, Case, Image, Mask, as_volume
from autoseg.readers import Misfit, Windows, same_place
from autoseg.readers.raster import Raster
from autoseg.readers.windows import Window
from autoseg.records import CaseFiles, Question
from autoseg.steps import cases


@dataclass(frozen=True, eq=False)
class Look:
    """What is looked at of a labelled case, as a volume.

    Attributes:
        id: the case's.
        grid: shape, spacing and placement of the whole image; its values are not to be used.
        array: (C, z, y, x) in the file's dtype; of a flat image, every z is a window of its own.
        valid: (z, y, x), None when every voxel is.
        label: (z, y, x), the values of the file.
        rim: (z, y, x), as `statistics.objects` wants it.
        share: of the image's voxels that are looked at, 0 to 1.
    """

    id: str
    grid: Image
    array: Array
    valid: Mask | None
    label: Array
    rim: NDArray[np.uint8]
    share: float = 1.0

    @property
    def flat(self) -> bool:
        """Whether the image has no depth."""
        return len(self.grid.spacing) == 2

    @property
    def said(self) -> str:
        """That not everything was looked at, to be added to a fault; nothing where everything was."""
        return "" if self.share == 1 else f"; {self.share:.2%} of the image was looked at"


def whole(case: Case) -> Look:
    """All of a case in memory."""
    assert case.label is not None
    array, valid = as_volume(case.image.array), case.image.valid
    return Look(
        id=case.id,
        grid=case.image,
        array=array,
        valid=None if valid is None else as_volume(valid[None])[0],
        label=as_volume(case.label[None])[0],
        rim=rim(array.shape[1:]),
    )


def look(folder: Path, files: CaseFiles, question: Question) -> tuple[Look | None, Misfit]:
    """The case as it is looked at, None where image and label have two shapes; and how they lie to each other.

    Raises: BadData for what cannot be read.
    """
    images, label_file = [folder / name for name in files.images], folder / str(files.label)
    reader = cases.reader_of(question)
    if not isinstance(reader, Raster):
        image, label = reader.read(images), reader.read_label(label_file)
        cases.require_channels(image.channels, images, question)
        same = image.shape == label.shape
        return (whole(Case(files.id, image, label.array[0])) if same else None), same_place(image, label)
    with reader.open_windows(images) as opened, reader.open_label(label_file, question.colours) as drawn:
        cases.require_channels(opened.channels, images, question)
        place = same_place(opened.grid, drawn.grid)
        if opened.shape != drawn.shape:
            return None, place
        windows = opened.some()
        if windows == [opened.all]:
            return whole(Case(files.id, opened.whole(), drawn.whole().array[0])), place
        return pieces(files.id, opened, drawn, windows), place


def pieces(case: str, image: Windows, label: Windows, windows: list[Window]) -> Look:
    """Windows of one size of an image and its label."""
    rows, columns = windows[0]
    shape = (len(windows), rows.stop - rows.start, columns.stop - columns.start)
    array, drawn = np.empty((0,)), np.empty((0,))
    valid, marked = np.ones(shape, bool), np.zeros(shape, np.uint8)
    for number, window in enumerate(windows):
        part, values = image.read(window), label.read(window).array[0]
        if not number:
            array = np.empty((image.channels, *shape), part.array.dtype)
            drawn = np.empty(shape, values.dtype)
        array[:, number], drawn[number] = part.array, values
        marked[number] = _rim(window, image.shape)
        if part.valid is not None:
            valid[number] = part.valid
    share = float(prod(shape) / prod(image.shape))
    return Look(case, image.grid, array, None if valid.all() else valid, drawn, marked, min(share, 1.0))


def _rim(window: Window, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(1, y, x): where a window ends with the image, and where it cuts."""
    marked = rim((1, *(part.stop - part.start for part in window)))
    for axis, (part, full) in enumerate(zip(window, shape, strict=True), 1):
        lines = np.moveaxis(marked, axis, 0)
        if part.stop < full:
            lines[-1] = AFTER
        if part.start > 0:
            lines[0] = BEFORE
    return marked
