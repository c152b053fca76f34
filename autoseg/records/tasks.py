"""Tasks: what is asked, where the cases lie, which fold each validates in."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from autoseg.records.base import Record

Kind = Literal["ct", "mr", "us", "pet", "rgb", "reflectance", "db", "categorical", "angle", "other"]
REFERENCE = "reference"  # the rater of a case with one label


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

    A case comes in `files` image files, one per channel or one for all. `labels` gives every class the
    value it has in the label files; `merged` counts further file values as one of those; voxels with the
    value `ignore` are left out of training and scores. Where there are `regions`, sets of values that may
    overlap, these are trained and scored in place of the classes; a prediction is one label still: region
    after region is written with its value of `written`, the later over the earlier. Where label files
    are coded by colours, `colours` gives every one ("#3c1098") the value that it stands for. Where some case has the
    labels of several `raters`, these are all that there are, by name.
    """

    reader: str
    channels: tuple[Channel, ...] = Field(min_length=1)
    files: int = Field(default=1, ge=1)
    labels: dict[str, int]
    ignore: int | None = None
    merged: dict[int, int] = {}
    regions: dict[str, tuple[int, ...]] = {}
    written: tuple[int, ...] = ()
    colours: dict[str, int] = {}
    raters: tuple[str, ...] = ()

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

    @model_validator(mode="after")
    def _colours_make_sense(self) -> Question:
        if bad := [colour for colour in self.colours if not re.fullmatch("#[0-9a-f]{6}", colour)]:
            raise ValueError(f"{bad[0]!r} is no colour like '#3c1098'")
        known = {*self.labels.values(), *self.merged, self.ignore}
        if unknown := sorted(set(self.colours.values()) - known):
            raise ValueError(f"colours stand for {unknown}, which are values of no class")
        return self

    @model_validator(mode="after")
    def _regions_make_sense(self) -> Question:
        if len(self.written) != len(self.regions):
            raise ValueError(f"{len(self.regions)} regions are written with {len(self.written)} values")
        if self.regions and 0 not in self.labels.values():
            raise ValueError("regions need a class of the value 0: what lies in none of them")
        known = {*self.labels.values()} - {0}
        for (name, values), value in zip(self.regions.items(), self.written, strict=True):
            if not values or not known.issuperset(values):
                raise ValueError(f"region {name!r} of the values {[*values]} holds not only classes above background")
            if value not in values:
                raise ValueError(f"region {name!r} is written as {value}, which is none of its values {[*values]}")
        if len({frozenset(values) for values in self.regions.values()}) < len(self.regions):
            raise ValueError(f"two of the regions {self.regions} hold the same values")
        for value in sorted(known):
            self._require_kept(value)
        return self

    def _require_kept(self, value: int) -> None:
        """Raises: ValueError when a voxel of the value would be written with one that lies in other regions."""
        order = zip(self.regions.values(), self.written, strict=True)
        answer = next((last for values, last in reversed([*order]) if value in values), 0)
        other = [name for name, values in self.regions.items() if (value in values) != (answer in values)]
        if other:
            raise ValueError(
                f"a voxel of the value {value} would be written as {answer}, which differs in the region {other[0]!r}; "
                "declare every region before the smaller ones inside it, and an overlap of two as a region after both"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices: by value, background (0) first."""
        return tuple(sorted(self.labels, key=lambda name: (self.labels[name] != 0, self.labels[name])))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the network answers, in order: the regions where there are any, else the classes."""
        return tuple(self.regions) or self.classes

    @property
    def foreground(self) -> tuple[str, ...]:
        """The outputs that are trained on with Dice and scored: all but the class of value 0, if it is one."""
        return self.outputs[self.first :]

    @property
    def first(self) -> int:
        """Index of the first foreground output: 1 after a class of value 0, else 0; regions have none."""
        return 0 if self.regions else self.background

    @property
    def background(self) -> int:
        """How many classes are background: 1 when one has the value 0, else 0; regions or not."""
        return int(0 in self.labels.values())

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """(V, R): for every class, by index, 1 for the regions that it lies in and 0 for the others."""
        values = (self.labels[name] for name in self.classes)
        return tuple(tuple(int(value in region) for region in self.regions.values()) for value in values)


class Dataset(Question):
    """A task as it lies on disk: the question and the cases that teach it."""

    name: str
    cases: tuple[CaseFiles, ...]

    @model_validator(mode="after")
    def _no_case_is_a_path(self) -> Dataset:
        """Files are named after cases: one called ../x would be written elsewhere."""
        if bad := [case.id for case in self.cases if not case.id or set(case.id) & set("/\\\0")]:
            raise ValueError(f"the case {bad[0]!r} cannot name a file")
        return self

    def question(self) -> Question:
        """The part of the dataset that a model carries: no case names, no paths."""
        fields = {name: getattr(self, name) for name in Question.model_fields}
        several = any(len(case.labels) > 1 for case in self.cases)
        raters = tuple(sorted({rater for case in self.cases for rater in case.labels})) if several else ()
        files = max((len(case.images) for case in self.cases), default=1)
        return Question(**{**fields, "files": files, "raters": raters})

    def case(self, id: str) -> CaseFiles:
        """The case of that name."""
        return next(case for case in self.cases if case.id == id)


class Folds(Record):
    """Which cases each fold validates on. Written once; new cases are added, old ones never move.

    `by` says how new cases find their fold: "groups", "site", "blocks:SIZE:BUFFER" (metres) or "splits". `names` are
    the folds' sites where there is one fold per site, `apart` the cases of each fold that it neither trains on nor
    validates on, because they belong to or lie near its validation cases.
    """

    rule: str
    folds: tuple[tuple[str, ...], ...]
    by: str = "groups"
    names: tuple[str, ...] = ()
    apart: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _every_case_validates_once(self) -> Folds:
        ids = [id for fold in self.folds for id in fold]
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise ValueError(f"the case {twice!r} is validated on twice")
        if any(listed and len(listed) != len(self.folds) for listed in (self.names, self.apart)):
            raise ValueError(f"names and apart want {len(self.folds)} entries, one per fold")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain folds keep the text, and so the hash, that they have without the optional fields."""
        unused: tuple[object, ...] = ("groups", (), [])
        return {name: value for name, value in fields(self).items() if name in ("rule", "folds") or value not in unused}

    def split(self, fold: int | str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(training, validation) case ids of a fold; fold 'all' trains on every case and validates none."""
        if fold == "all":
            return tuple(id for ids in self.folds for id in ids), ()
        held_out = self.folds[int(fold)]
        out = {*held_out, *(self.apart[int(fold)] if self.apart else ())}
        return tuple(id for ids in self.folds for id in ids if id not in out), held_out
