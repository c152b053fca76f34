"""Models that leave the machine: what predict needs and people ask of them, and nothing of any case."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from autoseg.records.base import Record
from autoseg.records.choice import NOTHING, Postprocessing
from autoseg.records.fingerprint import Intensity
from autoseg.records.plan import Configuration
from autoseg.records.runs import Means
from autoseg.records.tasks import Question

WEIGHTS = re.compile(r"weights_\d{3}\.safetensors")


class Span(Record):
    """The least, the median and the most of a number over the training cases."""

    least: float
    median: float
    most: float


class SeenChannel(Record):
    """The intensities of a channel in the training images.

    `valid` and `foreground` are pooled over the cases; `low`, `middle` and `high` are the 0.5th, the 50th and the
    99.5th percentile of the valid values of a case, over the cases; `constant`: there are cases that have one value
    only. None where there are no values.
    """

    valid: Intensity | None = None
    foreground: Intensity | None = None
    low: Span | None = None
    middle: Span | None = None
    high: Span | None = None
    constant: bool = False


class Seen(Record):
    """What the training images were like, all together; it holds nothing that names one of them.

    `spacing` is that along z, y, x (y, x where they are `flat`) in `unit`: millimetres, metres, or pixels where the
    images say nothing of their size. `orientations` are those of the files.
    """

    cases: int = Field(ge=1)
    flat: bool
    unit: Literal["mm", "m", "pixels"]
    spacing: tuple[Span, ...]
    orientations: tuple[str, ...] = ()
    channels: tuple[SeenChannel, ...]


class Member(Record):
    """A trained network of a model: one run without its cases.

    `weights` is the file that holds them, of `size` bytes and with that `sha256`; `steps` how long it was trained;
    `precision` in what; `plugins` the names and contents of those that it needs.
    """

    configuration: str
    fold: int | Literal["all"]
    seed: int
    settings: Configuration
    steps: int = Field(ge=0)
    precision: Literal["bf16", "float32"]
    weights: str
    size: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    plugins: dict[str, str] = {}


class PackedModel(Record):
    """What a model consists of.

    `members` hold the networks of the `configurations` that it predicts with, and those of the earlier stages that
    these go on from. `decisions` and `measured` are the hashes of the plan and of the fingerprint. `validation` holds
    the means per configuration and class over the cases that were held out, each predicted by a network that had not
    seen it. `cleaning` is done to every label.
    """

    format: Literal[1] = 1
    version: str
    created: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    task: str
    plan: str
    decisions: str
    measured: str
    question: Question
    configurations: tuple[str, ...] = Field(min_length=1)
    members: tuple[Member, ...] = Field(min_length=1, max_length=1000)
    validation: dict[str, dict[str, Means]] = {}
    seen: Seen | None = None
    cleaning: Postprocessing = NOTHING

    @model_validator(mode="after")
    def _members_are_whole(self) -> PackedModel:
        files = [member.weights for member in self.members]
        if bad := [name for name in files if not WEIGHTS.fullmatch(name)]:
            raise ValueError(f"{bad[0]!r} cannot name a file of weights")
        if len(set(files)) < len(files):
            raise ValueError("two members have the same weights")
        there = {member.configuration: member.settings.previous for member in self.members}
        for title in self.configurations:
            if title not in there:
                raise ValueError(f"no member is of the configuration {title!r}")
            before = there[title]
            if before is not None and (before not in there or there[before] is not None):
                raise ValueError(f"{title} goes on from {before}, of which there is no member that goes on from none")
        return self

    @model_validator(mode="after")
    def _members_fit(self) -> PackedModel:
        channels = len(self.question.channels)
        seen = self.seen
        if seen is not None and (len(seen.channels) != channels or len(seen.spacing) != (2 if seen.flat else 3)):
            raise ValueError("what is told of the training images is of other channels or axes")
        known: dict[str, Configuration] = {}
        for member in self.members:
            if len(member.settings.normalise) != channels:
                raise ValueError(f"{member.weights} takes {len(member.settings.normalise)} of {channels} channels")
            settings = alike(member.settings)
            if known.setdefault(member.configuration, settings) != settings:
                raise ValueError(f"the members of {member.configuration} were trained with different plans")
        return self

    def members_of(self, title: str) -> tuple[Member, ...]:
        """The members of a configuration, in order."""
        return tuple(member for member in self.members if member.configuration == title)


def alike(settings: Configuration) -> Configuration:
    """What the networks that are averaged have in common: all but seed and steps."""
    return settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 0, "steps": 1})})
