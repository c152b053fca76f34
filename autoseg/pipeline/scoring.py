"""Scoring folders of predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from autoseg import engine
from autoseg.arrays.margins import near_borders
from autoseg.arrays.metrics import Confusion
from autoseg.arrays.pairs import Measure
from autoseg.errors import BadData, BadUsage
from autoseg.image import Array, Image, Mask
from autoseg.layouts.common import match_all
from autoseg.parts import READERS
from autoseg.pipeline.voice import Voice
from autoseg.readers import is_litter, reader_for, same_place, stem_of
from autoseg.readers.colours import ColourCoded
from autoseg.records import Channel, Measures, Question, Scores
from autoseg.steps import evaluate
from autoseg.steps.cases import read_label, reader_of, to_indices
from autoseg.store import save_record, save_text

USUAL = ("hd95", "assd", "nsd")


@dataclass(frozen=True)
class Asked:
    """How folders are scored.

    Attributes:
        question: the classes; None takes the values found in the references.
        measures: what else than counts of voxels is measured, as texts.
        erode: pixels around the borders between classes that do not count.
        masks: a folder of masks, by the names of the references: where they are 0 nothing counts.
        groups: which patient or scene a case belongs to; `group`: a regex that finds that in the names of others.
        sites: where a case comes from, as far as that is known.
        images: the image files of the labels of a task, by the places of these.
    """

    question: Question | None = None
    measures: tuple[str, ...] = USUAL
    erode: int = 0
    masks: Path | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    sites: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)

    def grouped(self, cases: Sequence[str]) -> Mapping[str, str]:
        """The group of every case that has one. Raises: BadUsage for a regex that matches none."""
        if self.group is None:
            return self.groups
        matches = match_all(self.group, cases, "--group", BadUsage)
        found = {case: match for case, match in zip(cases, matches, strict=True) if match is not None}
        return {**found, **self.groups}


@dataclass(frozen=True)
class Job:
    """The files of a case."""

    prediction: Path
    reference: Path
    mask: Path | None


@dataclass(frozen=True)
class Evaluated:
    """The scores of folders, how they came about, and the files of the cases that could be read."""

    scores: Scores
    asked: Asked
    question: Question
    jobs: Mapping[str, Job]


def evaluate_folders(
    predictions: Path, references: Path, out: Path, voice: Voice, asked: Asked | None = None,
    workers: int | None = None,
) -> Evaluated:  # fmt: skip
    """Scores every reference that has a prediction of the same stem; writes scores.json and scores.csv.

    What cannot be scored is in `faults` of the scores. Raises: BadData where that is every case; nothing is written
    then.
    """
    asked = asked or Asked()
    (found, twice), (wanted, strange) = labels_of(predictions), labels_of(references)
    masks = labels_of(asked.masks)[0] if asked.masks else {}
    if not wanted and not strange:
        raise BadData("holds no labels", where=str(references))
    missing = f"there is no prediction of it in {predictions}"
    faults = strange | {case: twice.get(case, missing) for case in wanted if case not in found}
    if extra := sorted(set(found) - set(wanted)):
        shown = ", ".join(extra[:5]) + (" …" if len(extra) > 5 else "")
        voice.say(f"{len(extra)} predictions have no reference and are not scored: {shown}")
    groups = asked.grouped(sorted(wanted)) if wanted else {}
    remedy = "" if asked.question else "the classes are the values in the references; -t TASK takes a task's"
    question = asked.question
    if question is None and wanted:
        question, unread = _question(wanted)
        faults |= unread
    scored: dict[str, dict[str, Measures]] = {}
    unit, confusion, more = "", np.zeros((1, 1), np.int64), dict[str, Measure]()
    left = sorted(set(wanted) & set(found) - set(faults))
    jobs = [Job(found[case], wanted[case], masks.get(case)) for case in left]
    if question is not None:
        voxel = _voxel(jobs, question)
        more = evaluate.measures_named(asked.measures, voxel)
        work = partial(_scored, asked=Asked(question, asked.measures, asked.erode, asked.masks), voxel=voxel)
        run = engine.local(workers, len(jobs) // 4).run(work, jobs)
        done = dict(voice.track(run, len(jobs), "scoring"))
        for number, case in enumerate(left):
            one = done[number]
            if isinstance(one, str):
                faults[case] = one
            else:
                scored[case], counts, unit = one
                confusion = counts + confusion
    if not scored or question is None:
        first = next(iter(faults.values()))
        raise BadData(
            f"none of {len(wanted) + len(strange)} cases can be scored: {first}", where=str(predictions), remedy=remedy
        )
    scores = evaluate.summarise(scored, question, unit, more, groups)
    counted = tuple(tuple(map(int, row)) for row in confusion)
    scores = scores.model_copy(
        update={"faults": dict(sorted(faults.items())), "unreferenced": tuple(extra), "confusion": counted}
    )  # fmt: skip
    for name, means in scores.mean.items():
        if means.cases == 0:
            voice.say(f"{name} occurs in no case, neither predicted nor there: it is not counted")
    write(scores, out)
    return Evaluated(scores, asked, question, dict(zip(left, jobs, strict=True)))


def _voxel(jobs: Sequence[Job], question: Question) -> float:
    """The longest side of a voxel of the first case that can be read; 1 where none can."""
    for job in jobs:
        with contextlib.suppress(BadData):
            return max(_read(job.prediction, job.reference, question).truth.spacing)
    return 1.0


def _scored(job: Job, asked: Asked, voxel: float) -> tuple[dict[str, Measures], Confusion, str] | str:
    """The measures of every class, the voxels by class there and predicted, and the unit; or why there are none."""
    assert asked.question is not None
    try:
        guess, truth, pair = aligned(job, asked, asked.question)
        more = evaluate.measures_named(asked.measures, voxel)
        counts = evaluate.confused(guess, truth, asked.question)
        return evaluate.of_indices(guess, truth, asked.question, pair.truth.spacing, more, counts), counts, pair.unit
    except BadData as fault:
        return str(fault)


def aligned(job: Job, asked: Asked, question: Question) -> tuple[evaluate.Indices, evaluate.Indices, Pair]:
    """Class indices (*S) of prediction and reference, IGNORE where nothing counts, and what was read of them.

    Raises: BadData where they, or the mask, do not fit.
    """
    pair = _read(job.prediction, job.reference, question)
    ignored = pair.unsaid
    if asked.erode or asked.masks:
        ignored = _ignored(pair, asked.erode, job.mask, asked.masks)
    return *evaluate.indices_of(pair.prediction, pair.reference, question, str(job.prediction), ignored), pair


def write(scores: Scores, out: Path) -> None:
    """Writes scores.json and scores.csv into a folder."""
    save_record(out / "scores.json", scores)
    save_text(out / "scores.csv", evaluate.as_csv(scores))


@dataclass(frozen=True, eq=False)
class Pair:
    """Prediction and reference of a case on one grid, in the values of the question.

    Attributes:
        truth: the reference as it was read.
        unsaid: where the prediction says that its image had no measurement; None: nowhere.
    """

    prediction: Array
    truth: Image
    question: Question
    unit: str
    unsaid: Mask | None = None

    @property
    def reference(self) -> Array:
        """Values (*S)."""
        values: Array = self.truth.array[0]
        return values


def _read(prediction: Path, reference: Path, question: Question) -> Pair:
    truth = read_label(reference, question.model_copy(update={"reader": reader_for(reference.name)}))
    guess, label, unsaid = prediction_of(prediction, question)
    place = same_place(truth, guess)
    if place.fatal:
        raise BadData(f"does not lie on its reference: {place.sentence}", where=str(prediction))
    unit = evaluate.unit_of(len(truth.spacing), bool(truth.placement.get("crs")))
    return Pair(label, truth, question, unit, unsaid)


def prediction_of(file: Path, question: Question) -> tuple[Image, Array, Mask | None]:
    """A predicted label as it is read, its values (*S), and where its image had no measurement: any class there."""
    guess = read_label(file, question.model_copy(update={"reader": reader_for(file.name)}))
    label, unsaid = guess.array[0], _unsaid(file, guess, question)
    if unsaid is not None:
        label = np.where(unsaid, question.labels[question.classes[0]], label)
    return guess, label, unsaid


def _unsaid(file: Path, guess: Image, question: Question) -> Mask | None:
    """Where a prediction says by its nodata, which is no class, that the image had no measurement; None: nowhere."""
    known = {*question.labels.values(), *question.merged}
    if question.colours:  # the colour of nodata stands for nothing
        try:
            guess = READERS.build(reader_for(file.name)).read_label(file)
        except ColourCoded:  # values that are colours themselves mark nothing
            return None
    nodata = guess.placement.get("nodata")
    if not isinstance(nodata, float) or nodata in known:
        return None
    unsaid: Mask = guess.array[0] == nodata
    return unsaid if unsaid.any() else None


def _ignored(pair: Pair, erode: int, mask: Path | None, masks: Path | None) -> Mask:
    """Where nothing counts. Raises: BadData for a mask that is missing or does not fit."""
    ignored = np.zeros(pair.reference.shape, bool) if pair.unsaid is None else pair.unsaid.copy()
    if erode:
        ignored |= near_borders(to_indices(pair.reference, pair.question), erode)
    if masks is not None:
        if mask is None:
            raise BadData("holds no mask of this case", where=str(masks), expected="one with the reference's name")
        seen = READERS.build(reader_for(mask.name)).read_label(mask).array[0]
        if seen.shape != ignored.shape:
            raise BadData(f"has shape {seen.shape}", where=str(mask), expected=f"{ignored.shape}, as its reference")
        ignored |= seen == 0
    return ignored


def labels_of(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The labels of a folder by case, and what of it is none; DICOM-SEG beside another file is its copy."""
    if folder.is_file():
        return {"case": folder}, {}
    if not folder.is_dir():
        raise BadData("no such folder", where=str(folder))
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and not is_litter(f.name) and stem_of(f.name) != f.name]
    found: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda one: one.suffix == ".dcm"):
        there = found.setdefault(stem_of(file.name), [])
        if not (there and file.suffix == ".dcm"):
            there.append(file)
    twice = {
        case: f"{' and '.join(file.name for file in several)} are two labels of one case"
        for case, several in found.items() if len(several) > 1
    }  # fmt: skip
    return {case: several[0] for case, several in found.items() if case not in twice}, twice


