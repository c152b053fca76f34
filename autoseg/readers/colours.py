"""Labels that are coded by colours: which colours there are, and which value each stands for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData
from autoseg.image import Array

BLACK = "#000000"
UNKNOWN = 1 << 24  # added to the 24 bits of a colour that stands for no value
MANY = 32  # more colours than this are no code of classes
SHOWN = 8


class ColourCoded(BadData):
    """A label whose colours are not said to stand for anything."""


def spelled(value: float) -> str:
    """A label's value as a user knows it: 7, 0.5, or the colour #3c1098 that stands for none."""
    return f"#{int(value) - UNKNOWN:06x}" if value >= UNKNOWN and float(value).is_integer() else f"{value:g}"


def packed(bands: Array) -> NDArray[np.int32]:
    """(3, y, x) uint8 as (y, x): 0xRRGGBB."""
    red, green, blue = (band.astype(np.int32) for band in bands)
    codes: NDArray[np.int32] = (red << 16) | (green << 8) | blue
    return codes


def values_of(bands: Array, colours: Mapping[str, int]) -> NDArray[np.int32]:
    """The values (y, x) that the colours (3, y, x) stand for; UNKNOWN + 0xRRGGBB for those that stand for none."""
    codes = packed(bands)
    known = {int(colour[1:], 16): value for colour, value in colours.items()}
    keys = np.array(sorted(known), dtype=np.int32)
    values = np.array([known[key] for key in sorted(known)], dtype=np.int32)
    at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    return np.where(keys[at] == codes, values[at], codes + UNKNOWN).astype(np.int32)


def counted(bands: Array) -> dict[str, int]:
    """The pixels of every colour in (3, y, x) uint8, the most frequent first."""
    codes, counts = np.unique(packed(bands), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {f"#{codes[place]:06x}": int(counts[place]) for place in order}


def labels_map(colours: Mapping[str, int]) -> str:
    """A `--labels-map` that reads those colours, with names to be replaced."""
    names = [f"class_{number}" for number, _ in enumerate(colours, 1)]
    return ",".join(f"{c}={'background' if c == BLACK else name}" for c, name in zip(colours, names, strict=True))


def remedy(colours: Mapping[str, int]) -> str:
    """What to do about a label of these colours."""
    if len(colours) > MANY:
        return "save the masks without smoothing and not as JPEG, so that every class has one colour"
    return f"name the colours in `autoseg add`: --labels-map '{labels_map(colours)}' (background=0, ignore=left out)"


def refusal(colours: Mapping[str, int], where: str) -> ColourCoded:
    """The error for a label of these colours, with their pixels."""
    shown = ", ".join(f"{colour} ({pixels} pixels)" for colour, pixels in list(colours.items())[:SHOWN])
    more = f" and {len(colours) - SHOWN} more" if len(colours) > SHOWN else ""
    return ColourCoded(
        f"a label of 3 bands that differ, in {len(colours)} colours: {shown}{more}",
        where=where,
        expected="one band of class values",
        remedy=remedy(colours),
    )
