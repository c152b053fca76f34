"""Training one run: the loop, its state, and what it reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoseg import losses
from autoseg.errors import RunFailed
from autoseg.nets import survey
from autoseg.nets.inserts.rater import listen
from autoseg.parts import OPTIMISERS, SCHEDULES
from autoseg.records import Configuration, Question
from autoseg.steps import preprocess
from autoseg.steps.backward import backward, is_out_of_memory
from autoseg.steps.batches import Batches
from autoseg.steps.device import Precision, autocast, give_back, keep_memory, peak_memory
from autoseg.steps.early import Looks, pseudo_dice, whole_dice
from autoseg.steps.sampling import Chooser
from autoseg.steps.stages import Stages
from autoseg.steps.weights import load_network, named
from autoseg.steps.world import ALONE, World

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


@dataclass
class Learner:
    """The state of a run: everything that a checkpoint holds, and what it was built from.

    `skipped` counts the steps whose loss was not finite, `skipped_last` those of them that came last, in a row;
    `pieces` is how many a batch goes through the network in; `average` is the running average of the weights, of which
    `decay` stays at every step, None for no average; `frozen` are weights that stay as they are until step
    `frozen_until`; `first` is the index of the first foreground output, `head_weights` are those of deep supervision,
    `members` (V, R) uint8 says which regions each class lies in, None where the classes are the outputs; `chooser`
    draws the cases that the samples are cut from; `norm` of the gradient and the loss of all `heads` are those of the
    last step; `stages` measures where its time goes; `world` are the processes that train together.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    loss_of: losses.Loss
    rates: Callable[[int], float]
    device: torch.device
    precision: Precision
    step: int = 0
    skipped: int = 0
    skipped_last: int = 0
    pieces: int = 1
    decay: float | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    frozen: Sequence[nn.Parameter] = ()
    frozen_until: int = 0
    first: int = 1
    head_weights: tuple[float, ...] | None = None
    seed: int = 0
    members: Tensor | None = None
    base_rates: list[float] = field(default_factory=list)
    chooser: Chooser | None = None
    norm: float = math.nan
    heads: dict[int, Tensor] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)
    world: World = ALONE

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors of the state, named for a checkpoint."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"average.{name}": value for name, value in self.average.items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        if self.chooser is not None:
            state |= {f"sampling.{name}": value for name, value in self.chooser.tensors(self.step).items()}
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def load(self, tensors: Mapping[str, Tensor], step: int, skipped: int, skipped_last: int, pieces: int) -> None:
        """Continues from the tensors and the counts of a checkpoint."""
        load_network(self.network, named("network.", tensors))
        for name, value in named("average.", tensors).items():
            self.average[name].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        self._require(state)
        if self.chooser is not None:
            self.chooser.load(step, named("sampling.", tensors))
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.step, self.skipped, self.skipped_last, self.pieces = step, skipped, skipped_last, pieces

    def _require(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Raises: ValueError where the optimiser's tensors do not belong to these weights, or together."""
        weights = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        if len({frozenset(values) for values in state.values()}) > 1 or any(n >= len(weights) for n in state):
            raise ValueError("its tensors do not belong together")
        for number, values in state.items():
            for key, tensor in values.items():
                if tensor.ndim and tensor.shape != weights[number].shape:
                    raise ValueError(f"{key} of weight {number} has shape {tuple(tensor.shape)}")

    def begin_average(self) -> None:
        """The running average of the weights, where there is one, starts with those that the network has now."""
        if self.decay is not None:
            self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}

    def follow(self) -> None:
        """Moves the average towards the weights; in the first steps it moves faster, as there is little to keep."""
        if self.decay is None:
            return
        kept = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, value in self.network.named_parameters():
            self.average[name].lerp_(value.detach(), 1 - kept)


def build(
    configuration: Configuration, question: Question, seed: int, device: torch.device, precision: Precision
) -> Learner:
    """A learner at step 0. The weights depend on the seed alone."""
    if device.type == "cpu":
        keep_memory()
    torch.manual_seed(seed)
    settings = configuration.train
    network = build_network(configuration, question).to(device)
    optimiser = OPTIMISERS.build(settings.optimiser, parameters=network.parameters())
    learner = Learner(
        network, optimiser, losses.build(settings.loss, question.first, settings.class_weights),
        SCHEDULES.build(settings.schedule, steps=settings.steps), device, precision,
        head_weights=settings.depth_weights or getattr(network, "head_weights", None),
        members=torch.tensor(question.members, dtype=torch.uint8, device=device) if question.regions else None,
        first=question.first, seed=seed, base_rates=[group["lr"] for group in optimiser.param_groups],
        decay=settings.average, stages=Stages(device),
    )  # fmt: skip
    learner.begin_average()
    return learner


def build_network(configuration: Configuration, question: Question) -> nn.Module:
    """The network of a configuration, with fresh weights."""
    channels = preprocess.inputs(configuration.normalise, question, configuration.previous)
    network = survey.build(configuration.network, channels, len(question.outputs), configuration.patch)
    listen(network, channels)
    return network


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
    labels = learner.world.whole([labels])[0]
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
        found = list(losses.each_depth(learner.loss_of, outputs, labels, learner.head_weights, learner.members))
        learner.heads = {head: value.detach() for head, _, value in found}
        return losses.weighed_sum(found)

    context = partial(autocast, learner.device, learner.precision)
    try:
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