def _question(references: Mapping[str, Path]) -> tuple[Question, dict[str, str]]:
    """Classes named after the values that the references hold, and why some of them are none.

    Raises: BadData where that is all of them.
    """
    reader = reader_for(next(iter(references.values())).name)
    bare = Question(reader=reader, channels=(Channel(name="image", kind="other"),), labels={"a": 0, "b": 1})
    values: set[int] = {0}
    faults: dict[str, str] = {}
    for case, file in references.items():
        try:
            values |= _values(file, bare)
        except BadData as problem:
            if len(faults) == len(references) - 1:
                raise
            faults[case] = str(problem)
    if len(values) > 254:
        raise BadData(f"the references hold {len(values)} values", expected="labels of at most 254 classes")
    if len(values) == 1:
        values.add(1)
    return bare.model_copy(update={"labels": _names(sorted(values))}), faults


def _values(file: Path, bare: Question) -> set[int]:
    """The values of a label. Raises: BadData where it is none."""
    array = reader_of(bare.model_copy(update={"reader": reader_for(file.name)})).read_label(file).array
    numbers = np.unique(array)
    if len(numbers) > 254 or not np.array_equal(numbers, np.round(numbers)):
        what, expected = f"holds {len(numbers)} values", "a label: integers that name classes"
        raise BadData(what, where=str(file), expected=expected)
    return {int(n) for n in numbers}


def _names(values: Sequence[int]) -> dict[str, int]:
    return {"background" if value == 0 else f"class_{value}": value for value in values}
