"""What the training images were like, and whether a new one is like them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import crop
from autoseg.arrays.intensity import percentile, pool
from autoseg.image import Image
from autoseg.records import Channel, Fingerprint, Intensity, Question, Seen, SeenChannel, Span
from autoseg.steps import preprocess

LOOKED_AT = 1_000_000  # values of an image
FAR = 1.5  # times beyond the training spacings
LEVELS = {"low": 0.5, "middle": 50.0, "high": 99.5}  # percent
MARGIN = 1 / 3  # of the training values' spread, that a level may lie beyond them
SCALE = 4.0  # times beyond the training values' upper end, that another scale begins
MEANINGFUL = {"ct": " HU", "db": " dB", "reflectance": "", "rgb": ""}  # kinds with one unit, and how it is written
SCALED = {"reflectance", "rgb"}  # kinds whose values begin at zero


def seen_of(fingerprint: Fingerprint, question: Question) -> Seen | None:
    """What the images that can be trained on were like, without any of them; None where there is none."""
    facts = list(fingerprint.usable.values())
    if not facts:
        return None
    axes = [1, 2] if fingerprint.flat else [0, 1, 2]
    spacing = tuple(_span(one.spacing[axis] for one in facts) for axis in axes)
    orientations = tuple(sorted({one.orientation for one in facts} - {""}))
    lengths = not fingerprint.flat or bool(orientations)
    unspaced = all(span.least == span.most == 1 for span in spacing)
    channels = []
    for number in range(len(question.channels)):
        valid = [one.valid[number] for one in facts if number < len(one.valid)]
        foreground = [one.foreground[number] for one in facts if number < len(one.foreground)]
        channels.append(_channel([one for one in valid if one], [one for one in foreground if one]))
    return Seen(
        cases=len(facts), flat=fingerprint.flat, unit="mm" if lengths else "pixels" if unspaced else "m",
        spacing=spacing, orientations=orientations, channels=tuple(channels),
    )  # fmt: skip


def _channel(valid: Sequence[Intensity], foreground: Sequence[Intensity]) -> SeenChannel:
    if not valid:
        return SeenChannel()
    spans = {name: _span(percentile(one, level) for one in valid) for name, level in LEVELS.items()}
    return SeenChannel(
        valid=pool(valid), foreground=pool(foreground) if foreground else None, low=spans["low"],
        middle=spans["middle"], high=spans["high"], constant=any(one.sd == 0 for one in valid),
    )  # fmt: skip


def _span(values: Iterable[float]) -> Span:
    found = sorted(values)
    return Span(least=found[0], median=float(np.median(found)), most=found[-1])


# -- a new image ---------------------------------------------------------------------------------------


def unlike(image: Image, seen: Seen, question: Question) -> tuple[str, ...]:
    """In what an image lies far from the training images, a sentence each; nothing where it does not.

    Looks at the spacing; at the values where their kind has one unit (CT, dB, reflectance, colours), and elsewhere at
    whether there is more than one. A million values are looked at, whatever the image's size.
    """
    return (*_spacing(image, seen), *_values(image, seen, question))


def _spacing(image: Image, seen: Seen) -> Iterator[str]:
    if seen.unit == "pixels":
        return
    common = min(len(image.spacing), len(seen.spacing))  # one slice says nothing of the distance between slices
    spans = seen.spacing[-common:]
    for axis, here, span in zip("zyx"[-common:], image.spacing[-common:], spans, strict=True):
        if here > FAR * span.most or here < span.least / FAR:
            had = f"{_number(span.least)} to {_number(span.most)}"
            if span.least == span.most:
                had = _number(span.most)
            yield f"spacing along {axis} is {_number(here)} {seen.unit}, that of the training images {had}"


def _values(image: Image, seen: Seen, question: Question) -> Iterator[str]:
    for values, channel, known in zip(_sampled(image, question), question.channels, seen.channels, strict=True):
        if not values.size or known.valid is None:
            continue
        if channel.kind not in ("categorical", "angle") and not known.constant and values.min() == values.max():
            yield f"channel {channel.name} has one value only, {_number(values[0])}"
        elif channel.kind in MEANINGFUL and (said := _levels(values, channel, known)):
            yield said


def _levels(values: NDArray[np.float64], channel: Channel, known: SeenChannel) -> str:
    """How the values differ from those of the training images; "" where they do not."""
    assert known.valid is not None and known.low is not None and known.middle is not None and known.high is not None
    spans = {"low": known.low, "middle": known.middle, "high": known.high}
    found = dict(zip(LEVELS, np.percentile(values, [*LEVELS.values()]).tolist(), strict=True))
    ends = [percentile(known.valid, LEVELS[name]) for name in ("low", "high")]
    margin = max(MARGIN * (ends[1] - ends[0]), 1e-6 * max(map(abs, ends)))
    # the farthest first
    away = {name: max(span.least - found[name], found[name] - span.most) for name, span in spans.items()}
    name = max(away, key=lambda name: away[name])
    if away[name] <= margin:
        name = "high" if channel.kind in SCALED and _other_scale(found["high"], known.high) else ""
    if not name:
        return ""
    span, unit = spans[name], MEANINGFUL[channel.kind]
    had = f"{_number(span.least)} to {_number(span.most)}{unit}"
    hint = ""
    if channel.kind == "ct" and found["low"] > known.low.most + margin and values.min() >= 0 > known.low.most:
        hint = "; no value is below 0: is the offset to Hounsfield units missing?"
    elif channel.kind in SCALED and _other_scale(found["high"], known.high):
        hint = "; are they scaled differently?"
    what = f"the {LEVELS[name]:g}th percentile" if name != "middle" else "the median"
    return f"{what} of channel {channel.name} is {_number(found[name])}{unit}, that of the training images {had}{hint}"


def _other_scale(here: float, span: Span) -> bool:
    """Whether the upper end of the values is several times farther from zero than any before, or nearer to it."""
    return span.least > 0 and not span.least / SCALE <= here <= span.most * SCALE


def _sampled(image: Image, question: Question) -> list[NDArray[np.float64]]:
    """Of every channel some of the valid finite values, inside the box that is looked at when a task is measured."""
    step = _stride(image.shape, LOOKED_AT // max(1, image.channels))
    grid = (slice(None, None, step),) * len(image.shape)
    index: tuple[slice, ...] = (slice(None), *grid)
    array = image.array[index]
    valid = None if image.valid is None else image.valid[grid]
    box = preprocess.box_of(array, valid, question, flat=len(image.shape) == 2)
    array, valid = crop(array, box), None if valid is None else crop(valid, box)
    channels = [(channel if valid is None else channel[valid]).astype(np.float64).ravel() for channel in array]
    return [values[np.isfinite(values)] for values in channels]


def _stride(shape: Sequence[int], most: int) -> int:
    """The smallest step along every axis that leaves at most so many voxels."""
    step = max(1, math.floor(math.pow(math.prod(shape) / max(1, most), 1 / len(shape))))
    while math.prod(-(-size // step) for size in shape) > max(1, most):
        step += 1
    return step


def _number(value: float) -> str:
    return f"{value:.4g}"
