"""Which case a sample is cut from: any, or those with rare classes or large losses more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LAG = 8  # steps whose losses are not yet looked at: batches are drawn ahead of the step that is computed
KEPT = 0.7  # of a case's mean loss, when the next loss comes


class Sampling(Protocol):
    """How often each case is drawn."""

    every: int
    """Steps after which the weights change; 0 where they never do."""

    def weights(self, losses: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """(n,) weights above 0 from the cases' mean losses, NaN where none is known; None draws all alike."""
        ...


class Uniform:
    """Draws all cases alike, with replacement."""

    every = 0

    def weights(self, losses: NDArray[np.float64]) -> None:
        """All alike."""


class Balanced:
    """Draws cases with rare classes more often: as many times as there are cases to one that holds the class.

    The rarest class of a case counts, and `most` is the largest weight.
    """

    every = 0

    def __init__(self, present: Sequence[AbstractSet[int]], most: float = 4.0) -> None:
        self.rarity = _rarity(present, _at_least_one("most", most))

    def weights(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 to `most`."""
        return self.rarity


class Hard:
    """Draws cases with large losses more often: the hardest `ratio` times as often as the easiest, by rank between.

    Every `every` steps the weights follow the mean losses of the batches that the cases were in; cases not yet drawn
    count as the hardest. `most` above 1 draws cases with rare classes more often as well, as `balanced` does.
    """

    def __init__(
        self, present: Sequence[AbstractSet[int]], ratio: float = 3.0, every: int = 250, most: float = 1.0
    ) -> None:
        if every < 2 * LAG:
            raise ValueError(f"every is {every}, not at least {2 * LAG}")
        self.ratio, self.every = _at_least_one("ratio", ratio), every
        self.rarity = _rarity(present, _at_least_one("most", most))

    def weights(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 to `ratio`, times the weights of rare classes."""
        hardness = np.ones(len(losses))
        known = np.flatnonzero(~np.isnan(losses))
        if len(known) > 1:
            order = np.argsort(losses[known], kind="stable")
            hardness[known[order]] = np.linspace(0, 1, len(known))
        weights: NDArray[np.float64] = (1 + (self.ratio - 1) * hardness) * self.rarity
        return weights


def _at_least_one(name: str, value: float) -> float:
    if value < 1:
        raise ValueError(f"{name} is {value}, not at least 1")
    return value


def _rarity(present: Sequence[AbstractSet[int]], most: float) -> NDArray[np.float64]:
    """Per case the number of cases to one that holds the rarest of its classes, at most `most`, 1 for no class."""
    counts: dict[int, int] = {}
    for classes in present:
        for index in classes:
            counts[index] = counts.get(index, 0) + 1
    rarest = [max((len(present) / counts[index] for index in classes), default=1.0) for classes in present]
    return np.array([min(rarity, most) for rarity in rarest])


class Chooser:
    """Draws the cases of a run's samples.

    Where the weights follow the losses they change at fixed steps only, from losses that are at least LAG steps old
    then, so that the same losses give the same cases again.
    """

    def __init__(self, sampling: Sampling, cases: int) -> None:
        self.sampling, self.count, self.every = sampling, cases, sampling.every
        self._means = {0: np.full(cases, np.nan)}  # by period
        self._bounds: dict[int, NDArray[np.float64] | None] = {}
        self._drawn: dict[int, tuple[int, ...]] = {}
        self._losses: dict[int, float] = {}

    def pick(self, step: int, rng: np.random.Generator) -> int:
        """A case for a sample of a step; the first number that is drawn for it."""
        bounds = self._bounds_at(step // self.every if self.every else 0)
        if bounds is None:
            return int(rng.integers(self.count))
        return min(int(np.searchsorted(bounds, rng.random(), side="right")), self.count - 1)

    def drawn(self, step: int, cases: Sequence[int]) -> None:
        """Notes the cases of the whole batch of a step."""
        if self.every:
            self._drawn[step] = tuple(cases)

    def tell(self, step: int, loss: float) -> None:
        """Notes the loss of a step, NaN for one that was skipped."""
        if self.every:
            self._losses[step] = round(loss, 6)  # as it is logged

    def _bounds_at(self, period: int) -> NDArray[np.float64] | None:
        if period not in self._bounds:
            weights = self.sampling.weights(self._means_at(period))
            self._bounds[period] = None if weights is None else np.cumsum(weights) / np.sum(weights)
            self._forget(period)
        return self._bounds[period]

    def _means_at(self, period: int) -> NDArray[np.float64]:
        """The mean losses that the weights of a period follow."""
        if period not in self._means:
            means = self._means_at(period - 1).copy()
            for step in range((period - 1) * self.every - LAG, period * self.every - LAG):
                loss = self._losses.get(step, np.nan)
                for case in self._drawn.get(step, ()) if not np.isnan(loss) else ():
                    means[case] = loss if np.isnan(means[case]) else KEPT * means[case] + (1 - KEPT) * loss
            self._means[period] = means
        return self._means[period]

    def _forget(self, period: int) -> None:
        """What no period from the one before on looks at."""
        for table in (self._means, self._bounds):
            for old in [key for key in list(table) if key < period - 1]:
                table.pop(old)
        for steps in (self._drawn, self._losses):
            for step in [step for step in list(steps) if step < (period - 1) * self.every - LAG]:
                steps.pop(step)

    def tensors(self, step: int) -> dict[str, Tensor]:
        """What a run that goes on at `step` has to know; empty where the losses do not matter."""
        if not self.every:
            return {}
        period = step // self.every
        means = self._means_at(period)
        steps = [s for s in sorted(self._losses) if period * self.every - LAG <= s < step]
        return {
            "means": torch.from_numpy(means.copy()),
            "steps": torch.tensor(steps, dtype=torch.int64),
            "losses": torch.tensor([self._losses[s] for s in steps], dtype=torch.float64),
            "cases": torch.tensor([self._drawn[s] for s in steps], dtype=torch.int64),
        }

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Goes on at `step` from `tensors`. Raises: ValueError where they are of other cases; KeyError."""
        if not self.every:
            return
        means = tensors["means"].numpy().astype(np.float64)
        if means.shape != (self.count,):
            raise ValueError(f"the losses of {len(means)} cases are not those of {self.count}")
        self._means, self._bounds = {step // self.every: means}, {}
        steps = tensors["steps"].tolist()
        self._losses = dict(zip(steps, tensors["losses"].tolist(), strict=True))
        self._drawn = {s: tuple(cases) for s, cases in zip(steps, tensors["cases"].tolist(), strict=True)}
