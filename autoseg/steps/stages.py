"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

STAGES = ("read", "augment", "forward", "loss", "backward", "optimiser")
SELDOM = 50  # steps of which one is measured on a GPU, which has to be waited for
NOTHING: AbstractContextManager[None] = nullcontext()


@dataclass
class Stages:
    """Adds up the seconds that every stage of a step takes, as `with stages("forward"):`; nothing before it has begun.

    `read` is the waiting for the patches, which are read while the step before is computed. On a CPU every step is
    measured. On a GPU, which works on its own, one step in 50 is: it waits for the GPU at both ends of a stage.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    measuring: bool = False
    steps: int = 0
    whole: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0

    def begin(self, step: int) -> None:
        """Before the step of this number, the first is 0: it is measured, if its turn has come."""
        self.measuring = self.device.type == "cpu" or step % SELDOM == SELDOM - 1
        if self.measuring:
            self._began = self._now()

    def __call__(self, stage: str) -> AbstractContextManager[None]:
        """Measures what happens inside, where the step is measured."""
        return self._timed(stage) if self.measuring else NOTHING

    def end(self) -> None:
        """After the step that was begun."""
        if self.measuring:
            self.steps += 1
            self.whole += self._now() - self._began
        self.measuring = False

    def taken(self) -> dict[str, float]:
        """Mean seconds per measured step of every stage, and the `rest` of a step; adds up anew from here.

        Empty where no step was measured since the last time.
        """
        steps, seconds, whole = self.steps, self.seconds, self.whole
        self.steps, self.seconds, self.whole = 0, {}, 0.0
        return per_step(seconds, whole, steps) if steps else {}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = self._now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


def per_step(seconds: Mapping[str, float], whole: float, steps: int) -> dict[str, float]:
    """Seconds per step of every stage, in their order, and the `rest` that no stage explains."""
    found = {stage: seconds.get(stage, 0.0) / steps for stage in STAGES}
    return found | {"rest": max(0.0, whole - sum(seconds.values())) / steps}
