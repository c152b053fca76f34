"""Early signs of how good a network becomes: Dice over a few validation patches, and over a few whole cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from autoseg.arrays.metrics import mean_of
from autoseg.image import IGNORE
from autoseg.records import Configuration
from autoseg.steps import predict, tiling
from autoseg.steps.backward import is_out_of_memory
from autoseg.steps.batches import Batches
from autoseg.steps.device import autocast, give_back

if TYPE_CHECKING:
    from autoseg.steps.learner import Learner

CHECKED = 4  # validation batches that the pseudo-Dice looks at
LOOKS, CASES = 10, 4  # how often whole cases are predicted in a run at most, and how many
SHARE = 0.05  # of a run's computing that may go into them
FORWARD = 1 / 3  # of a training step's computing
LARGEST = 2.5e8  # voxels times outputs of a case that is still predicted whole


def pseudo_dice(learner: Learner, validation: Batches) -> tuple[float | None, ...]:
    """Dice per foreground class, or region, pooled over a few validation patches: an early sign, not a score."""
    learner.network.eval()
    counts: Tensor | None = None
    pieces = learner.pieces * learner.world.size  # the whole batch is looked at, in one process
    for number in range(CHECKED):
        images, labels = validation.batch(number)
        with torch.inference_mode(), autocast(learner.device, learner.precision):
            logits = torch.cat([learner.network(part)[0] for part in images.chunk(pieces)])
        if learner.members is None:
            found = _counts(logits.argmax(1), labels, logits.shape[1])
        else:
            found = _overlaps(logits > 0, labels, learner.members)
        counts = found if counts is None else counts + found
    assert counts is not None
    return _dice(counts, learner.first)


@dataclass(frozen=True)
class Looks:
    """Whole validation cases, by number, and the steps of a run after which they are predicted."""

    source: Batches
    configuration: Configuration
    outputs: int
    cases: tuple[int, ...]
    steps: frozenset[int]


def looks(validation: Batches, configuration: Configuration, outputs: int, processes: int = 1) -> Looks | None:
    """As many cases, as often as SHARE of the run allows; None where that is less than once one case.

    It follows from the sizes alone, so that a run that is resumed looks at the same steps. Of several processes one
    looks while the others wait.
    """
    shapes = [case.shape for case in validation.cases]
    costs = {n: _tiles(shape, configuration) for n, shape in enumerate(shapes) if prod(shape) * outputs <= LARGEST}
    steps = configuration.train.steps
    allowed = SHARE / FORWARD * steps * configuration.batch / processes
    for count in range(min(CASES, len(costs)), 0, -1):
        chosen = [list(costs)[round(at)] for at in np.linspace(0, len(costs) - 1, count)]
        times = min(LOOKS, int(allowed // sum(costs[n] for n in chosen)), steps)
        if times >= (LOOKS if count > 1 else 1):
            after = frozenset(round(steps * number / times) for number in range(1, times + 1))
            return Looks(validation, configuration, outputs, tuple(chosen), after)
    return None


def _tiles(shape: Sequence[int], configuration: Configuration) -> int:
    patch = (1,) * (3 - configuration.dims) + configuration.patch
    return len(tiling.tiles([max(size, edge) for size, edge in zip(shape, patch, strict=True)], patch, 0.5))


def whole_dice(learner: Learner, found: Looks) -> tuple[float | None, ...]:
    """Dice per foreground class, or region, on the preprocessed grid: the mean over the cases in which it is defined.

    Predicted without mirroring, with the running average of the weights where there is one. Where the memory does not
    hold a case nothing is known.
    """
    try:
        with averaged(learner):
            table = [_dice(_of_case(learner, found, number), learner.first) for number in found.cases]
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        table = [(None,) * (found.outputs - learner.first)]
        give_back(learner.device)
    return tuple(mean_of(column) for column in zip(*table, strict=True))


def _of_case(learner: Learner, found: Looks, number: int) -> Tensor:
    image, label = found.source.whole(number)
    logits = predict.predict_logits(
        image,
        [learner.network],
        found.configuration,
        found.outputs,
        learner.device,
        learner.precision,
        0.5,
        tiling.Flips(),
    )
    target = torch.from_numpy(label)[None]
    if learner.members is None:
        return _counts(logits.argmax(0)[None], target, len(logits))
    return _overlaps(logits[None] > 0, target, learner.members.cpu())


@contextmanager
def averaged(learner: Learner) -> Iterator[None]:
    """Within it the network has the running average of its weights, where there is one."""
    kept = {name: value.detach().clone() for name, value in learner.network.named_parameters() if learner.average}
    with torch.no_grad():
        for name, value in learner.network.named_parameters() if kept else ():
            value.copy_(learner.average[name])
        try:
            yield
        finally:
            for name, value in learner.network.named_parameters() if kept else ():
                value.copy_(kept[name])


def _dice(counts: Tensor, first: int) -> tuple[float | None, ...]:
    both, either = counts.tolist()
    return tuple(None if e == 0 else 2 * b / e for b, e in zip(both[first:], either[first:], strict=True))


def _counts(prediction: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(2, K): voxels of both, and the sum of the two sizes."""
    keep = labels != IGNORE
    a, b = prediction[keep], labels[keep].long()
    both = torch.bincount(a[a == b], minlength=classes)
    return torch.stack([both, torch.bincount(a, minlength=classes) + torch.bincount(b, minlength=classes)])


def _overlaps(prediction: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    """(2, R): as `_counts`, of regions: prediction (B, R, *S) bool, classes (B, *S), members (V, R)."""
    keep = labels != IGNORE
    a, b = prediction.movedim(1, -1)[keep], members[labels[keep].long()].bool()
    return torch.stack([(a & b).sum(0), a.sum(0) + b.sum(0)])
