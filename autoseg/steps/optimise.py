"""Optimisers and schedules of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Schedule = Callable[[int], float]


def sgd(
    parameters: Iterable[Tensor], rate: float = 0.01, momentum: float = 0.99, weight_decay: float = 3e-5
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, as nnU-Net sets it."""
    return torch.optim.SGD(parameters, rate, momentum=momentum, nesterov=True, weight_decay=weight_decay)


def adamw(parameters: Iterable[Tensor], rate: float = 1e-3, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    """AdamW (Loshchilov 2019): gets further than SGD in the few thousand steps that a CPU has time for."""
    return torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)


def poly(steps: int, power: float = 0.9, warmup: float = 0.0) -> Schedule:
    """(1 − t)^power over the share t of the steps, after a warm-up."""
    return _warmed(lambda t: (1 - t) ** power, steps, warmup)


def cosine(steps: int, end: float = 0.0, warmup: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `end` (Loshchilov 2017, without restarts), after a warm-up."""
    _require(0 <= end <= 1, f"end={end}", "0 to 1")
    return _warmed(lambda t: _eased(1, end, t), steps, warmup)


def one_cycle(steps: int, rise: float = 0.3, start: float = 0.04, end: float = 4e-6) -> Schedule:
    """Half a cosine from `start` to 1 over the share `rise` of the steps, another to `end` (Smith 2018).

    The momentum stays as it is.
    """
    _require(0 < rise < 1, f"rise={rise}", "a share between 0 and 1")
    _require(0 < start <= 1 and 0 <= end <= 1, f"start={start}, end={end}", "0 to 1")

    def factor(step: int) -> float:
        t = step / steps
        return _eased(start, 1, t / rise) if t < rise else _eased(1, end, (t - rise) / (1 - rise))

    return factor


def constant(steps: int, warmup: float = 0.0) -> Schedule:
    """1 at every step, after a warm-up."""
    return _warmed(lambda t: 1.0, steps, warmup)


def _warmed(curve: Callable[[float], float], steps: int, warmup: float) -> Schedule:
    """A straight line to 1 over the share `warmup` of the steps, then the curve over those that are left."""
    _require(0 <= warmup < 1, f"warmup={warmup}", "a share of the steps from 0 to below 1")
    rising = round(warmup * steps)
    return lambda step: (step + 1) / (rising + 1) if step < rising else curve((step - rising) / (steps - rising))


def _eased(first: float, last: float, t: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * t)) / 2


def _require(holds: bool, what: str, expected: str) -> None:
    if not holds:
        raise ValueError(f"{what}, expected {expected}")
