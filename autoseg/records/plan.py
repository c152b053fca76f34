"""Plans: everything that was decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from autoseg.records.base import Part, Record, Shape, Spacing
from autoseg.records.tasks import Question

Place = Literal["encoder", "skip", "join", "decoder", "bottleneck", "head"]


class Insert(Record):
    """A part that stands on the feature maps of a place, or joins two of them there.

    `stages` is a slice of the place's stages, 0 the finest: (0, 2) are the two finest, (None, None) all.
    """

    part: Part
    place: Place
    stages: tuple[int | None, int | None] = (None, None)

    @property
    def text(self) -> str:
        """As it is written on the command line: cbam@skip[0:2]."""
        first, last = self.stages
        bounds = ":".join("" if bound is None else str(bound) for bound in self.stages)
        if first is not None and last is not None and last == first + 1 != 0:
            bounds = str(first)
        return f"{self.part.text}@{self.place}" + (f"[{bounds}]" if bounds != ":" else "")


class Network(Record):
    """Topology: one entry of `features`, `strides`, `kernels` and `depths` (blocks) per stage, finest first.

    The decoder's stages, of which there is one less, consist of `decoder_depths` times `decoder_block`.
    """

    architecture: Part
    block: Part
    decoder_block: Part
    norm: Part
    downsample: Part = Part(name="strided")
    upsample: Part = Part(name="transposed")
    inserts: tuple[Insert, ...] = ()
    dropout: float = Field(default=0.0, ge=0, lt=1)
    features: tuple[int, ...]
    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]
    depths: tuple[int, ...]
    decoder_depths: tuple[int, ...]
    deep_supervision: bool = True

    @model_validator(mode="after")
    def _stages_agree(self) -> Network:
        count = len(self.features)
        if not count:
            raise ValueError("features name no stage")
        if not count == len(self.strides) == len(self.kernels) == len(self.depths) == len(self.decoder_depths) + 1:
            raise ValueError("features, strides, kernels, depths and decoder_depths name different numbers of stages")
        sizes = [*self.strides, *self.kernels]
        if len({len(size) for size in sizes}) > 1 or min(min(size, default=0) for size in sizes) < 1:
            raise ValueError(f"strides {self.strides} and kernels {self.kernels} want one number above 0 per axis")
        if max(self.strides[0]) > 1:
            raise ValueError(f"the first stage has stride {self.strides[0]}: its head must answer every voxel")
        if any(edge % 2 == 0 for kernel in self.kernels for edge in kernel):
            raise ValueError(f"kernels {self.kernels} want odd numbers")
        if min(*self.features, *self.depths, *self.decoder_depths, 1) < 1:
            raise ValueError(f"features {self.features} and depths {self.depths} want numbers above 0")
        return self

    @classmethod
    def plain(cls, features: Shape, strides: Sequence[Shape], kernels: Sequence[Shape] = (), **fields: Any) -> Network:
        """The plain U-Net of a topology: one block of two convolutions per stage, 3 wide where no kernels are given."""
        count, edges = len(features), (3,) * len(strides[0])
        return cls(
            **{
                "architecture": Part(name="unet"), "block": Part(name="plain"), "decoder_block": Part(name="plain"),
                "norm": Part(name="instance"), "features": tuple(features), "strides": tuple(strides),
                "kernels": tuple(kernels) or (edges,) * count, "depths": (1,) * count,
                "decoder_depths": (1,) * (count - 1), **fields,
            }
        )  # fmt: skip

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def divisor(self) -> Shape:
        """What every axis of an input must be a multiple of."""
        total = [1] * self.dims
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return tuple(total)

    def sizes(self, patch: Shape) -> tuple[Shape, ...]:
        """The feature map's size at every stage."""
        sizes, size = [], patch
        for stride in self.strides:
            size = tuple(-(-edge // s) for edge, s in zip(size, stride, strict=True))
            sizes.append(size)
        return tuple(sizes)


class Train(Record):
    """How the weights are found.

    `sampling`: how often each case is drawn. `foreground`: share of a batch that is centred on a foreground voxel.
    `class_weights`: one per class, for the losses that take them. `depth_weights`: of the heads, finest first, where
    the network's own are not wanted. `average`: how much of the running average of the weights stays at every step,
    0.999 for example; prediction takes the average.
    """

    loss: str
    class_weights: tuple[float, ...] | None = None
    depth_weights: tuple[float, ...] | None = None
    augment: tuple[Part, ...]
    steps: int = Field(ge=1)
    optimiser: Part
    schedule: Part
    sampling: Part = Part(name="uniform")
    foreground: float = Field(ge=0, le=1)
    average: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0


class Memory(Record):
    """Estimated peak of a training step, and how it was estimated."""

    bytes: int
    method: str


class Configuration(Record):
    """One way to look at the images. 2D: `spacing` and `patch` hold the two in-plane axes.

    `axes` is the order in which the image's (z, y, x) are used; slices are cut across the first of them. `previous`
    names the configuration whose prediction is given to this one as further channels, one per foreground output.
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
    previous: str | None = None

    @model_validator(mode="after")
    def _patch_fits(self) -> Configuration:
        if len(self.patch) != len(self.spacing) or len(self.patch) != len(self.network.strides[0]):
            raise ValueError(f"patch {self.patch}, spacing {self.spacing} and strides differ in dimensions")
        divisor = self.network.divisor
        if any(size < 1 or size % d for size, d in zip(self.patch, divisor, strict=True)):
            legal = tuple(max(1, round(size / d)) * d for size, d in zip(self.patch, divisor, strict=True))
            raise ValueError(f"patch {self.patch} is not a multiple of {divisor}: the nearest that is: {legal}")
        if min(self.spacing) <= 0 or sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"spacing {self.spacing} wants numbers above 0, axes {self.axes} 0, 1 and 2 in some order")
        return self

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch)


class Target(Record):
    """The machine a plan is made for, and the time on it.

    `memory` in bytes; `minutes` for the training of one fold; `rates` are feature-map elements of the plain U-Net that
    a training step works off per second, by number of axes, where they were measured.
    """

    device: Literal["cpu", "cuda", "mps"]
    memory: int = Field(ge=1)
    threads: int | None = None
    minutes: float | None = Field(default=None, gt=0)
    rates: dict[str, float] = {}


class Plan(Record):
    """Everything that was decided for a task, with a reason per decision. Holds no case name."""

    task: str
    name: str
    fingerprint: str
    folds: str
    rules: Literal["default", "nnunet"] = "default"
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
            before = configuration.previous
            if before is not None and (before == title or before not in self.configurations):
                raise ValueError(f"{title} goes on from {before}, which is no other configuration")
        return self
