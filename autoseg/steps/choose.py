"""Which model of several is taken, by predictions of cases that none of its networks had seen."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.bootstrap import LEVEL, evidence, interval, redrawn

Scores = NDArray[np.float64]  # (cases, classes); NaN where a class does not count


@dataclass(frozen=True)
class Row:
    """One model of the comparison.

    Attributes:
        dice: mean over the classes of the means over the cases; interval: of 95 %, over groups of cases.
        behind: by how much its Dice is below the best one's; apart: the interval of that.
        cost: of a prediction, in units of its own; only the order counts.
    """

    name: str
    dice: float
    interval: tuple[float, float] | None
    behind: float
    apart: tuple[float, float] | None
    cost: float

    @property
    def worse(self) -> bool:
        """Whether it is shown to be worse than the best one: the whole interval lies above 0.

        Without an interval (fewer than two groups that count) nothing is shown.
        """
        return self.apart is not None and self.apart[0] > 0


@dataclass(frozen=True)
class Verdict:
    """The model that is taken, the comparison, and what the way of choosing is worth.

    `nested` is the Dice of the models that are taken when, fold by fold, the choice is made on the other folds and
    counted on this one: what choosing brings without what it fits. None with a single fold.
    """

    name: str
    rows: tuple[Row, ...]
    nested: float | None

    @property
    def row(self) -> Row:
        """Of the model that is taken."""
        return next(row for row in self.rows if row.name == self.name)


def choose(
    scores: Mapping[str, Scores], costs: Mapping[str, float], groups: Sequence[Hashable], folds: Sequence[int]
) -> Verdict:
    """The cheapest model that is not shown to be worse than the one with the highest Dice.

    Args:
        scores: Dice of every model on the same cases.
        costs: what a prediction takes; groups: of the cases, whose like are drawn together; folds: where each case was
            held out.
    """
    rows = compared(scores, costs, groups)
    return Verdict(_taken(rows), rows, _nested(scores, costs, groups, np.asarray(folds)))


def compared(scores: Mapping[str, Scores], costs: Mapping[str, float], groups: Sequence[Hashable]) -> tuple[Row, ...]:
    """All models beside the best one, by Dice, the best first."""
    dice = {name: mean_dice(values) for name, values in scores.items()}
    order = sorted(scores, key=lambda name: (-dice[name], costs[name]))
    best = order[0]
    draws = {name: redrawn(scores[name], groups) for name in order}
    rows = []
    for name in order:
        apart = None
        if evidence(np.where(np.isfinite(scores[best]), scores[name], np.nan), groups) > 1:
            low, high = np.nanquantile(draws[best] - draws[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            apart = float(low), float(high)
        rows.append(
            Row(name, dice[name], interval(scores[name], groups), dice[best] - dice[name], apart, costs[name])
        )  # fmt: skip
    return tuple(rows)


def mean_dice(scores: Scores) -> float:
    """The mean over the classes of the means over the cases that count; 0 where none does."""
    known = np.isfinite(scores)
    counts = known.sum(0)
    means = np.where(known, scores, 0.0).sum(0)[counts > 0] / counts[counts > 0]
    return float(means.mean()) if means.size else 0.0


def _taken(rows: Sequence[Row]) -> str:
    return min((row for row in rows if not row.worse), key=lambda row: (row.cost, -row.dice)).name


def _nested(
    scores: Mapping[str, Scores], costs: Mapping[str, float], groups: Sequence[Hashable], folds: NDArray[np.int64]
) -> float | None:
    if len(set(folds.tolist())) < 2:
        return None
    outside = np.full_like(next(iter(scores.values())), np.nan)
    for fold in sorted(set(folds.tolist())):
        others, here = np.flatnonzero(folds != fold), folds == fold
        rows = compared(
            {name: values[others] for name, values in scores.items()}, costs, [groups[int(n)] for n in others]
        )
        outside[here] = scores[_taken(rows)][here]
    return mean_dice(outside)
