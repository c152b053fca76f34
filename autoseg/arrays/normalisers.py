"""Normalisers: (channel float32 (z, y, x), inside bool (z, y, x)) -> float32 (z, y, x), or (K, z, y, x).

Each is 0 where `inside` is False or the channel is not finite, and finite everywhere. One that makes several channels
says so in `outputs`; one whose values only shares or means may lie between names its own resampler in `resample`.

So that an image can be normalised in parts, one that treats every voxel by itself says `local`; one that wants the
`Moments` of the image has `moments(channel, inside)`, of a part, and `by(moments, channel, inside)`, which makes of a
part what is made of it in an image of those moments. One with neither is given whole images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.intensity import LEVELS
from autoseg.image import Mask
from autoseg.records import Intensity, Part

Channel = NDArray[np.float32]
_FLAT = 1e-8  # a spread below this share of the magnitude is rounding: float32 itself resolves 6e-8


@dataclass(frozen=True)
class Moments:
    """Of the values of a channel that count; those of an image are the sum of those of its parts."""

    count: int = 0
    mean: float = 0.0
    sd: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Moments:
        """Of finite values (N,)."""
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(values.size, mean, float((values - mean).std()), float(values.min()), float(values.max()))

    def __add__(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub and LeVeque, The American Statistician 37(3), 1983)."""
        count = self.count + other.count
        if not count:
            return self
        share, apart = other.count / count, other.mean - self.mean
        variance = self.sd**2 * (1 - share) + other.sd**2 * share + apart**2 * share * (1 - share)
        lowest, highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        return Moments(count, self.mean + apart * share, math.sqrt(variance), lowest, highest)

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.lowest), abs(self.highest)) if self.count else 0.0


@dataclass(frozen=True)
class ZScore:
    """Mean 0 and standard deviation 1 per image; a constant image becomes 0.

    Args:
        intensity: not used; every normaliser is given it.
        masked: take only the voxels that are not zero (skull-stripped MR); the others stay 0.
        clip: limit the result to ± this many standard deviations.
    """

    intensity: Intensity | None = None
    masked: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip {self.clip} is not above 0")

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        return self.by(self.moments(channel, inside), channel, inside)

    def _counted(self, channel: Channel, inside: Mask) -> Mask:
        where = _usable(channel, inside)
        return where & (channel != 0) if self.masked else where

    def moments(self, channel: Channel, inside: Mask) -> Moments:
        """Of the voxels that count."""
        return Moments.of(channel[self._counted(channel, inside)].astype(np.float64))

    def by(self, moments: Moments, channel: Channel, inside: Mask) -> Channel:
        """The part of an image that has those moments."""
        where = self._counted(channel, inside)
        values = channel[where].astype(np.float64)
        values -= moments.mean
        values = _divided(values, moments.sd, moments.magnitude)
        if self.clip is not None:
            np.clip(values, -self.clip, self.clip, out=values)
        return _placed(values, where)


@dataclass(frozen=True)
class ClipScale:
    """Clipped to [lower, upper], less `mean`, divided by `sd`: for units that mean the same in every image.

    Args:
        intensity: pooled over the training cases; gives what the options leave open: the percentiles 0.5
            and 99.5, the mean and the standard deviation.
        lower, upper, mean, sd: what a plan stores. An sd of 0 makes everything 0.

    Raises: ValueError when an option and `intensity` are both missing, or an option makes no sense.
    """

    local: ClassVar[bool] = True

    intensity: Intensity | None = None
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    sd: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.options().items():
            if value is None:
                raise ValueError(f"{name} is needed: no intensities were measured")
            if not math.isfinite(value):
                raise ValueError(f"{name} {value} is not finite")
        lower, upper, _, sd = self._numbers()
        if lower > upper or sd < 0:
            raise ValueError(f"lower {lower}, upper {upper}, sd {sd}: want lower <= upper and sd >= 0")

    def options(self) -> dict[str, float | None]:
        """lower, upper, mean and sd as they are used: what a plan stores."""
        measured: dict[str, float] = {}
        if self.intensity is not None:
            quantiles = dict(zip(LEVELS, self.intensity.quantiles, strict=True))
            measured = {"lower": quantiles[0.5], "upper": quantiles[99.5]}
            measured |= {"mean": self.intensity.mean, "sd": self.intensity.sd}
        given = {"lower": self.lower, "upper": self.upper, "mean": self.mean, "sd": self.sd}
        return {name: measured.get(name) if value is None else value for name, value in given.items()}

    def _numbers(self) -> tuple[float, float, float, float]:
        lower, upper, mean, sd = (float(value or 0) for value in self.options().values())
        return lower, upper, mean, sd

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        lower, upper, mean, sd = self._numbers()
        where = _usable(channel, inside)
        values = np.clip(channel[where].astype(np.float64), lower, upper) - mean
        return _placed(_divided(values, sd, max(abs(lower), abs(upper), abs(mean))), where)


