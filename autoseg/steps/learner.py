"""The state of a run, and what it is built from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoseg import losses
from autoseg.nets import survey
from autoseg.nets.inserts.rater import listen
from autoseg.parts import OPTIMISERS, SCHEDULES
from autoseg.records import Configuration, Question
from autoseg.steps import preprocess
from autoseg.steps.device import Precision, keep_memory
from autoseg.steps.sampling import Chooser
from autoseg.steps.stages import Stages
from autoseg.steps.weights import load_network, named
from autoseg.steps.world import ALONE, World


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
