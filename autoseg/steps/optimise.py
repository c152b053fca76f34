"""Optimisers and schedules of the learning rate."""

from __future__ import annotations

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


def poly(steps: int, power: float = 0.9) -> Schedule:
    """(1 − step / steps)^power."""
    return lambda step: (1 - step / steps) ** power


def constant(steps: int) -> Schedule:
    """1 at every step."""
    return lambda step: 1.0
