"""Training one run: the loop, its state, and what it reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoseg import losses
from autoseg.errors import RunFailed
from autoseg.image import IGNORE
from autoseg.nets import survey
from autoseg.parts import OPTIMISERS, SCHEDULES
from autoseg.records import Configuration, Question
from autoseg.steps import preprocess
from autoseg.steps.backward import backward, is_out_of_memory
from autoseg.steps.batches import Batches
from autoseg.steps.device import Precision, autocast, give_back, keep_memory

CLIP = 12.0  # largest norm of the gradient
PATIENCE = 20  # steps in a row whose loss may be NaN
CHECKED = 4  # validation batches that the pseudo-Dice looks at


@dataclass(frozen=True)
class Progress:
    """What is reported after a step.

    `pieces`: that the batch went through the network in; `dice`: per foreground output, over a few validation patches,
    not every step.
    """

    step: int
    loss: float
    rate: float
    seconds: float
    skipped: int
    dice: tuple[float | None, ...] | None = None
    pieces: int = 1


@dataclass
class Learner:
    """The state of a run: everything that a checkpoint holds, and what it was built from.

    `skipped` counts the steps whose loss was not finite, `skipped_last` those of them that came last, in a row;
    `pieces` is how many a batch goes through the network in; `average` is the running average of the weights, of which
    `decay` stays at every step, None for no average; `frozen` are weights that stay as they are until step
    `frozen_until`; `first` is the index of the first foreground output, `head_weights` are those of deep supervision,
    `members` (V, R) uint8 says which regions each class lies in, None where the classes are the outputs.
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

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors of the state, named for a checkpoint."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"average.{name}": value for name, value in self.average.items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def load(self, tensors: Mapping[str, Tensor], step: int, skipped: int, skipped_last: int, pieces: int) -> None:
        """Continues from the tensors and the counts of a checkpoint."""
        load_network(self.network, _named("network.", tensors))
        for name, value in _named("average.", tensors).items():
            self.average[name].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        self._require(state)
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


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint's tensors predict with: the running average of the weights, where there is one."""
    return _named("network.", tensors) | _named("average.", tensors)


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_network(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives the network its weights. Raises: RunFailed when they are another network's."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as problem:
        raise RunFailed(f"the checkpoint is of another network: {str(problem).splitlines()[-1].strip()}") from None


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
        decay=settings.average,
    )  # fmt: skip
    learner.begin_average()
    return learner


def build_network(configuration: Configuration, question: Question) -> nn.Module:
    """The network of a configuration, with fresh weights."""
    channels = preprocess.inputs(configuration.normalise, question, configuration.previous)
    return survey.build(configuration.network, channels, len(question.outputs), configuration.patch)


def learn(learner: Learner, images: Tensor, labels: Tensor) -> float:
    """One optimiser step; answers the loss. A loss that is not finite changes nothing, nor do frozen weights change.

    Where the memory does not hold the batch, this step and those after it go through it in pieces. Raises: RunFailed
    where it does not hold a single sample.
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
    norm = nn.utils.clip_grad_norm_(learner.network.parameters(), CLIP)
    if torch.isfinite(loss) and torch.isfinite(norm):
        learner.optimiser.step()
        learner.follow()
        learner.skipped_last = 0
    else:
        _put_back(learner.network, statistics)
        learner.skipped += 1
        learner.skipped_last += 1
        loss = torch.full_like(loss, torch.nan)
    learner.step += 1
    return float(loss.detach())


def _put_back(network: nn.Module, statistics: Sequence[Tensor]) -> None:
    """The buffers, such as batch norm's statistics, as they were before a step that came to nothing."""
    for buffer, before in zip(network.buffers(), statistics, strict=True):
        buffer.copy_(before)


def _tried(learner: Learner, images: Tensor, labels: Tensor) -> Tensor | None:
    """The loss, with its gradients; None where memory ran out, and smaller pieces are to be tried."""
    cost = partial(
        losses.over_depths, learner.loss_of, target=labels, weights=learner.head_weights, members=learner.members
    )
    context = partial(autocast, learner.device, learner.precision)
    try:
        seed = (learner.seed << 32) + learner.step  # of what networks draw, such as dropout
        return backward(learner.network, images, cost, seed, context, learner.pieces)
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        if learner.pieces >= len(images):
            raise RunFailed(
                "memory ran out on a single sample", remedy="plan again with a smaller --memory, or stop what else runs"
            ) from None
    learner.pieces = min(2 * learner.pieces, len(images))
    learner.optimiser.zero_grad(set_to_none=True)
    give_back(learner.device)
    return None


def train(
    learner: Learner, batches: Batches, last: int, validation: Batches | None = None, every: int = 100
) -> Iterator[Progress]:
    """Trains to step `last`, reporting every step; whoever iterates saves checkpoints and may stop at any step.

    Args:
        validation: patches for the pseudo-Dice, which is logged every `every` steps and decides nothing.
    Raises: RunFailed after 20 steps in a row without a finite loss.
    """
    began = time.perf_counter()
    for images, labels in batches.stream(learner.step, last):
        loss = learn(learner, images, labels)
        if learner.skipped_last >= PATIENCE:
            raise RunFailed(
                f"the loss was not finite for {PATIENCE} steps up to step {learner.step}",
                remedy="lower the learning rate (--set) or train in float32; the last checkpoint is good",
            )
        due = validation is not None and (learner.step % every == 0 or learner.step == last)
        dice = pseudo_dice(learner, validation) if validation is not None and due else None
        now = time.perf_counter()
        rate = learner.optimiser.param_groups[0]["lr"]
        yield Progress(learner.step, loss, rate, now - began, learner.skipped, dice, learner.pieces)
        began = time.perf_counter()


def pseudo_dice(learner: Learner, validation: Batches) -> tuple[float | None, ...]:
    """Dice per foreground class, or region, pooled over a few validation patches: an early sign, not a score."""
    learner.network.eval()
    counts: Tensor | None = None
    for number in range(CHECKED):
        images, labels = validation.batch(number)
        with torch.inference_mode(), autocast(learner.device, learner.precision):
            logits = torch.cat([learner.network(part)[0] for part in images.chunk(learner.pieces)])
        if learner.members is None:
            found = _counts(logits.argmax(1), labels, logits.shape[1])
        else:
            found = _overlaps(logits > 0, labels, learner.members)
        counts = found if counts is None else counts + found
    assert counts is not None
    both, either = counts.tolist()
    return tuple(
        None if e == 0 else 2 * b / e for b, e in zip(both[learner.first :], either[learner.first :], strict=True)
    )


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


def as_log(progress: Progress, foreground: Sequence[str]) -> dict[str, Any]:
    """The line of the log for a step."""
    line: dict[str, Any] = {
        "step": progress.step,
        "loss": round(progress.loss, 6) if progress.loss == progress.loss else None,
        "rate": progress.rate,
        "seconds": round(progress.seconds, 4),
    }
    if progress.dice is not None:
        line["pseudo_dice"] = {
            name: None if dice is None else round(dice, 5) for name, dice in zip(foreground, progress.dice, strict=True)
        }
    return line
