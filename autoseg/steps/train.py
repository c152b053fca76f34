"""Training one run: the loop, its state, and what it reports."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from autoseg import losses
from autoseg.errors import RunFailed
from autoseg.steps.backward import backward, is_out_of_memory
from autoseg.steps.batches import Batches
from autoseg.steps.device import autocast, give_back, peak_memory
from autoseg.steps.early import Looks, pseudo_dice, whole_dice
from autoseg.steps.learner import Learner

CLIP = 12.0  # largest norm of the gradient
PATIENCE = 20  # steps in a row whose loss may be NaN


@dataclass(frozen=True)
class Progress:
    """What is reported after a step.

    `pieces`: that the batch went through the network in; `dice`: per foreground output, over a few validation patches,
    not every step; `whole`: over a few whole cases, seldom; `norm`: of the gradient, before it is clipped; `heads`: the
    loss of every head that counts; `memory`: the most bytes that were taken so far (see `peak_memory`); `stages`: see
    `Stages.taken`, not every step.
    """

    step: int
    loss: float
    rate: float
    seconds: float
    skipped: int
    dice: tuple[float | None, ...] | None = None
    pieces: int = 1
    norm: float = math.nan
    heads: Mapping[int, float] = field(default_factory=dict)
    memory: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)
    whole: tuple[float | None, ...] | None = None


def learn(learner: Learner, images: Tensor, labels: Tensor) -> float:
    """One optimiser step; answers the loss. A loss that is not finite changes nothing, nor do frozen weights change.

    Of several processes each is given its share of the batch, and all take the same step. Where the memory does not
    hold the batch, this step and those after it go through it in pieces. Raises: RunFailed where it does not hold a
    single sample.
    """
    learner.network.train()
    for group, rate in zip(learner.optimiser.param_groups, learner.base_rates, strict=True):
        group["lr"] = rate * learner.rates(learner.step)
    for parameter in learner.frozen:
        parameter.requires_grad_(learner.step >= learner.frozen_until)
    learner.optimiser.zero_grad(set_to_none=True)
    statistics = [buffer.clone() for buffer in learner.network.buffers()]
    while (loss := _tried(learner, images, labels)) is None:
        _put_back(learner.network, statistics)
    with learner.stages("optimiser"):
        value = float(loss.detach())
        learner.norm = float(nn.utils.clip_grad_norm_(learner.network.parameters(), CLIP))
        if finite := math.isfinite(value) and math.isfinite(learner.norm):
            learner.optimiser.step()
            learner.follow()
    if finite:
        learner.skipped_last = 0
    else:
        _put_back(learner.network, statistics)
        learner.skipped += 1
        learner.skipped_last += 1
    learner.step += 1
    return value if finite else math.nan


def _put_back(network: nn.Module, statistics: Sequence[Tensor]) -> None:
    """The buffers, such as batch norm's statistics, as they were before a step that came to nothing."""
    for buffer, before in zip(network.buffers(), statistics, strict=True):
        buffer.copy_(before)


def _tried(learner: Learner, images: Tensor, labels: Tensor) -> Tensor | None:
    """The loss, with its gradients; None where memory ran out, and smaller pieces are to be tried."""

    def cost(outputs: Sequence[Tensor]) -> Tensor:
        found = list(losses.each_depth(learner.loss_of, outputs, target, learner.head_weights, learner.members))
        learner.heads = {head: value.detach() for head, _, value in found}
        return losses.weighed_sum(found)

    context = partial(autocast, learner.device, learner.precision)
    try:
        target = learner.world.whole([labels])[0]
        seed = (learner.seed << 32) + learner.step  # of what networks draw, such as dropout
        go = partial(backward, learner.network, images, cost, seed, context)
        return go(learner.pieces, learner.stages, learner.world)
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        most = max(learner.world.counts, default=len(images))
        if learner.pieces >= most:
            raise RunFailed(
                "memory ran out on a single sample", remedy="plan again with a smaller --memory, or stop what else runs"
            ) from None
    learner.pieces = min(2 * learner.pieces, most)
    learner.optimiser.zero_grad(set_to_none=True)
    give_back(learner.device)
    return None


def train(
    learner: Learner, batches: Batches, last: int, validation: Batches | None = None, every: int = 100,
    looks: Looks | None = None,
) -> Iterator[Progress]:  # fmt: skip
    """Trains to step `last`, reporting every step; whoever iterates saves checkpoints and may stop at any step.

    Args:
        validation: patches for the pseudo-Dice, which is logged every `every` steps and decides nothing.
        looks: whole cases to be predicted now and then, which decides nothing either.
    Raises: RunFailed after 20 steps in a row without a finite loss.
    """
    began = time.perf_counter()
    learner.stages.begin(learner.step)
    for images, labels in batches.stream(learner.step, last, learner.stages):
        loss = learn(learner, images, labels)
        learner.stages.end()
        if learner.chooser is not None:
            learner.chooser.tell(learner.step - 1, loss)
        if learner.skipped_last >= PATIENCE:
            raise RunFailed(
                f"the loss was not finite for {PATIENCE} steps up to step {learner.step}",
                remedy="lower the learning rate (--set) or train in float32; the last checkpoint is good",
            )
        due = learner.step % every == 0 or learner.step == last
        dice = pseudo_dice(learner, validation) if validation is not None and due else None
        whole = whole_dice(learner, looks) if looks is not None and learner.step in looks.steps else None
        now = time.perf_counter()
        heads = {head: float(value) for head, value in learner.heads.items()}
        yield Progress(
            learner.step, loss, learner.optimiser.param_groups[0]["lr"], now - began, learner.skipped, dice,
            learner.pieces, learner.norm, heads, peak_memory(learner.device), learner.stages.taken() if due else {},
            whole,
        )  # fmt: skip
        began = time.perf_counter()
        learner.stages.begin(learner.step)


def as_log(progress: Progress, foreground: Sequence[str]) -> dict[str, Any]:
    """The line of the log for a step."""
    line: dict[str, Any] = {
        "step": progress.step,
        "loss": round(progress.loss, 6) if progress.loss == progress.loss else None,
        "rate": progress.rate,
        "seconds": round(progress.seconds, 4),
        "norm": float(f"{progress.norm:.4g}") if math.isfinite(progress.norm) else None,
    }
    if progress.stages:
        line["stages"] = {stage: float(f"{seconds:.4g}") for stage, seconds in progress.stages.items()}
        line["memory"] = progress.memory
    for name, found in (("pseudo_dice", progress.dice), ("whole_dice", progress.whole)):
        if found is not None:
            rounded = (None if dice is None else round(dice, 5) for dice in found)
            line[name] = dict(zip(foreground, rounded, strict=True))
    return line
