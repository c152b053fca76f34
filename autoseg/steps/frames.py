"""A case as layers of small pictures: image, reference, prediction and where they differ, slice by slice."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box
from autoseg.image import IGNORE, Image, Mask
from autoseg.records import Question
from autoseg.steps.outputs import shown, slices_of
from autoseg.steps.sheet import COLOURS

EDGE, SLICES, QUALITY = 200, 24, 62  # pixels of a picture, slices along an axis, of JPEG
WIDE = 3 * EDGE  # pixels of a raster's picture
LAYERS = ("reference", "prediction", "error")
ERRORS = (("missed", "#00ffff"), ("invented", "#ff2828"), ("another class", "#ff00ff"))  # of no class
MISSED, INVENTED, CONFUSED = 1, 2, 3
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One slice: data URIs of the image and of the transparent layers over it, in the order of LAYERS."""

    name: str
    image: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Plane:
    """Slices across one axis, the one at `first` shown first; `tall` is the height over the width of a picture."""

    name: str
    frames: tuple[Frame, ...]
    first: int
    tall: float


def planes(
    image: Image, prediction: Labels, reference: Labels, question: Question, focus: Sequence[int] | None = None,
    slices: int = SLICES,
) -> list[Plane]:  # fmt: skip
    """The slices across every axis of a volume; a raster as a whole and, if it is large, where most errors are.

    Args:
        prediction, reference: class indices (*S); the reference is IGNORE where nothing counts.
        focus: the voxel that is shown first; None for the slices with most errors.
        slices: along every axis, at most, beside the first shown.
    """
    drawn = _Drawn(question)
    if prediction.ndim == 2:
        return [*_raster(image, prediction, reference, drawn, focus)]
    return [*_volume(image, prediction, reference, drawn, focus, slices)]


class _Drawn:
    """How labels of a question are drawn."""

    def __init__(self, question: Question) -> None:
        self.background = question.background
        self.classes = palette(len(question.classes), question.background)
        self.alike = np.zeros(256, np.uint8)  # classes that lie in the same regions are one
        members = np.array(question.members if question.regions else np.eye(len(question.classes)))
        self.alike[: len(members)] = np.unique(members, axis=0, return_inverse=True)[1].ravel()

    def wrong(self, prediction: Labels, reference: Labels) -> Mask:
        """Where a prediction is not what the reference says."""
        found: Mask = (self.alike[prediction] != self.alike[reference]) & (reference != IGNORE)
        return found

    def layers(self, prediction: Labels, reference: Labels) -> tuple[str, ...]:
        """The pictures of LAYERS."""
        tinted = self.classes.copy()
        tinted[:, 3] = tinted[:, 3] * 0.45
        wrong = self.wrong(prediction, reference)
        errors = np.where(wrong, CONFUSED, 0).astype(np.uint8)
        if self.background:
            errors[wrong & (prediction == 0)] = MISSED
            errors[wrong & (reference == 0)] = INVENTED
        colours = np.zeros((256, 4), np.uint8)
        colours[1 : len(ERRORS) + 1] = [(*_rgb(colour), 200) for _, colour in ERRORS]
        drawn = ((_outline(reference), self.classes), (prediction, tinted), (errors, colours))
        return tuple(_uri("image/png", paletted(*one)) for one in drawn)


def palette(classes: int, background: int) -> NDArray[np.uint8]:
    """RGBA (256, 4): the classes above the background in their colours, everything else transparent."""
    table = np.zeros((256, 4), np.uint8)
    for index in range(background, classes):
        table[index] = (*_rgb(colour(index - background)), 255)
    return table


def colour(number: int) -> str:
    """Of a class above the background, by its number from 0, as #rrggbb; those after the seventh by golden angles."""
    if number < len(COLOURS):
        return COLOURS[number]
    red, green, blue = colorsys.hls_to_rgb((0.11 + number * 0.618034) % 1, (0.45, 0.65, 0.55)[number % 3], 0.7)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def names(question: Question) -> list[tuple[str, str]]:
    """Every class above the background with its colour."""
    return [(name, colour(number)) for number, name in enumerate(question.classes[question.background :])]


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


# -- planes --------------------------------------------------------------------------------------------


