"""How much memory a training step needs: estimated without taking it, or measured by taking it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.errors import BadUsage, RunFailed
from autoseg.parts import OPTIMISERS
from autoseg.records import Configuration, Network, Part, Question
from autoseg.steps import device as devices
from autoseg.steps import speed, train
from autoseg.steps.allocators import Allocator, allocators
from autoseg.steps.device import Precision
from autoseg.steps.learner import build
from autoseg.steps.trace import Kind, Trace, trace

DeviceKind = Literal["cpu", "cuda", "mps"]
MEGABYTE = 10**6
# what a process grows by for any network, however small: torch's code, oneDNN's kernels, Python's modules. CPU: 107 to
# 111 MB for U-Nets of 4 features, 2D and 3D, both precisions (two cores, torch 2.13.0, 2026-11-20). CUDA: the workspace
# that torch lends to cuBLAS on an H100; the context of the driver is not counted. Neither it nor MPS is measured.
BASE = {"cpu": 109 * MEGABYTE, "cuda": 32 * 2**20, "mps": 0}
STEPS = 3  # after which the heap of a process hardly grows
REFERENCE = 8  # batch at which it is found which moment is the highest, and what the allocator cannot use then


@dataclass(frozen=True)
class Estimate:
    """Bytes in use at the highest moment of a training step.

    Attributes:
        weights: and their copies in bfloat16; gradients: of the weights, those that are there by then;
        optimiser: its numbers per weight; activations: feature maps kept for the way back; inputs: images and labels;
        workspace: all that lives for a moment, such as the copies that convolutions make and the gradients of
        feature maps, and what the allocator holds and cannot use; base: what a process needs for any network.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    workspace: int
    inputs: int
    base: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def told(self) -> str:
        """The parts in one line, in MB."""
        return ", ".join(f"{field.name} {getattr(self, field.name) / MEGABYTE:.0f} MB" for field in fields(self))


def precision_on(device: str) -> Precision:
    """What `auto` stands for on a device that may not be here: a GPU is taken to have bfloat16."""
    if device == "cuda":
        return "bf16"
    return devices.precision(torch.device(device), "auto")


def estimate(
    network: Network,
    channels: int,
    outputs: int,
    patch: tuple[int, ...],
    batch: int,
    *,
    device: DeviceKind,
    precision: Precision,
    optimiser: Part,
    loss: str = "dice+ce",
) -> Estimate:
    """The memory of a training step.

    What does not depend on the batch is found once and remembered. Raises: BadPlan naming the part that cannot be had.
    """
    asked = network.model_dump_json(), channels, outputs, tuple(patch), device, precision, loss
    return _profile(*asked, _numbers(optimiser)).at(batch)


def _numbers(optimiser: Part) -> float:
    """How many numbers the optimiser keeps per weight, seen on its first step with a small one."""
    weight = torch.nn.Parameter(torch.zeros(1024))
    weight.grad = torch.zeros_like(weight)
    one = OPTIMISERS.build(optimiser, parameters=[weight])
    one.step()
    state = one.state_dict()["state"].values()
    kept = [value for values in state for value in values.values() if isinstance(value, Tensor) and value.ndim]
    return float(sum(value.nbytes for value in kept) / weight.nbytes)


@lru_cache(maxsize=32)
def _profile(
    network: str, channels: int, outputs: int, patch: tuple[int, ...], device: str, precision: Precision, loss: str,
    numbers: float,
) -> Profile:  # fmt: skip
    step = trace(Network.model_validate_json(network), channels, outputs, patch, device, precision, loss)
    return Profile(step, device, numbers)


