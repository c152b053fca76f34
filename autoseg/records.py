"""Every JSON file of autoseg as a frozen record: a misspelt field is an error that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from autoseg.errors import AutosegError, BadFile, BadPlan, nearest

R = TypeVar("R", bound="Record")
Spacing = tuple[float, ...]
Shape = tuple[int, ...]
Kind = Literal["ct", "mr", "us", "pet", "rgb", "reflectance", "db", "categorical", "other"]
REFERENCE = "reference"  # the rater of a case with one label


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN or inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# -- parts ---------------------------------------------------------------------------------------------


class Part(Record):
    """A named, replaceable piece: the only dynamic thing in a plan. `name` is looked up in `parts.py`."""

    name: str
    options: dict[str, JsonValue] = {}


# -- tasks ---------------------------------------------------------------------------------------------


class Channel(Record):
    """One input channel; `kind` decides how it is normalised."""

    name: str
    kind: Kind


class CaseFiles(Record):
    """Where one case lies: one file per channel or one file with all of them.

    Paths are absolute or relative to the task's folder. `group` (a patient, a scene) never crosses folds.
    """

    id: str
    images: tuple[str, ...] = Field(min_length=1)
    labels: dict[str, str] = {}
    group: str | None = None
    site: str | None = None

    @property
    def label(self) -> str | None:
        """The label file: the first rater's."""
        return next(iter(self.labels.values()), None)


class Question(Record):
    """What is asked of an image: which channels come in, which classes go out.

    `labels` gives every class the value it has in the label files; `merged` counts further file values as
    one of those; voxels with the value `ignore` are left out of training and scores.
    """

    reader: str
    channels: tuple[Channel, ...] = Field(min_length=1)
    labels: dict[str, int]
    ignore: int | None = None
    merged: dict[int, int] = {}

    @model_validator(mode="after")
    def _labels_make_sense(self) -> Question:
        values = list(self.labels.values())
        if len(values) < 2:
            raise ValueError(f"labels {self.labels} hold fewer than two classes")
        if len(values) > 254:
            raise ValueError(f"{len(values)} classes are more than the 254 that fit a label")
        if len(set(values)) < len(values):
            raise ValueError(f"labels {self.labels} give one value to two classes")
        if self.ignore in values:
            raise ValueError(f"ignore value {self.ignore} is also a class")
        if unknown := sorted(set(self.merged.values()) - set(values)):
            raise ValueError(f"merged values {unknown} are no class")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices: by value, background (0) first."""
        return tuple(sorted(self.labels, key=lambda name: (self.labels[name] != 0, self.labels[name])))

    @property
    def foreground(self) -> tuple[str, ...]:
        """The classes that are trained on with Dice and scored: all but the one of value 0, if there is one."""
        return tuple(name for name in self.classes if self.labels[name] != 0)


class Dataset(Question):
    """A task as it lies on disk: the question and the cases that teach it."""

    name: str
    cases: tuple[CaseFiles, ...]

    def question(self) -> Question:
        """The part of the dataset that a model carries: no case names, no paths."""
        return Question(**{name: getattr(self, name) for name in Question.model_fields})

    def case(self, id: str) -> CaseFiles:
        """The case of that name."""
        return next(case for case in self.cases if case.id == id)


class Folds(Record):
    """Which cases each fold validates on. Written once; new cases are added, old ones never move."""

    rule: str
    folds: tuple[tuple[str, ...], ...]

    def split(self, fold: int | str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(training, validation) case ids of a fold; fold 'all' trains on every case and validates none."""
        held_out = () if fold == "all" else self.folds[int(fold)]
        return tuple(c for ids in self.folds for c in ids if c not in set(held_out)), held_out


# -- fingerprint ---------------------------------------------------------------------------------------


class Fault(Record):
    """Something wrong with a case. `fatal`: the case cannot be used."""

    case: str
    fault: str
    detail: str
    fatal: bool


class Intensity(Record):
    """Distribution of one channel over some voxels of one case; `quantiles` at `intensity.LEVELS`."""

    mean: float
    sd: float
    quantiles: tuple[float, ...]


