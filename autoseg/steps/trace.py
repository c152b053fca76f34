"""What a training step takes and gives back, found by one step without numbers."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg import losses
from autoseg.errors import BadPlan
from autoseg.nets import survey
from autoseg.nets.layers import Pointwise, Wide
from autoseg.records import Network, Shape
from autoseg.steps.device import Precision, autocast
from autoseg.steps.hollow import Hollow, hollowed, without_numbers

Kind = Literal["weights", "gradients", "inputs", "activations", "workspace"]
SAMPLES = 31  # a prime, so that the sizes which are multiples of it are those that grow with the batch
# channels that a convolution's own copies are filled up to: oneDNN's blocks under AVX-512; cuDNN's for half floats
FILLED = {"cpu": 16, "cuda": 8, "mps": 1}
UNFOLDED = 20_480  # elements of a map (of its first two axes in 3D) up to which torch unfolds it
THIN = 4  # a map of so few channels goes into oneDNN's first convolution as it is
# what autocast computes in float32 on a GPU and not on a CPU
WIDE = {F.group_norm, F.layer_norm, F.softmax, F.log_softmax, torch.softmax, torch.exp, torch.pow, Tensor.softmax,
        Tensor.exp, Tensor.pow}  # fmt: skip
aten = torch.ops.aten
SUMS = {aten.sum.default, aten.sum.dim_IntList}
MIXED = {aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor}


@dataclass
class Block:
    """A piece of memory: its bytes and those per sample, and what it is for.

    `threaded` are bytes per sample that a thread is at work on, `single` all bytes where there is one sample alone.
    """

    fixed: int
    each: int
    kind: Kind
    threaded: int = 0
    single: int | None = None


@dataclass(frozen=True)
class Trace:
    """The blocks of a step; `events` are their numbers in the order in which they are taken (n) and given back (~n).

    They begin with the weights and the inputs and end before the optimiser's turn. `kept` counts the bytes of a sample
    that the way back was promised, `weights` those of every weight; the first `standing` blocks are weights and inputs.
    """

    blocks: tuple[Block, ...]
    events: tuple[int, ...]
    standing: int
    kept: int
    weights: tuple[int, ...]


def trace(
    network: Network, channels: int, outputs: int, patch: Shape, device: str, precision: Precision, loss: str
) -> Trace:
    """Builds the network and takes a step with it as `train.learn` does, without numbers.

    A number that a part looks at is 1. Raises: BadPlan naming the part that cannot be built.
    """
    loss_of, taken = losses.build(loss, 1, (1.0,) * outputs), _Taken(device)
    module = _built(network, channels, outputs, patch, device)
    try:
        with taken:
            events = _step(taken, module, (SAMPLES, channels, *patch), loss_of, precision)
    except Exception as problem:  # whatever the code of a plug-in raises
        survey.survey(network, channels, outputs, patch)  # names the part, where the plan is at fault
        what = f"its memory cannot be estimated: {type(problem).__name__}: {problem}"
        remedy = "a part must not choose sizes by the numbers that it is given"
        raise BadPlan(what, where="network or loss", remedy=remedy) from problem
    kept = sum(block.each for block in taken.blocks if block.kind == "activations")
    return Trace(tuple(taken.blocks), events, taken.standing, kept, tuple(p.nbytes for p in module.parameters()))


def _built(network: Network, channels: int, outputs: int, patch: Shape, device: str) -> nn.Module:
    """The network with hollow weights; made with some that are not drawn where it looks at numbers."""
    try:
        with torch.device("meta"), survey.Undrawn():
            module = survey.build(network, channels, outputs, patch)
    except BadPlan:  # is raised again, if it is not for want of numbers
        with survey.Undrawn():
            module = survey.build(network, channels, outputs, patch)
    for one in module.modules():
        if device != "cpu" and isinstance(one, Wide | Pointwise):
            one.__class__ = nn.Conv3d  # type: ignore[assignment]  # as which it computes there
    return hollowed(module.train())


def _step(
    taken: _Taken, module: nn.Module, shape: Shape, loss_of: losses.Loss, precision: Precision
) -> tuple[int, ...]:
    """Forward, loss and way back; what was taken and given back until the optimiser's turn."""
    taken.own(module.state_dict(keep_vars=True).values(), "weights")
    images, labels = torch.empty(shape), torch.empty((shape[0], *shape[2:]), dtype=torch.uint8)
    taken.own([images, labels], "inputs")
    taken.standing = len(taken.blocks)
    with torch.autograd.graph.saved_tensors_hooks(taken.keep, lambda tensor: tensor):
        with autocast(torch.device("cpu"), precision), _wide(taken.device, precision):
            logits = module(images)
        value = losses.over_depths(loss_of, logits, labels, getattr(module, "head_weights", None))
    value.backward()  # type: ignore[no-untyped-call]
    taken.own([p.grad for p in module.parameters() if p.grad is not None], "gradients")
    return tuple(taken.events)


