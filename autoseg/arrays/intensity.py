"""Intensities: what is measured of a channel, pooled over cases, cut and clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.records import Intensity

LEVELS = (0.0, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 100.0)  # percent

_GRID = np.linspace(0, 100, 201)  # holds every one of LEVELS, so that pooling one case changes nothing


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


def percentile(intensity: Intensity, percent: float) -> float:
    """The value that `percent` of the voxels lie below; straight between LEVELS."""
    return float(np.interp(percent, LEVELS, intensity.quantiles))


def within(intensity: Intensity, low: float, high: float) -> Intensity | None:
    """The distribution of the values from `low` to `high` alone, as the quantiles tell it; None where there are none.

    What lies between the last quantile beyond a bound and the first within it is not known, and left out.
    """
    kept = [(level, q) for level, q in zip(LEVELS, intensity.quantiles, strict=True) if low <= q <= high]
    if len(kept) in (0, len(LEVELS)):
        return intensity if kept else None
    levels, quantiles = (np.array(column) for column in zip(*kept, strict=True))
    return _spelled(np.interp(np.linspace(levels[0], levels[-1], len(_GRID)), levels, quantiles))


def clipped(intensity: Intensity, lower: float, upper: float) -> Intensity:
    """The distribution of the values clipped to [lower, upper], as the quantiles tell it: free of outliers."""
    return _spelled(np.clip(np.interp(_GRID, LEVELS, intensity.quantiles), lower, upper))


def _spelled(steps: NDArray[np.float64]) -> Intensity:
    """The distribution whose quantile function is `steps` at equal distances."""
    quantiles = tuple(float(q) for q in np.percentile(steps, LEVELS))
    middles = (steps[1:] + steps[:-1]) / 2
    return Intensity(mean=float(middles.mean()), sd=float(middles.std()), quantiles=quantiles)
