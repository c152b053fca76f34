"""What a machine, a time and a set of rules allow a configuration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import log2, sqrt
from typing import Literal

from autoseg.records import Target
from autoseg.steps.topology import Limits, Weigh, elements, residual_elements

Rules = Literal["default", "nnunet"]
GIGABYTE = 1e9
CPU_MINUTES = 60.0
# nnU-Net's feature-map elements of a step for 8 GB
GPU_ELEMENTS = {3: 2 * 560e6, 2: 12 * 85e6}
# of its residual encoder U-Net: presets M, L and XL by memory in GB
PRESETS = {"M": (8, {3: 2 * 680e6, 2: 12 * 135e6}), "L": (24, {3: 2 * 2.1e9, 2: 12 * 380e6}),
           "XL": (40, {3: 2 * 3.6e9, 2: 12 * 560e6})}  # fmt: skip
BATCH = {3: 2, 2: 12}
# elements per second of a training step on two cores of 2024 with AVX-512-BF16, where nothing was measured
CPU_RATE = {3: 88e6, 2: 168e6}
CPU_STEPS = 3600.0  # that a budget of a quarter of an hour is divided into
QUARTER = 15.0
NARROW = 16  # features of the first stage on a CPU


def limits_of(target: Target, dims: int, rules: Rules, architecture: str) -> Limits:
    """What the target machine, and the time on it, allow for networks of that many axes."""
    if target.device == "cpu" and rules == "default":
        return _cpu(target, dims)
    share = target.memory / GIGABYTE
    cap = {3: 320, 2: 512}[dims]
    if architecture == "resenc":
        memory, reference = PRESETS[preset(target)]
        covered = 1.0 if rules == "nnunet" else 0.05
        return Limits(reference[dims] * share / memory, 32, cap, 2, BATCH[dims], covered)
    return Limits(GPU_ELEMENTS[dims] * share / 8, 32, cap, 2)


def preset(target: Target) -> str:
    """The largest of nnU-Net's presets for the residual encoder that the memory holds."""
    fitting = [name for name, (memory, _) in PRESETS.items() if memory * GIGABYTE <= target.memory]
    return fitting[-1] if fitting else "M"


def weigh_of(architecture: str, target: Target, rules: Rules, classes: int) -> Weigh:
    """How the feature-map elements are counted that the limits mean.

    nnU-Net counts its residual encoder by its own convolutions; on a CPU every network is planned as the plain U-Net.
    """
    residual = architecture == "resenc" and (target.device != "cpu" or rules == "nnunet")
    return partial(residual_elements if residual else elements, classes=classes)


def steps_aimed(minutes: float) -> float:
    """Into how many steps a budget on a CPU is divided: 3,600 in 15 minutes, growing as its square root.

    Four times the time is half spent on more steps and half on larger ones. Shorter times have steps of that size too.
    """
    return CPU_STEPS * sqrt(max(minutes, QUARTER) / QUARTER)


def rate_of(target: Target, dims: int) -> float:
    """Feature-map elements per second of a training step: as measured, else guessed from the threads."""
    return target.rates.get(str(dims)) or CPU_RATE[dims] * min(8.0, max(0.5, (target.threads or 2) / 2))


def rounded_rate(rate: float, dims: int) -> float:
    """A measured rate in steps of a factor of 1.41, so that noise does not change a plan."""
    return CPU_RATE[dims] * 2 ** (round(2 * log2(rate / CPU_RATE[dims])) / 2)


def widened(limits: Limits) -> Limits:
    """The same with twice the features."""
    return replace(limits, base=2 * limits.base, cap=2 * limits.cap)


def _cpu(target: Target, dims: int) -> Limits:
    minutes = max(target.minutes or CPU_MINUTES, QUARTER)
    wide = rate_of(target, dims) * minutes * 60 / steps_aimed(minutes)
    return Limits(wide, NARROW, 16 * NARROW, {3: 2, 2: 4}[dims])