class CaseFacts(Record):
    """What was measured of one case.

    `shape`, `cropped` and `spacing` are (z, y, x), z = 1 for flat images; `cropped` is the box of the
    non-zero valid voxels. `valid_share` is the share of valid voxels. Counts are per class name.
    """

    sha256: str
    shape: Shape = ()
    cropped: Shape = ()
    spacing: Spacing = ()
    dtype: str = ""
    valid_share: float = 1.0
    valid: tuple[Intensity | None, ...] = ()
    foreground: tuple[Intensity | None, ...] = ()
    voxels: dict[str, int] = {}
    components: dict[str, int] = {}
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the case can be trained on."""
        return not any(fault.fatal for fault in self.faults)


class Fingerprint(Record):
    """What was measured of a task."""

    question: str
    flat: bool
    cases: dict[str, CaseFacts]
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> dict[str, CaseFacts]:
        """The cases that can be trained on."""
        return {id: facts for id, facts in self.cases.items() if facts.usable}

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """Faults of single cases and of the folder (orphans), fatal ones first."""
        faults = [fault for facts in self.cases.values() for fault in facts.faults] + list(self.faults)
        return tuple(sorted(faults, key=lambda fault: (not fault.fatal, fault.case)))


# -- plan ----------------------------------------------------------------------------------------------


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


# -- runs ----------------------------------------------------------------------------------------------


class Run(Record):
    """What a run was started with; written before its first step, never changed."""

    task: str
    plan: str
    configuration: str
    fold: int | Literal["all"]
    seed: int
    settings: Configuration
    question: Question
    folds: str
    device: str
    precision: Literal["bf16", "float32"]
    threads: int
    budget: float | None = None
    plugins: dict[str, str] = {}
    skipped: tuple[str, ...] = ()
    version: str


class Checkpoint(Record):
    """The header of a checkpoint file; the tensors of the network and the optimiser follow it."""

    run: Run
    step: int
    skipped_steps: int = 0


# -- scores --------------------------------------------------------------------------------------------


class Measures(Record):
    """Agreement of one class in one case. Ratios are None where they are not defined (0/0).

    Volumes in mm³ for volumes, m² for rasters, pixels for pictures without spacing.
    """

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    true_positives: int
    false_positives: int
    false_negatives: int
    volume_prediction: float
    volume_reference: float


class Means(Record):
    """Means over the cases in which the measure is defined; `cases` says how many had a Dice."""

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    cases: int


class Scores(Record):
    """Per case and class; `mean` over cases per class; `dice` is the mean of the classes' mean Dice."""

    rule: str
    unit: str
    cases: dict[str, dict[str, Measures]]
    mean: dict[str, Means]
    dice: float | None


# -- reading, amending ---------------------------------------------------------------------------------


def parse(kind: type[R], text: str | bytes, where: str, error: type[AutosegError] = BadFile) -> R:
    """The record that `text` spells. Every fault is named, with the fields nearest to a misspelt one."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as problems:
        raise error(_faults(kind, problems), where=where) from None


def amend(record: R, changes: Mapping[str, Any], where: str = "") -> R:
    """`record` with dotted fields replaced: `amend(plan, {"configurations.2d.train.steps": 500})`.

    Raises: BadPlan naming the field, and the nearest ones, when it does not exist or the value is not valid.
    """
    fields = json.loads(record.model_dump_json())
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = fields
        for name in parents:
            place = _step(place, name, path, where)
        if parents[-1:] != ["options"]:  # what options a part has, the part knows
            _step(place, last, path, where)
        place[int(last) if isinstance(place, list) else last] = value
    return parse(type(record), json.dumps(fields), where, BadPlan)


def _step(place: Any, name: str, path: str, where: str) -> Any:
    if isinstance(place, list):
        known = [str(i) for i in range(len(place))]
    else:
        known = list(place) if isinstance(place, dict) else []
    if name not in known:
        remedy = "the fields here are: " + ", ".join(known) if known else "there is nothing below this field"
        raise BadPlan(f"no field {name!r} in {path!r}{nearest(name, known)}", where=where, remedy=remedy)
    return place[int(name)] if isinstance(place, list) else place[name]


def _faults(kind: type[Record], problems: ValidationError) -> str:
    lines = []
    for problem in problems.errors(include_url=False):
        path = ".".join(str(p) for p in problem["loc"]) or "the file"
        hint = nearest(str(problem["loc"][-1]), _names(kind)) if problem["type"] == "extra_forbidden" else ""
        message = "is not a known field" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{path}: {message}{hint}")
    return "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")


def _names(kind: type[Record]) -> set[str]:
    names: set[str] = set(kind.model_fields)
    for other in Record.__subclasses__():
        names |= set(other.model_fields)
    return names


def digest(record: Record) -> str:
    """Sixteen hex digits that change when the record does."""
    fields = json.dumps(record.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()[:16]
