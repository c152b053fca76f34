"""A case as layers of small pictures: image, reference, prediction and where they differ, slice by slice."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.image import IGNORE, Image
from autoseg.steps.outputs import shown
from autoseg.steps.sheet import COLOURS

EDGE, SLICES, QUALITY = 200, 24, 62  # pixels of a picture, slices along an axis, of JPEG
LAYERS = ("reference", "prediction", "error")
MISSED, INVENTED, CONFUSED = (0, 114, 178), (213, 94, 0), (204, 121, 167)  # Okabe and Ito, 2008
ERRORS = tuple(
    (name, "#{:02x}{:02x}{:02x}".format(*colour))
    for name, colour in (("missed", MISSED), ("invented", INVENTED), ("another class", CONFUSED))
)
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
    image: Image, prediction: Labels, reference: Labels, focus: Sequence[int] | None = None
) -> list[Plane]:  # fmt: skip
    """The slices across every axis of a volume, or a raster as it is.

    Args:
        prediction, reference: class indices (*S); the reference is IGNORE where nothing counts.
        focus: the voxel that is shown first; None for the slices with most errors.
    """
    if prediction.ndim == 2:
        return [*_raster(image, prediction, reference)]
    return [*_volume(image, prediction, reference, focus)]


def _volume(
    image: Image, prediction: Labels, reference: Labels, focus: Sequence[int] | None
) -> Iterator[Plane]:  # fmt: skip

    wrong = (prediction != reference) & (reference != IGNORE)
    telling = wrong if wrong.any() else prediction > 0
    picture = shown(image)
    for across in range(3):
        down, right = (axis for axis in range(3) if axis != across)
        size = image.shape[across]
        numbers = np.unique(np.linspace(0, size - 1, min(size, SLICES)).round().astype(int))
        frames = []
        for number in numbers:
            # upwards on the page is upwards in the body, or forwards
            cut = tuple(int(number) if a == across else slice(None, None, -1 if a == down else 1) for a in range(3))
            name = f"{'zyx'[across]} {number} of {size}"
            frames.append(_frame(name, picture[cut], prediction[cut], reference[cut]))
        counts = telling.sum((down, right))[numbers]
        first = int(counts.argmax()) if counts.any() else len(numbers) // 2
        if focus is not None:
            first = int(np.abs(numbers - focus[across]).argmin())
        pixel = image.spacing[down] / image.spacing[right]
        yield Plane("zyx"[across], tuple(frames), first, image.shape[down] * pixel / image.shape[right])


def _raster(image: Image, prediction: Labels, reference: Labels) -> Iterator[Plane]:
    frame = _frame(f"{image.shape[0]} × {image.shape[1]} pixels", shown(image), prediction, reference, 3 * EDGE)
    tall = image.shape[0] * image.spacing[0] / (image.shape[1] * image.spacing[1])
    yield Plane("", (frame,), 0, tall)


def _frame(
    name: str, picture: NDArray[np.float32], prediction: Labels, reference: Labels, edge: int = EDGE
) -> Frame:  # fmt: skip
    step = max(1, -(-max(prediction.shape) // edge))
    picture, prediction, reference = picture[::step, ::step], prediction[::step, ::step], reference[::step, ::step]
    layers = (_outlined(reference), tinted(prediction, 115), _errors(prediction, reference))
    return Frame(name, _jpeg(picture), tuple(_png(layer) for layer in layers))


def colour(index: int) -> tuple[int, int, int]:
    """Of a class above the background, as in all pictures of labels."""
    text = COLOURS[(index - 1) % len(COLOURS)].lstrip("#")
    red, green, blue = (int(text[at : at + 2], 16) for at in (0, 2, 4))
    return red, green, blue


def _outlined(label: Labels) -> NDArray[np.uint8]:
    """RGBA: the pixels of every class that touch another one."""
    ring = np.pad(label, 1, mode="edge")
    inner = np.ones(label.shape, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner &= ring[rows : rows + label.shape[0], columns : columns + label.shape[1]] == label
    return _painted(np.where(inner | (label == IGNORE), 0, label).astype(np.uint8), 255)


def tinted(label: Labels, alpha: int = 255) -> NDArray[np.uint8]:
    """RGBA: every class above the background in its colour."""
    return _painted(label, alpha)


def _painted(label: Labels, alpha: int) -> NDArray[np.uint8]:
    table = np.zeros((256, 4), np.uint8)
    for index in np.unique(label):
        if 0 < index < IGNORE:
            table[index] = (*colour(int(index)), alpha)
    return table[label]


def _errors(prediction: Labels, reference: Labels) -> NDArray[np.uint8]:
    """RGBA: what was missed, what was invented, what was taken for another class."""
    wrong = (prediction != reference) & (reference != IGNORE)
    made = np.zeros((*prediction.shape, 4), np.uint8)
    made[wrong & (prediction == 0)] = (*MISSED, 200)
    made[wrong & (reference == 0)] = (*INVENTED, 200)
    made[wrong & (prediction > 0) & (reference > 0)] = (*CONFUSED, 200)
    return made


def _jpeg(picture: NDArray[np.float32]) -> str:
    from PIL import Image as Picture

    opened = io.BytesIO()
    Picture.fromarray((picture * 255).astype(np.uint8)).save(opened, "JPEG", quality=QUALITY)
    return _uri("image/jpeg", opened.getvalue())


def _png(layer: NDArray[np.uint8]) -> str:
    """Few colours in few bytes."""
    from PIL import Image as Picture

    opened = io.BytesIO()
    Picture.fromarray(layer).quantize(method=Picture.Quantize.FASTOCTREE).save(opened, "PNG", optimize=True)
    return _uri("image/png", opened.getvalue())


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (y, x), (y, x, 3) or (y, x, 4) as it is."""
    from PIL import Image as Picture

    opened = io.BytesIO()
    Picture.fromarray(picture).save(opened, "PNG", compress_level=1)
    return opened.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def names(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Every class above the background with its colour as #rrggbb."""
    return [(name, "#{:02x}{:02x}{:02x}".format(*colour(index))) for index, name in enumerate(classes) if index]
