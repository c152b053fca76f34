"""Intensities: what is measured of a channel, pooled over cases, and normalised by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.image import Mask
from autoseg.records import Intensity

LEVELS = (0.0, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 100.0)  # percent

Channel = NDArray[np.float32]
_GRID = np.linspace(0, 100, 201)  # holds every one of LEVELS, so that pooling one case changes nothing
_FLAT = 1e-8  # a spread below this share of the magnitude is rounding: float32 itself resolves 6e-8


def describe(values: NDArray[Any], limit: int = 100_000) -> Intensity | None:
    """Mean, standard deviation (of the population) and quantiles at LEVELS; None when there is no value.

    Args:
        values: (N,), finite, any real dtype.
        limit: more values than this are thinned to every k-th, always the same ones.
    """
    if limit < 1:
        raise ValueError(f"limit {limit} is not at least 1")
    if not values.size:
        return None
    sample = values[:: math.ceil(values.size / limit)].astype(np.float64)
    quantiles = tuple(float(q) for q in np.percentile(sample, LEVELS))
    return Intensity(mean=float(sample.mean()), sd=float(sample.std()), quantiles=quantiles)


def pool(intensities: Iterable[Intensity]) -> Intensity:
    """The distribution over all cases, in which each case weighs the same whatever its size.

    The variance is the mean variance within cases plus the variance between their means; the quantiles
    are those of all cases' quantile functions, each read at 201 equal steps.

    Raises: ValueError when there is no case.
    """
    cases = list(intensities)
    if not cases:
        raise ValueError("no intensities to pool")
    means = np.array([case.mean for case in cases])
    variances = np.array([case.sd for case in cases]) ** 2
    steps = np.concatenate([np.interp(_GRID, LEVELS, case.quantiles) for case in cases])
    return Intensity(
        mean=float(means.mean()),
        sd=math.sqrt(float(variances.mean() + means.var())),
        quantiles=tuple(float(q) for q in np.percentile(steps, LEVELS)),
    )


# -- normalisers: (channel float32 (z, y, x), inside bool (z, y, x)) -> float32 (z, y, x) ---------------
# Each is 0 where `inside` is False or the channel is not finite, and finite everywhere.


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
        where = _usable(channel, inside)
        if self.masked:
            where &= channel != 0
        values = channel[where].astype(np.float64)
        if not values.size:
            return np.zeros(channel.shape, dtype=np.float32)
        magnitude = float(np.abs(values).max())
        values -= values.mean()
        values = _divided(values, float(values.std()), magnitude)
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

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        where = _usable(channel, inside)
        values = channel[where].astype(np.float64)
        if not values.size:
            return np.zeros(channel.shape, dtype=np.float32)
        lower = float(values.min()) if self.lower is None else self.lower
        upper = float(values.max()) if self.upper is None else self.upper
        values = np.clip(values, lower, max(lower, upper)) - lower
        return _placed(_divided(values, max(0.0, upper - lower), max(abs(lower), abs(upper))), where)


@dataclass(frozen=True)
class Keep:
    """The channel as it is."""

    intensity: Intensity | None = None

    def __call__(self, channel: Channel, inside: Mask) -> Channel:
        where = _usable(channel, inside)
        return _placed(channel[where], where)


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
