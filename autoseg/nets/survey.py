"""What a network is made of and what it costs, found by one pass without numbers (on torch's meta device)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from autoseg.errors import AutosegError, BadPlan
from autoseg.nets.layers import Instance, sound
from autoseg.parts import NETWORKS
from autoseg.records import Network, Shape

DRAWN = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}
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


class Undrawn(TorchFunctionMode):
    """Leaves weights as they are: their numbers are not looked at, and drawing them takes long."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in DRAWN or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def build(network: Network, channels: int, classes: int, patch: Shape) -> nn.Module:
    """The network with fresh weights. Raises: BadPlan, naming the part, where its parts do not go together."""
    made: nn.Module = NETWORKS.build(
        network.architecture, network=network, channels=channels, classes=classes, patch=tuple(patch)
    )
    return sound(made)


def survey(network: Network, channels: int, classes: int, patch: Shape) -> Survey:
    """Builds the network and sends an empty input through it.

    On torch's meta device, where nothing is drawn or computed; with real numbers where a part looks at them.
    Raises: BadPlan naming the part that answers another shape than it must, or fails.
    """
    try:
        with torch.device("meta"), Undrawn():
            module = build(network, channels, classes, patch)
        return _examined(module, channels, classes, patch)
    except Exception as problem:  # is raised again by the pass with numbers, if it is not for want of them
        if _is_final(problem):
            raise
    return examine(build(network, channels, classes, patch), channels, classes, patch)


def examine(module: nn.Module, channels: int, classes: int, patch: Shape) -> Survey:
    """What a network that is built costs; the network itself stays as it is. Raises: BadPlan as `survey`."""
    try:
        return _examined(copy.deepcopy(module).to("meta"), channels, classes, patch)
    except Exception as problem:  # is raised again by the pass with numbers, if it is not for want of them
        if _is_final(problem):
            raise
    return _examined(copy.deepcopy(module), channels, classes, patch)


def _is_final(problem: Exception) -> bool:
    """Whether the plan is at fault, and not perhaps the lack of numbers on the meta device."""
    return isinstance(problem, AutosegError) and problem.__cause__ is None


def _examined(module: nn.Module, channels: int, classes: int, patch: Shape) -> Survey:
    """A pass as in training, which is counted, then one as in prediction, on the device of the module."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    x = torch.zeros((SAMPLES, channels, *patch), device=device)
    watch = _Watch(module)
    with watch.watching():
        try:
            outputs, kept, counter = _pass(module.train(), x)
            units = tuple(_costs(module, watch, _by_name(counter)))
            with torch.no_grad():
                answer = module.eval()(x)
        except AutosegError:
            raise
        except Exception as problem:  # whatever the code of a plug-in raises
            raise BadPlan(f"{type(problem).__name__}: {problem}", where=watch.innermost) from problem
    _check(outputs, classes, patch, "training")
    _check(answer, classes, patch, "prediction")
    return Survey(
        parameters=sum(p.numel() for p in module.parameters()),
        flops=counter.get_total_flops() // SAMPLES,
        kept=kept // SAMPLES,
        outputs=tuple(tuple(output.shape[1:]) for output in outputs),
        units=units,
    )


def _by_name(counter: FlopCounterMode) -> dict[str, int]:
    """FLOPs by the name of the module."""
    return {name.partition(".")[2]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


def _pass(network: nn.Module, x: Tensor) -> tuple[Any, int, FlopCounterMode]:
    """The outputs, the bytes kept for the way back, the FLOPs."""
    weights = {_storage(p) for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(x)
    return outputs, sum(storage.nbytes() for storage in kept.values()), counter


def _storage(tensor: Tensor) -> int:
    """What tells one memory from another, where there are no addresses."""
    return int(tensor.untyped_storage()._cdata)


def _check(outputs: Any, classes: int, patch: Shape, when: str) -> None:
    """Raises: BadPlan where the outputs are not logits as `NETWORKS` promises them."""
    wanted = (SAMPLES, classes, *patch)
    listed = isinstance(outputs, list | tuple) and all(isinstance(one, Tensor) for one in outputs)
    if not listed or not outputs or tuple(outputs[0].shape) != wanted or (when == "prediction" and len(outputs) > 1):
        got = [tuple(one.shape) for one in outputs] if listed else f"a {type(outputs).__name__}"
        raise BadPlan(f"the network answers {got} in {when}", expected=f"a list that begins with {wanted}")


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