class Profile:
    """What a step has in use from moment to moment, for any batch.

    Args:
        numbers: how many the optimiser keeps per weight.
    """

    def __init__(self, step: Trace, device: str, numbers: float) -> None:
        self.step, self.device = step, device
        self.numbers, self.optimiser = numbers, round(numbers * sum(step.weights))
        # the optimiser's own: on a CPU it takes weight after weight, on a GPU all at once
        self.turn = 2 * max(step.weights, default=0) if device == "cpu" else sum(step.weights)
        self._of = np.array([number if number >= 0 else ~number for number in step.events])
        self._signs = np.where(np.array(step.events) >= 0, 1, -1)
        self._kinds = np.array([block.kind for block in step.blocks])
        self._gradients = {n for n, block in enumerate(step.blocks) if block.kind == "gradients"}
        self._bytes = np.array([(block.fixed, block.each, block.threaded) for block in step.blocks], np.int64)
        self._single = np.array([-1 if block.single is None else block.single for block in step.blocks], np.int64)
        self._high = int(self._moments(self._sizes(REFERENCE))[:-1].argmax())
        self._spare = self._unusable(REFERENCE)

    def at(self, batch: int) -> Estimate:
        """The estimate for a batch."""
        sizes = self._sizes(batch)
        moments = self._moments(sizes)
        high = int(moments.argmax())
        parts: dict[str, int] = {kind: self._of_kind(kind, sizes, self._high) for kind in get_args(Kind)}
        # for few samples another moment may be higher, such as the optimiser's turn
        more = int(moments[high]) - sum(parts.values())
        gradients = min(more, max(0, self._of_kind("gradients", sizes, high) - parts["gradients"]))
        parts["gradients"] += gradients
        parts["workspace"] += more - gradients
        unusable = self._unusable(1) if batch == 1 else self._spare
        parts["workspace"] += round(unusable * (parts["activations"] + parts["workspace"] + parts["gradients"]))
        return Estimate(**parts, optimiser=self.optimiser, base=BASE[self.device])

    def _moments(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes in use after every event; the last moment is the optimiser's turn."""
        moments: NDArray[np.int64] = (sizes[self._of] * self._signs).cumsum()
        moments[-1] += self.turn
        return moments

    def _of_kind(self, kind: Kind, sizes: NDArray[np.int64], moment: int) -> int:
        """Bytes in use at a moment for one purpose."""
        until = slice(moment + 1)
        return int((sizes[self._of[until]] * self._signs[until])[self._kinds[self._of[until]] == kind].sum())

    def _sizes(self, batch: int) -> NDArray[np.int64]:
        """Bytes of every block."""
        sizes: NDArray[np.int64] = self._bytes @ np.array([1, batch, min(batch, torch.get_num_threads())])
        return np.where(self._single < 0, sizes, self._single) if batch == 1 else sizes

    def _unusable(self, batch: int) -> float:
        """What the allocator holds beside what is in use at the highest moment, as a share of what comes and goes."""
        sizes = self._sizes(batch)
        staying = int(sizes[: self.step.standing].sum())
        most = int(self._moments(sizes)[:-1].max())
        held = fmean(self._held(one, sizes.tolist()) for one in allocators(self.device)) - self.optimiser
        return max(0.0, (held - most) / (most - staying))

    def _held(self, allocator: Allocator, sizes: list[int]) -> int:
        """Bytes that the allocator has taken from the system after a few steps."""
        standing = self.step.standing
        for number in range(standing):
            allocator.take(number, sizes[number])
        left: set[int] = set()
        for step in range(STEPS):
            for number in sorted(left):
                allocator.give(number)
            left = _played(allocator, self.step.events[standing:], sizes)
            for number in sorted(left - self._gradients):
                allocator.give(number)
            left &= self._gradients
            if step == 0:
                for number, size in enumerate(self.step.weights, len(sizes)):
                    allocator.take(number, round(size * self.numbers))
        return allocator.most


def _played(allocator: Allocator, events: Iterable[int], sizes: Sequence[int]) -> set[int]:
    """Takes and gives the blocks of a step; the numbers of those that are left."""
    left = set()
    for number in events:
        if number >= 0:
            allocator.take(number, sizes[number])
            left.add(number)
        else:
            allocator.give(~number)
            left.discard(~number)
    return left


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest whole number from `low` to `high` that fits, where all below it do; `low` is not asked about."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def measured(configuration: Configuration, question: Question, device: torch.device, precision: Precision) -> int:
    """Bytes that a few training steps on random images add to this process (CPU, Linux) or take of the GPU.

    On a CPU the process should be a fresh one: what it has freed before is used again and is not counted. Where a GPU's
    memory does not hold the steps, it answers more than there is. Raises: BadUsage where nothing can be measured.
    """
    before = _begin(device)
    if not _dry_run(configuration, question, device, precision):
        return 2 * devices.memory(device)
    found = _most(device) - before
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _dry_run(configuration: Configuration, question: Question, device: torch.device, precision: Precision) -> bool:
    """Takes a few steps; whether the batch went through at once."""
    learner = build(configuration, question, 0, device, precision)
    images, labels = speed.noise(configuration, question, device)
    try:
        for _ in range(STEPS):
            train.learn(learner, images, labels)
    except RunFailed:  # not even a single sample does
        return False
    return learner.pieces == 1


def _begin(device: torch.device) -> int:
    """Starts to look for the most bytes in use; those in use now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_reserved(device))
    if device.type == "mps":
        torch.mps.empty_cache()
    else:
        # Linux: 5 sets the highest mark of this process back to what it holds now; nothing else can
        with contextlib.suppress(OSError):  # where it is not allowed, the process is as high as it ever was
            Path("/proc/self/clear_refs").write_text("5")
    return _most(device)


def _most(device: torch.device) -> int:
    """The most bytes that were in use. Raises: BadUsage where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise BadUsage("the memory of a process is read from /proc, which this system has not") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
