"""How far a mean over cases may be off: intervals by drawing groups of cases again (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS, LEVEL = 2000, 0.95
Bounds = tuple[float, float]


def drawn_means(
    values: NDArray[np.float64], groups: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """The mean of every column, once for each draw of as many groups with replacement.

    Cases of one group (a patient, a scene) are drawn together, as they are no independent evidence.

    Args:
        values: (cases, columns), NaN where a case does not count; a column may be a class.
        groups: which each case belongs to.

    Returns: (draws, columns); NaN for a draw in which nothing of a column counts.
    """
    known = np.isfinite(values)
    total = drawn_sums(np.where(known, values, 0.0), groups, draws, seed)
    seen = drawn_sums(known.astype(np.float64), groups, draws, seed)
    means: NDArray[np.float64] = np.divide(total, seen, out=np.full_like(total, np.nan), where=seen > 0)
    return means


def drawn_sums(
    values: NDArray[np.float64], groups: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """The sum of every column of `values` (cases, columns), as `drawn_means` draws: (draws, columns)."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(numbers), values.shape[1]))
    np.add.at(sums, [numbers[group] for group in groups], values)
    total: NDArray[np.float64] = _drawn(len(numbers), draws, seed) @ sums
    return total


def redrawn(
    values: NDArray[np.float64], groups: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """The mean over the columns' `drawn_means`, (draws,); NaN for a draw in which nothing counts."""
    means = drawn_means(values, groups, draws, seed)
    columns = np.isfinite(means).sum(1)
    whole: NDArray[np.float64] = np.divide(
        np.nansum(means, axis=1), columns, out=np.full(draws, np.nan), where=columns > 0
    )
    return whole


def interval(
    values: NDArray[np.float64], groups: Sequence[Hashable], level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Bounds | None:
    """The percentile interval of the mean that `redrawn` draws; None with fewer than two groups that count."""
    return bounds(redrawn(values, groups, draws, seed), level) if evidence(values, groups) > 1 else None


def intervals(
    values: NDArray[np.float64], groups: Sequence[Hashable], level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> list[Bounds | None]:
    """As `interval`, of every column by itself."""
    if len(set(groups)) < 2:
        return [None] * values.shape[1]
    means = drawn_means(values, groups, draws, seed)
    columns = range(values.shape[1])
    return [bounds(means[:, n], level) if evidence(values[:, n : n + 1], groups) > 1 else None for n in columns]


def evidence(values: NDArray[np.float64], groups: Sequence[Hashable]) -> int:
    """How many groups have a case that counts."""
    counts = np.isfinite(values).any(1)
    return len({groups[int(at)] for at in np.flatnonzero(counts)})


def bounds(means: NDArray[np.float64], level: float = LEVEL) -> Bounds:
    """Between which values that share of them lies; NaN is left out."""
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=2)
def _drawn(groups: int, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws, groups): how often each group is drawn."""
    counts = np.random.default_rng(seed).multinomial(groups, [1 / groups] * groups, size=draws)
    return counts.astype(np.float64)