def _volume(
    image: Image, prediction: Labels, reference: Labels, drawn: _Drawn, focus: Sequence[int] | None, slices: int
) -> Iterator[Plane]:  # fmt: skip
    wrong = drawn.wrong(prediction, reference)
    telling = wrong if wrong.any() else prediction >= drawn.background
    picture_of = slices_of(image)
    for across in range(3):
        down, right = (axis for axis in range(3) if axis != across)
        size = image.shape[across]
        if across and 1 in (image.shape[down], image.shape[right]):
            continue  # a slice seen from its edge
        counts = telling.sum((down, right))
        peak = focus[across] if focus is not None else int(counts.argmax()) if counts.any() else size // 2
        spread = np.linspace(0, size - 1, min(size, slices)).round().astype(int)
        numbers = np.union1d(spread, [peak])
        frames = []
        for number in numbers:
            # upwards on the page is upwards in the body, or forwards
            cut = tuple(int(number) if a == across else slice(None, None, -1 if a == down else 1) for a in range(3))
            name = f"{'zyx'[across]} {number} of {size}"
            frames.append(_frame(name, picture_of(cut), prediction[cut], reference[cut], drawn, EDGE))
        tall = image.shape[down] * image.spacing[down] / (image.shape[right] * image.spacing[right])
        yield Plane("zyx"[across], tuple(frames), int(np.searchsorted(numbers, peak)), tall)


def _raster(
    image: Image, prediction: Labels, reference: Labels, drawn: _Drawn, focus: Sequence[int] | None
) -> Iterator[Plane]:  # fmt: skip
    rows, columns = image.shape
    step = max(1, -(-max(rows, columns) // WIDE))
    thin = (slice(None, None, step), slice(None, None, step))
    told = f"{rows} × {columns} pixels" + (f", every {step}th shown" if step > 1 else "")
    yield _window(told, image, prediction, reference, drawn, thin)
    if step > 1 or focus is not None:
        window = _around(focus, image.shape) if focus is not None else _worst(drawn.wrong(prediction, reference))
        told = f"rows {window[0].start} to {window[0].stop - 1}, columns {window[1].start} to {window[1].stop - 1}"
        yield _window(told, image, prediction, reference, drawn, window)


def _window(
    name: str, image: Image, prediction: Labels, reference: Labels, drawn: _Drawn, window: Box
) -> Plane:  # fmt: skip
    """A part of a raster, or the whole of it thinned out."""
    valid = None if image.valid is None else image.valid[window]
    part = Image(image.array[(slice(None), window[0], window[1])], image.spacing, valid)
    frame = _frame(name, shown(part), prediction[window], reference[window], drawn, WIDE)
    return Plane("", (frame,), 0, part.shape[0] * image.spacing[0] / (part.shape[1] * image.spacing[1]))


def _around(middle: Sequence[int], shape: tuple[int, ...]) -> Box:
    starts = [min(max(0, at - WIDE // 2), max(0, size - WIDE)) for at, size in zip(middle, shape, strict=True)]
    return tuple(slice(start, min(size, start + WIDE)) for start, size in zip(starts, shape, strict=True))


def _worst(wrong: Mask) -> Box:
    """The window with most errors, of those side by side."""
    parts = [
        (int(np.count_nonzero(wrong[row : row + WIDE, column : column + WIDE])), -row, -column)
        for row in range(0, wrong.shape[0], WIDE) for column in range(0, wrong.shape[1], WIDE)
    ]  # fmt: skip
    _, row, column = max(parts)
    return _around((-row + WIDE // 2, -column + WIDE // 2), wrong.shape)


def _frame(
    name: str, picture: NDArray[np.float32], prediction: Labels, reference: Labels, drawn: _Drawn, edge: int
) -> Frame:  # fmt: skip
    cut = tuple(slice(None, None, max(1, -(-size // edge))) for size in prediction.shape)
    return Frame(name, _jpeg(picture[cut]), drawn.layers(prediction[cut], reference[cut]))


def _outline(label: Labels) -> Labels:
    """The label where a pixel touches another class, IGNORE elsewhere."""
    ring = np.pad(label, 1, mode="edge")
    inner = np.ones(label.shape, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner &= ring[rows : rows + label.shape[0], columns : columns + label.shape[1]] == label
    return np.where(inner, IGNORE, label).astype(np.uint8)


# -- files ---------------------------------------------------------------------------------------------


def _jpeg(picture: NDArray[np.float32]) -> str:
    from PIL import Image as Picture

    opened = io.BytesIO()
    Picture.fromarray((picture * 255).astype(np.uint8)).save(opened, "JPEG", quality=QUALITY)
    return _uri("image/jpeg", opened.getvalue())


def paletted(indices: Labels, table: NDArray[np.uint8]) -> bytes:
    """A PNG of indices (y, x) into a table of RGBA (256, 4)."""
    from PIL import Image as Picture

    opened, picture = io.BytesIO(), Picture.fromarray(indices)
    picture.putpalette(table[:, :3].tobytes())
    picture.save(opened, "PNG", transparency=table[:, 3].tobytes())
    return opened.getvalue()


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (y, x) or (y, x, 3) as it is."""
    from PIL import Image as Picture

    opened = io.BytesIO()
    Picture.fromarray(picture).save(opened, "PNG", compress_level=1)
    return opened.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
