"""What else is made of the pieces of a prediction: entropy, voxels per class, pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box
from autoseg.errors import BadFile
from autoseg.image import Array, Image
from autoseg.records import Question
from autoseg.steps import sheet
from autoseg.steps.pieces import Piece
from autoseg.steps.sheet import View
from autoseg.steps.tiling import entropy

HEADERS = {2: ["case", "class", "pixels", "area_m2"], 3: ["case", "class", "voxels", "volume_mm3"]}
EDGE = 1024  # pixels of a preview along its longer side, at most
INCHES, MARGIN, HEAD, LINE = 9.3, 0.12, 0.62, 0.215
DOTS = EDGE / INCHES
SAMPLED = 2_000_000  # voxels that the greys of a slice are found by, about
SIDES = ("axial", "coronal", "sagittal")
UPWARD = ("anterior", "superior", "superior")
Reading = Callable[[Box], Image]


def entropy_of(piece: Piece, question: Question) -> NDArray[np.float32]:
    """How unsure the mean of all networks is: (*box) in nats, NaN where there is no measurement.

    From 0 to ln K for K classes; of regions, which may overlap, the sum of that of yes and no of each, to K ln 2.
    """
    assert piece.probabilities is not None
    found: NDArray[np.float32] = entropy(piece.probabilities.float()[None], regions=bool(question.regions))[0].numpy()
    return _measured(found, piece)


def disagreement_of(piece: Piece) -> NDArray[np.float32]:
    """How much of that is the networks' disagreement: (*box) in nats, NaN where there is no measurement."""
    assert piece.disagreement is not None
    return _measured(piece.disagreement.float().numpy(), piece)


def _measured(values: NDArray[np.float32], piece: Piece) -> NDArray[np.float32]:
    return values if piece.valid is None else np.where(piece.valid, values, np.float32(np.nan))


class Tally:
    """The voxels, or pixels, of every class above the background, or region, that have a measurement."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.found = np.zeros(len(question.classes), np.int64)

    def take(self, piece: Piece) -> None:
        indices = piece.indices if piece.valid is None else piece.indices[piece.valid]
        self.found += np.bincount(indices.ravel(), minlength=len(self.found))[: len(self.found)]

    def counts(self) -> dict[str, int]:
        """By name; a voxel counts for every region that it lies in."""
        question = self.question
        found = self.found @ np.array(question.members) if question.regions else self.found[question.background :]
        return {name: int(count) for name, count in zip(question.foreground, found, strict=True)}


# -- the table -----------------------------------------------------------------------------------------


def table(before: str, case: str, counts: Mapping[str, int], image: Image, where: str) -> str:
    """A folder's table of volumes or areas, as CSV, with the rows of a case in place of earlier ones of it.

    Raises: BadFile that names `where` when the earlier table is another one.
    """
    header = HEADERS[len(image.spacing)]
    try:
        first, *rows = list(csv.reader(io.StringIO(before))) or [header]
    except csv.Error:
        first, rows = ["something else"], []
    if first != header or any(len(row) != len(header) for row in rows):
        told = f"is a table of {', '.join(first)}"
        raise BadFile(told, where=where, expected=", ".join(header), remedy="remove it or move it away")
    size = size_of(image)
    new = [[case, name, str(n), "" if size is None else f"{n * size:.10g}"] for name, n in counts.items()]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([header, *(row for row in rows if row[0] != case), *new])
    return written.getvalue()


def size_of(image: Image) -> float | None:
    """mm³ of a voxel, m² of a pixel; None for pictures, which do not say."""
    if "ras" in image.placement:  # sheared axes make it smaller than the product of the spacing
        return float(abs(np.linalg.det(np.asarray(image.placement["ras"], dtype=np.float64)[:3, :3])))
    if len(image.spacing) == 2 and not image.placement.get("crs"):
        return None
    return float(np.prod(image.spacing))


# -- pictures ------------------------------------------------------------------------------------------


class VolumePreview:
    """A volume's slices across every axis where they hold most of the foreground, with the outlines of the classes."""

    def __init__(self, image: Image, question: Question) -> None:
        self.image, self.question = image, question
        self.label = np.zeros(image.shape, np.uint8)

    def take(self, piece: Piece) -> None:
        self.label[piece.box] = piece.indices

    def draw(self, file: BinaryIO, title: str) -> None:
        """Writes the PNG."""
        _draw(file, title, self._views(), self.question.classes)

    def _views(self) -> list[View]:
        found = self.label >= self.question.background
        placed, spacing = "ras" in self.image.placement, self.image.spacing
        picture_of = slices_of(self.image)
        views = []
        for across in range(3):
            down, right = (axis for axis in range(3) if axis != across)
            counts = found.sum((down, right)) if self.question.background else np.zeros(self.label.shape[across])
            at = int(counts.argmax()) if counts.any() else self.label.shape[across] // 2
            cut = tuple(at if axis == across else slice(None, None, -1 if axis == down else 1) for axis in range(3))
            name = f"{'zyx'[across]} {at}"
            if placed:
                side = "anterior" if across == 2 else "right"
                name = f"{SIDES[across]}, {name}: {UPWARD[across]} up, {side} to the right"
            views.append(_lean(View(name, picture_of(cut), self.label[cut], spacing[down] / spacing[right])))
        return views


