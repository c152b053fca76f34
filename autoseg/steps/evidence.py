"""What the values of a channel show: their range and unit, nodata that nobody declared, classes, directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from autoseg.arrays.intensity import percentile, pool, within
from autoseg.records import CaseFacts, Channel, Intensity, Values

TAILS = (0.5, 99.5)  # percent: what lies beyond may be outliers
UNITS = 1000.0  # images whose values differ by more than this factor are not in one unit
NODATA = {0.0, -9999.0, -32767.0, -32768.0}  # what files are filled with
INNER = slice(4, -4)  # of the quantiles: 5 to 95 %
MOST_CLASSES = 64
AIR, PADDING = -800.0, -3100.0  # HU; scanners pad with -1024, -2000, -2048 and -3024
TISSUE = (-200.0, 700.0)  # HU: fat to bone
TURNS = (
    (0.0, math.pi), (-math.pi / 2, math.pi / 2), (0.0, 2 * math.pi), (-math.pi, math.pi),
    (0.0, 180.0), (-90.0, 90.0), (0.0, 360.0), (-180.0, 180.0),
)  # fmt: skip
FILLED = 0.9  # share of a turn that directions must cover for its unit to be known
SLACK = 0.01  # of a turn: aspects have -1 for flat ground


@dataclass(frozen=True)
class Seen:
    """What was measured of a channel; tuples have an entry per case.

    Attributes:
        values: empty where those of a case were not measured.
        whole: whether all values are whole numbers.
        solid: whether the images are volumes.
        share: median share of an image that cropping its empty border leaves.
        number: of the channel.
    """

    channel: Channel
    number: int
    valid: tuple[Intensity, ...]
    foreground: tuple[Intensity, ...]
    values: tuple[Values, ...]
    whole: bool
    solid: bool
    share: float

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value of all; (0, 0) where nothing was measured."""
        if not self.valid:
            return 0.0, 0.0
        return min(case.quantiles[0] for case in self.valid), max(case.quantiles[-1] for case in self.valid)

    @property
    def single(self) -> bool:
        """Whether every image has one value in this channel, the same or not."""
        return bool(self.valid) and all(case.quantiles[0] == case.quantiles[-1] for case in self.valid)

    @property
    def distinct(self) -> tuple[int, ...] | None:
        """The values that occur, ascending; None where they are too many, no whole numbers or not measured."""
        found: set[int] = set()
        for case in self.values:
            if case.distinct is None:
                return None
            found |= {*case.distinct}
        return tuple(sorted(found)) if 0 < len(found) <= MOST_CLASSES else None


@dataclass(frozen=True)
class Filling:
    """A value that files are filled with, and the bounds between which all others lie."""

    value: float
    bounds: tuple[float, float]


def look(channel: Channel, number: int, facts: Sequence[CaseFacts]) -> Seen:
    """What the facts of the cases say of a channel."""
    values = tuple(v for f in facts if f.values and (v := f.values[number]) is not None)
    complete = len(values) == len(facts)
    stored = all(f.dtype and np.issubdtype(np.dtype(f.dtype), np.integer) for f in facts)
    return Seen(
        channel=channel,
        number=number,
        valid=tuple(i for f in facts if f.valid and (i := f.valid[number]) is not None),
        foreground=tuple(i for f in facts if f.foreground and (i := f.foreground[number]) is not None),
        values=values if complete else (),
        whole=all(v.whole for v in values) if complete else stored,
        solid=any(f.shape[0] > 1 for f in facts),
        share=float(np.median([prod(f.cropped) / prod(f.shape) for f in facts])),
    )


def nodata(seen: Seen) -> Filling | None:
    """The smallest or the largest value of all where it looks like what files are filled with; else None.

    It makes up half a percent of an image or more, and is one of NODATA or, where there are more values than a few,
    farther from the others than those are wide.
    """
    if not seen.valid:
        return None
    table = np.array([case.quantiles for case in seen.valid])
    for ends, sign in ((table, 1.0), (-table[:, ::-1], -1.0)):
        value = float(ends[:, 0].min())
        beside = np.pad(ends[:, :-1] == value, ((0, 0), (1, 0)))  # may lie between the value and the next larger one
        others = ends[:, INNER][(ends > value)[:, INNER] & ~beside[:, INNER]]
        if not others.size or not (ends[:, 1] == value).any():
            continue
        low, high = np.percentile(others, (5, 95))
        far = bool(value < low - (high - low) < low) and seen.distinct is None
        if far or sign * value in NODATA:
            fence = float(low - (high - low)) if far else math.nextafter(value, math.inf)
            return Filling(sign * value + 0.0, (fence, math.inf) if sign > 0 else (-math.inf, -fence))
    return None


def without(cases: Sequence[Intensity], filling: Filling | None) -> list[Intensity]:
    """The distributions of all values but what the files are filled with; those that have others."""
    if filling is None:
        return [*cases]
    return [kept for case in cases if (kept := within(case, *filling.bounds)) is not None]


def units_differ(cases: Sequence[Intensity]) -> bool:
    """Whether the images' values differ more in size than images of one unit would."""
    sizes = [size for case in cases if (size := max(abs(percentile(case, tail)) for tail in TAILS)) > 0]
    return bool(sizes) and max(sizes) > UNITS * min(sizes)


def is_hounsfield(seen: Seen) -> bool:
    """Whether these are Hounsfield units beyond doubt: volumes of whole numbers, much air, a foreground of tissue."""
    if not (seen.solid and seen.whole and seen.valid and seen.foreground):
        return False
    air = [case.quantiles[0] >= PADDING and percentile(case, 1) <= AIR for case in seen.valid]
    body = [percentile(case, 90) <= TISSUE[1] for case in seen.valid]
    return all(air) and all(body) and TISSUE[0] <= percentile(pool(seen.foreground), 50) <= TISSUE[1]


def turn(seen: Seen) -> float | None:
    """What a full turn is where the values are directions: the narrowest of TURNS that they fill; else None."""
    known = without(seen.valid, nodata(seen))
    low = min((case.quantiles[0] for case in known), default=0.0)
    high = max((case.quantiles[-1] for case in known), default=0.0)
    for start, stop in TURNS:
        width = stop - start
        radians_are_fractions = not (seen.whole and width < 10)
        held = start - SLACK * width <= low and high <= stop + SLACK * width
        if held and high - low >= FILLED * width and radians_are_fractions:
            return round(width, 6)
    return None