class _Wide(TorchFunctionMode):
    """The casts of a GPU's autocast that a CPU's does not make."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        single = func is F.group_norm and args[1] == args[0].shape[1]  # instance norm, which stays as narrow as it is
        if func in WIDE and not single:
            args = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        return func(*args, **(kwargs or {}))


def _wide(device: str, precision: Precision) -> contextlib.AbstractContextManager[object]:
    return _Wide() if device == "cuda" and precision == "bf16" else contextlib.nullcontext()


class _Taken(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every storage that an operation makes, when it goes, and what the operation needs meanwhile."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.standing = 0
        self._alive: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would send every operation through the compiler's wrapper

    def own(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Says what the tensors are for."""
        for tensor in tensors:
            self.blocks[self.see(tensor)].kind = kind

    def keep(self, tensor: Tensor) -> Tensor:
        """Called with what the way back is promised; copies of the weights count as weights."""
        block = self.blocks[self.see(tensor)]
        if block.kind == "workspace":
            block.kind = "activations" if block.each else "weights"
        return tensor

    def see(self, tensor: Tensor) -> int:
        """The number of the tensor's block, which is taken now if it is new."""
        storage = (tensor.meta if isinstance(tensor, Hollow) else tensor).untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            number = self.take(storage.nbytes())
            self._alive[key] = number, weakref.ref(storage, lambda _: self._gone(key))
        return self._alive[key][0]

    def take(self, size: int, single: int | None = None) -> int:
        """A new block of that size."""
        grows = size % SAMPLES == 0
        fixed, each = (0, size // SAMPLES) if grows else (size, 0)
        return self._new(Block(fixed, each, "workspace", single=single))

    def _new(self, block: Block) -> int:
        self.blocks.append(block)
        self.events.append(len(self.blocks) - 1)
        return len(self.blocks) - 1

    def give(self, *numbers: int) -> None:
        """Gives blocks back."""
        self.events.extend(~number for number in numbers)

    def _gone(self, key: int) -> None:
        self.give(self._alive.pop(key)[0])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = without_numbers(func, args, kwargs or {})
        last: list[int] = []
        if func is aten.convolution.default:
            last = self._forward(args, out)
        elif func is aten.convolution_backward.default:
            last = self._backward(args, out)
        elif isinstance(out, Tensor) and args and self.device == "cpu":
            last = [self.take(size) for size in _converted(func, args, out)]
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self.see(one)
        self.give(*last)
        return out

    def _forward(self, args: Sequence[Any], out: Tensor) -> list[int]:
        """A convolution's copies of its input, weight and answer; those that stay until the answer is there."""
        x, weight = args[:2]
        columns = self._columns(x, weight, out, args[6], args[8])
        whole = self._whole(x)
        moved = [*self._filled(x, columns), self.take(weight.nbytes)]
        answer = self.take(self._size(out), columns)
        self.give(*moved)
        return [*whole, answer]

    def _backward(self, args: Sequence[Any], out: Sequence[Tensor]) -> list[int]:
        """As `_forward`: first the gradient of the input is found, then that of the weight."""
        slope, x, weight = args[:3]
        columns = self._columns(x, weight, slope, args[7], args[9])
        whole = self._whole(slope, x)
        if args[10][0]:
            moved = [self.take(self._size(slope), columns), self.take(weight.nbytes)]
            answer = self.take(self._size(x), None if columns is None else 0)
            self.give(*moved)
            self.see(out[0])
            self.give(answer)
        moved = [self.take(self._size(slope), columns), *self._filled(x, columns), self.take(weight.nbytes)]
        if self.device == "cpu" and x.dtype == torch.bfloat16 and prod(weight.shape[2:]) > 1 and not args[7]:
            # oneDNN turns both maps around for a product over positions
            turned = self._size(slope) + (self._size(x) if x.shape[1] >= THIN else 0)
            moved.append(self._new(Block(0, 0, "workspace", turned // SAMPLES)))
        return [*moved, *whole]

    def _columns(self, x: Tensor, weight: Tensor, out: Tensor, transposed: bool, groups: int) -> int | None:
        """Bytes of what torch unfolds a small map of a single sample into, which it does not leave to oneDNN.

        None where it does (`use_mkldnn` of ATen/native/Convolution.cpp).
        """
        small = groups == 1 and max(weight.shape[-2:]) <= 3 and prod(x.shape[1:4]) <= UNFOLDED
        if self.device != "cpu" or x.dtype != torch.float32 or not small:
            return None
        positions = prod((x if transposed else out).shape[2:])
        return positions * prod(weight.shape[1:]) * x.element_size() if prod(weight.shape[2:]) > 1 else 0

    def _whole(self, *maps: Tensor) -> list[int]:
        """Copies of what does not lie in one piece."""
        return [self.take(x.nbytes) for x in maps if not x.is_contiguous()]

    def _filled(self, x: Tensor, columns: int | None) -> list[int]:
        if x.shape[1] < THIN:
            return []
        return [self.take(self._size(x), None if columns is None else 0)]

    def _size(self, x: Tensor) -> int:
        """Bytes of a map with its channels filled up."""
        fill = FILLED[self.device]
        return x.nbytes // x.shape[1] * (-(-x.shape[1] // fill) * fill)


def _converted(func: Any, args: Sequence[Any], out: Tensor) -> Iterator[int]:
    """Bytes of the copies that an operation makes of numbers of another type than its answer's."""
    if func in MIXED:
        others = [a for a in args[:2] if isinstance(a, Tensor) and a.ndim and a.dtype != out.dtype]
        yield from (out.numel() * out.element_size() for _ in others)
    elif func in SUMS and args[0].dtype != out.dtype:
        yield args[0].numel() * out.element_size()