class RasterPreview:
    """A raster in so few pixels that it fits the picture, tinted by class."""

    def __init__(self, image: Image, question: Question, read: Reading | None = None) -> None:
        """`read` gives windows of an image that has no values itself; those of the pieces are asked for."""
        self.image, self.question, self.read = image, question, read
        self.step = max(1, -(-max(image.shape) // EDGE))
        rows, columns = (-(-size // self.step) for size in image.shape)
        self.label, self.valid = np.zeros((rows, columns), np.uint8), np.ones((rows, columns), bool)
        self.bands: Array | None = None

    def take(self, piece: Piece) -> None:
        inner = tuple(slice(-part.start % self.step, None, self.step) for part in piece.box)
        sizes = piece.indices[inner].shape
        begin = [-(-part.start // self.step) for part in piece.box]
        there = tuple(slice(first, first + size) for first, size in zip(begin, sizes, strict=True))
        if not all(sizes):
            return
        self.label[there] = piece.indices[inner]
        if piece.valid is not None:
            self.valid[there] = piece.valid[inner]
        part = self.image.array[_of_all(piece.box)] if self.read is None else self.read(piece.box).array
        kept = part[:3] if len(part) >= 3 else part[:1]
        if self.bands is None:
            self.bands = np.zeros((len(kept), *self.label.shape), kept.dtype)
        self.bands[_of_all(there)] = kept[_of_all(inner)]

    def draw(self, file: BinaryIO, title: str) -> None:
        """Writes the PNG."""
        assert self.bands is not None
        colours = [_stretched(band, self.valid, len(self.bands)) for band in self.bands]
        picture = np.where(self.valid, colours, np.float32(1))
        picture = picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)
        label = np.where(self.valid, self.label, np.uint8(0))
        rows, columns = self.image.shape
        name = f"{rows} × {columns} pixels" + (f", every {self.step}th shown" if self.step > 1 else "")
        pixel = self.image.spacing[0] / self.image.spacing[1]
        _draw(file, title, [View(name, picture, label, pixel)], self.question.classes)


def slices_of(image: Image) -> Callable[[tuple[slice | int, ...]], NDArray[np.float32]]:
    """Cuts through a volume's first channel within 0 and 1, as they are looked at; only what is cut is converted."""
    limits = _limits(image.array[0], image.shape)
    return lambda cut: _between(image.array[0][cut], limits)


def shown(image: Image) -> NDArray[np.float32]:
    """A raster within 0 and 1 as it is looked at: (y, x) of its first band, or (y, x, 3) of three bands or more."""
    valid = np.ones(image.shape, bool) if image.valid is None else image.valid
    bands = image.array[:3] if image.channels >= 3 else image.array[:1]
    if not valid.any():
        return np.ones(image.shape, np.float32)
    found = [np.where(valid, _stretched(band, valid, len(bands)), np.float32(1)) for band in bands]
    return found[0] if len(found) == 1 else np.stack(found, -1)


def _of_all(box: Box) -> tuple[slice, ...]:
    """The box in all bands."""
    return (slice(None), *box)


def _stretched(band: Array, valid: NDArray[np.bool_], bands: int) -> NDArray[np.float32]:
    """A band within 0 and 1: photographs as they are, others between their percentiles."""
    if band.dtype == np.uint8 and bands == 3:
        return _between(band, (0, 255))
    return _between(band, _limits(band[valid][None], (int(valid.sum()),)))


def _limits(values: Array, shape: Sequence[int]) -> tuple[float, float]:
    """What is black and what is white: percentiles of some of the values."""
    step = max(1, int((np.prod(shape) / SAMPLED) ** (1 / len(shape))))
    some = values[tuple(slice(None, None, step) for _ in range(values.ndim))].astype(np.float64)
    some = some[np.isfinite(some)]
    low, high = np.percentile(some, sheet.SHOWN) if some.size else (0.0, 1.0)
    return float(low), float(high)


def _between(values: Array, limits: tuple[float, float]) -> NDArray[np.float32]:
    low, high = limits
    shown: NDArray[np.float32] = ((values.astype(np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)
    shown[np.isnan(shown)] = 0
    return shown


def _lean(view: View) -> View:
    """The view with no more pixels than a preview can show."""
    step = max(1, -(-max(view.label.shape) // EDGE))
    return View(view.name, view.picture[::step, ::step], view.label[::step, ::step], view.pixel)


def _draw(file: BinaryIO, title: str, views: Sequence[View], classes: Sequence[str]) -> None:
    """Views side by side under a title and a legend, in a page of EDGE pixels at most."""
    from matplotlib.figure import Figure

    named = sheet.entries([view.label for view in views], classes, INCHES)
    head = HEAD + LINE * len(named)
    room = (INCHES - MARGIN * (len(views) + 1)) / len(views)
    tall = [min(max(view.tall, 0.02), 50.0) for view in views]
    high = min(max(room * one for one in tall), INCHES - head - MARGIN)
    total = high + head + MARGIN
    page = Figure((INCHES, total), dpi=DOTS)
    page.text(MARGIN / INCHES, 1 - 0.26 / total, title, fontsize=11, fontweight="bold", parse_math=False)
    sheet.legend(page, named, total - 0.5)
    left = MARGIN
    for view, one in zip(views, tall, strict=True):
        wide = min(room, high / one)
        box = page.add_axes((left / INCHES, (MARGIN + high - wide * one) / total, wide / INCHES, wide * one / total))
        sheet.show(box, view, labelled=True)
        box.set_title(view.name, fontsize=7.5, color="#666", loc="left", pad=2)
        left += room + MARGIN
    page.savefig(file, format="png")
