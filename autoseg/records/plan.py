"""Plans: everything that was decided."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from autoseg.records.base import Part, Record, Shape, Spacing
from autoseg.records.tasks import Question


class Network(Record):
    """Topology: one entry of `features`, `strides` and `kernels` per stage, finest first."""

    architecture: Part
    block: Part
    norm: Part
    features: tuple[int, ...]
    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]
    convs: tuple[int, int] = (2, 2)
    deep_supervision: bool = True

    @model_validator(mode="after")
    def _stages_agree(self) -> Network:
        if not len(self.features) == len(self.strides) == len(self.kernels):
            raise ValueError("features, strides and kernels name different numbers of stages")
        if not self.features:
            raise ValueError("features, strides and kernels name no stage")
        sizes = [*self.strides, *self.kernels]
        if len({len(size) for size in sizes}) > 1 or min(min(size, default=0) for size in sizes) < 1:
            raise ValueError(f"strides {self.strides} and kernels {self.kernels} want one number above 0 per axis")
        if max(self.strides[0]) > 1:
            raise ValueError(f"the first stage has stride {self.strides[0]}: its head must answer every voxel")
        if any(edge % 2 == 0 for kernel in self.kernels for edge in kernel):
            raise ValueError(f"kernels {self.kernels} want odd numbers")
        if min(*self.features, *self.convs) < 1:
            raise ValueError(f"features {self.features} and convs {self.convs} want numbers above 0")
        return self

    @property
    def divisor(self) -> Shape:
        """What every axis of an input must be a multiple of."""
        total = [1] * len(self.strides[0])
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return tuple(total)


class Train(Record):
    """How the weights are found. `foreground`: share of a batch that is centred on a foreground voxel."""

    loss: str
    augment: tuple[Part, ...]
    steps: int = Field(ge=1)
    optimiser: Part
    schedule: Part
    foreground: float = Field(ge=0, le=1)
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0


class Memory(Record):
    """Estimated peak of a training step, and how it was estimated."""

    bytes: int
    method: str


class Configuration(Record):
    """One way to look at the images. 2D: `spacing` and `patch` hold the two in-plane axes.

    `axes` is the order in which the image's (z, y, x) are used; slices are cut across the first of them.
    """

    spacing: Spacing
    axes: tuple[int, int, int] = (0, 1, 2)
    patch: Shape
    batch: int = Field(ge=1)
    normalise: tuple[Part, ...]
    resample: Part
    network: Network
    train: Train
    memory: Memory

    @model_validator(mode="after")
    def _patch_fits(self) -> Configuration:
        if len(self.patch) != len(self.spacing) or len(self.patch) != len(self.network.strides[0]):
            raise ValueError(f"patch {self.patch}, spacing {self.spacing} and strides differ in dimensions")
        for size, divisor in zip(self.patch, self.network.divisor, strict=True):
            if size < 1 or size % divisor:
                raise ValueError(f"patch {self.patch} is not a multiple of {self.network.divisor}")
        if min(self.spacing) <= 0 or sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"spacing {self.spacing} wants numbers above 0, axes {self.axes} 0, 1 and 2 in some order")
        return self

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch)


class Target(Record):
    """The machine a plan is made for."""

    device: Literal["cpu", "cuda", "mps"]
    memory: int
    threads: int | None = None


class Plan(Record):
    """Everything that was decided for a task, with a reason per decision. Holds no case name."""

    task: str
    name: str
    fingerprint: str
    folds: str
    target: Target
    question: Question
    configurations: dict[str, Configuration]
    seconds_per_step: dict[str, float] = {}
    because: dict[str, str] = {}

    @model_validator(mode="after")
    def _every_channel_is_normalised(self) -> Plan:
        channels = len(self.question.channels)
        for title, configuration in self.configurations.items():
            if len(configuration.normalise) != channels:
                raise ValueError(f"{title} normalises {len(configuration.normalise)} of {channels} channels")
        return self
