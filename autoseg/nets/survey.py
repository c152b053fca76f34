"""What a network is made of and what it costs, found by one pass without numbers (on torch's meta device)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoseg.errors import AutosegError, BadPlan
from autoseg.nets.layers import Instance
from autoseg.parts import NETWORKS
from autoseg.records import Network, Shape

SAMPLES = 2  # of the pass: norms over a batch want more than one


@dataclass(frozen=True)
class Unit:
    """A stage of a network: where it stands, and the names of its modules."""

    place: str
    stage: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What a unit costs: the answer's channels and size, parameters, and FLOPs of one sample forward.

    FLOPs are two per multiply-add. `inserts` are those that stand in or behind it.
    """

    place: str
    stage: int
    channels: int
    size: Shape
    parameters: int
    flops: int
    inserts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """A network's parameters, the FLOPs of one sample forward, and the bytes (float32) that a training step of one
    sample keeps for its way back; `outputs` are the shapes (K, *S) of its logits in training."""

    parameters: int
    flops: int
    kept: int
    outputs: tuple[Shape, ...]
    units: tuple[Cost, ...] = ()


def build(network: Network, channels: int, classes: int, patch: Shape) -> nn.Module:
    """The network with fresh weights. Raises: BadPlan, naming the part, where its parts do not go together."""
    made: nn.Module = NETWORKS.build(
        network.architecture, network=network, channels=channels, classes=classes, patch=tuple(patch)
    )
    return made


def survey(network: Network, channels: int, classes: int, patch: Shape) -> Survey:
    """Builds the network and sends an empty input through it.

    Raises: BadPlan naming the part that answers another shape than it must, or fails.
    """
    try:
        with torch.device("meta"):  # weights that are never drawn cost no time
            module = build(network, channels, classes, patch)
    except (NotImplementedError, RuntimeError):  # a constructor that looks at its numbers
        module = build(network, channels, classes, patch)
    return examine(module, channels, classes, patch)


def examine(module: nn.Module, channels: int, classes: int, patch: Shape) -> Survey:
    """What a network that is built costs; the network itself stays as it is. Raises: BadPlan as `survey`."""
    empty = copy.deepcopy(module).to("meta").train()
    shape = (SAMPLES, channels, *patch)
    watch = _Watch(empty)
    with watch.watching():
        try:
            outputs, kept, counter = _pass(empty, torch.empty(shape, device="meta"))
        except AutosegError:
            raise
        except NotImplementedError:  # an operation of a plug-in that knows no meta device
            empty = copy.deepcopy(module).train()
            watch = _Watch(empty)
            with watch.watching():
                outputs, kept, counter = _pass(empty, torch.zeros(shape))
        except Exception as problem:  # whatever the code of a plug-in raises
            raise BadPlan(f"{type(problem).__name__}: {problem}", where=watch.innermost) from problem
    _check(outputs, classes, patch)
    flops = {name.partition(".")[2]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return Survey(
        parameters=sum(p.numel() for p in module.parameters()),
        flops=counter.get_total_flops() // SAMPLES,
        kept=kept // SAMPLES,
        outputs=tuple(tuple(output.shape[1:]) for output in outputs),
        units=tuple(_costs(empty, watch, flops)),
    )


def _pass(network: nn.Module, x: Tensor) -> tuple[list[Tensor], int, FlopCounterMode]:
    """The outputs, the bytes kept for the way back, the FLOPs."""
    weights = {_storage(p) for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = list(network(x))
    return outputs, sum(storage.nbytes() for storage in kept.values()), counter


def _storage(tensor: Tensor) -> int:
    """What tells one memory from another, where there are no addresses."""
    return int(tensor.untyped_storage()._cdata)


def _check(outputs: Sequence[Tensor], classes: int, patch: Shape) -> None:
    if not outputs or tuple(outputs[0].shape) != (SAMPLES, classes, *patch):
        got = tuple(outputs[0].shape) if outputs else "nothing"
        raise BadPlan(f"the network answers {got}", expected=f"{(SAMPLES, classes, *patch)}")


@dataclass
class _Watch:
    """Follows a pass: which part is at work, what it answers, and that this is what it promised."""

    network: nn.Module
    stack: list[str] = field(default_factory=list)
    answers: dict[str, Shape] = field(default_factory=dict)

    @property
    def innermost(self) -> str:
        """The part that was at work last."""
        return self.stack[-1] if self.stack else "the network"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every module while the context lasts."""
        hooks = []
        for name, module in self.network.named_modules():
            hooks.append(module.register_forward_pre_hook(self._before))
            hooks.append(module.register_forward_hook(partial(self._after, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if hasattr(module, "expected"):
            self.stack.append(str(module.expected.who))  # type: ignore[union-attr]
        single = isinstance(module, Instance) and given[0][0, 0].numel() == 1
        if single:
            raise BadPlan(
                "its feature map has one position, where instance norm knows no variance", where=self.innermost,
                remedy="take a larger patch, fewer stages, or the norm group",
            )  # fmt: skip

    def _after(self, name: str, module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        if isinstance(answer, Tensor):
            self.answers.pop(name, None)
            self.answers[name] = tuple(answer.shape[1:])
        if not hasattr(module, "expected"):
            return
        self.stack.pop()
        expected = module.expected
        right = expected.shape(given[0].shape)  # type: ignore[operator]
        if not isinstance(answer, Tensor) or tuple(answer.shape) != right:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise BadPlan(f"answers {got}", where=expected.who, expected=f"{right}")  # type: ignore[union-attr,arg-type]


def _costs(network: nn.Module, watch: _Watch, flops: dict[str, int]) -> Iterator[Cost]:
    """The cost of every unit that was passed through."""
    modules = dict(network.named_modules())
    inserts = getattr(network, "inserts", None)
    standing: dict[str, list[str]] = {} if inserts is None else inserts.names
    units = network.anatomy() if hasattr(network, "anatomy") else _children(network)  # type: ignore[operator]
    for unit in units:
        names = [name for name in unit.modules if name in modules]
        passed = [name for name in watch.answers if any(name == n or name.startswith(f"{n}.") for n in names)]
        if passed:
            answer = watch.answers[passed[-1]]  # modules answer in the order in which they are done
            yield Cost(
                unit.place, unit.stage, answer[0], answer[1:],
                sum(p.numel() for name in names for p in modules[name].parameters()),
                sum(_flops(modules[name], name, flops) for name in names) // SAMPLES,
                tuple(part for name in names for part in standing.get(name.removeprefix("inserts.at."), ())),
            )  # fmt: skip


def _flops(module: nn.Module, name: str, flops: dict[str, int]) -> int:
    """Of a module, or of those in a list, which is never called itself."""
    names = [f"{name}.{index}" for index, _ in enumerate(module)] if isinstance(module, nn.ModuleList) else [name]
    return sum(flops.get(each, 0) for each in names)


def _children(network: nn.Module) -> Iterator[Unit]:
    for index, (name, _) in enumerate(network.named_children()):
        yield Unit(name, index, (name,))
