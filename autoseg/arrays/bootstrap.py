"""How far a mean over cases may be off: intervals by drawing groups of cases again (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS, LEVEL = 2000, 0.95


def redrawn(
    values: NDArray[np.float64], groups: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """The mean over the columns' means, once for each draw of as many groups with replacement.

    Cases of one group (a patient, a scene) are drawn together, as they are no independent evidence.

    Args:
        values: (cases, columns), NaN where a case does not count; a column may be a class.
        groups: which each case belongs to.

    Returns: (draws,); NaN for a draw in which nothing counts.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    of = np.array([numbers[group] for group in groups], np.int64)
    known = np.isfinite(values)
    sums, counts = (np.zeros((len(numbers), values.shape[1])) for _ in range(2))
    np.add.at(sums, of, np.where(known, values, 0.0))
    np.add.at(counts, of, known.astype(np.float64))
    drawn = _drawn(len(numbers), draws, seed)
    total, seen = drawn @ sums, drawn @ counts
    means = np.divide(total, seen, out=np.full_like(total, np.nan), where=seen > 0)
    columns = np.isfinite(means).sum(1)
    whole: NDArray[np.float64] = np.divide(
        np.nansum(means, axis=1), columns, out=np.full(draws, np.nan), where=columns > 0
    )
    return whole


def interval(
    values: NDArray[np.float64], groups: Sequence[Hashable], level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float] | None:
    """The percentile interval of the mean that `redrawn` draws; None with fewer than two groups that count."""
    counts = {group for group, row in zip(groups, values, strict=True) if np.isfinite(row).any()}
    if len(counts) < 2:
        return None
    found = redrawn(values, groups, draws, seed)
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=2)
def _drawn(groups: int, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws, groups): how often each group is drawn."""
    counts = np.random.default_rng(seed).multinomial(groups, [1 / groups] * groups, size=draws)
    return counts.astype(np.float64)