@dataclass(frozen=True)
class Range:
    """[lower, upper] mapped to [0, 1]; what lies beyond is clipped. A constant image becomes 0.

    Args:
        intensity: not used; every normaliser is given it.
        lower, upper: None: the smallest and the largest value of each image.
    """

    intensity: Intensity | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"lower {self.lower} is not below upper {self.upper}")

    @property
    def local(self) -> bool:
        """Whether the plan gives both ends."""
        return self.lower is not None and self.upper is not None

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        return self.by(Moments() if self.local else self.moments(channel, inside), channel, inside)

    def moments(self, channel: Channel, inside: Mask) -> Moments:
        """Of the voxels that count."""
        return Moments.of(channel[_usable(channel, inside)].astype(np.float64))

    def by(self, moments: Moments, channel: Channel, inside: Mask) -> Channel:
        """The part of an image that has those moments."""
        where = _usable(channel, inside)
        values = channel[where].astype(np.float64)
        if not values.size:
            return np.zeros(channel.shape, dtype=np.float32)
        lower = moments.lowest if self.lower is None else self.lower
        upper = moments.highest if self.upper is None else self.upper
        values = np.clip(values, lower, max(lower, upper)) - lower
        return _placed(_divided(values, max(0.0, upper - lower), max(abs(lower), abs(upper))), where)


@dataclass(frozen=True)
class Keep:
    """The channel as it is."""

    local: ClassVar[bool] = True

    intensity: Intensity | None = None

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        where = _usable(channel, inside)
        return _placed(channel[where], where)


@dataclass(frozen=True)
class OneHot:
    """A channel per value, 1 where the image has it: for classes, whose numbers mean no amount.

    What has none of the values is 0 in all channels. Resampling makes shares of the classes of them.

    Args:
        values: those that get a channel, in this order.
        intensity: not used; every normaliser is given it.
    """

    local: ClassVar[bool] = True
    resample: ClassVar[Part] = Part(name="linear")  # a spline would leave 0 to 1

    values: Sequence[int]
    intensity: Intensity | None = None

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"values {[*self.values]}: want at least one, each once")

    @property
    def outputs(self) -> int:
        """How many channels it makes of one."""
        return len(self.values)

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        where = _usable(channel, inside)
        return np.stack([where & (channel == value) for value in self.values]).astype(np.float32)


@dataclass(frozen=True)
class Angle:
    """Sine and cosine, so that the two ends of the scale are one direction.

    Args:
        period: of a full turn in the image's unit: 360, 2π, or 180 where a direction and its opposite are the same.
        intensity: not used; every normaliser is given it.
    """

    local: ClassVar[bool] = True
    outputs: ClassVar[int] = 2
    resample: ClassVar[Part] = Part(name="linear")  # a spline would leave the circle

    period: float = 360.0
    intensity: Intensity | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.period) and self.period > 0):
            raise ValueError(f"period {self.period} is not above 0")

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        where = _usable(channel, inside)
        turned = np.mod(channel[where].astype(np.float64), self.period) * (2 * math.pi / self.period)
        return np.stack([_placed(function(turned), where) for function in (np.sin, np.cos)])


def _usable(channel: Channel, inside: Mask) -> Mask:
    where: Mask = np.isfinite(channel) & inside
    return where


def _divided(values: NDArray[np.float64], by: float, magnitude: float) -> NDArray[np.float64]:
    """`values` / `by`, in place; zeros when `by` is no more than the rounding of numbers of `magnitude`."""
    if by <= _FLAT * magnitude:
        values[:] = 0
    else:
        values /= by
    return values


def _placed(values: NDArray[Any], where: Mask) -> Channel:
    result = np.zeros(where.shape, dtype=np.float32)
    result[where] = values
    return result
