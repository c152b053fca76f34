"""The scores of the model that was chosen, over cases that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg import engine
from autoseg.errors import BadData
from autoseg.image import Image
from autoseg.pipeline.cleaning import acts_of
from autoseg.pipeline.ensembles import Held, Titles
from autoseg.pipeline.levels import levels_beside
from autoseg.pipeline.voice import Voice
from autoseg.records import NOTHING, CaseFacts, Measures, Postprocessing, Question, Scores
from autoseg.steps import cases as casework
from autoseg.steps import evaluate
from autoseg.steps.odds import decided
from autoseg.steps.postprocess import applied
from autoseg.store import read_indices

Indices = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """The files of a case: what was predicted of it, its reference, and its images where not all of them is valid."""

    prediction: Path
    reference: Path
    images: tuple[Path, ...] = ()


def pair_of(one: Held, way: Titles, place: Path, facts: CaseFacts | None) -> Pair:
    """The label of a case by a model, beside the reference.

    Args:
        facts: what was measured of the case; None where that is not known.
    """
    assert one.files.label is not None
    whole = facts is not None and facts.valid_share == 1
    images = () if whole else tuple(place / name for name in one.files.images)
    return Pair(one.labels[way], place / one.files.label, images)


def reference_of(pair: Pair, question: Question) -> tuple[Indices, Image]:
    """Class indices (*S) of the reference, IGNORE where nothing counts, and the label that was read."""
    truth = casework.read_label(pair.reference, question)
    valid = casework.read_image([*pair.images], question).valid if pair.images else None
    return casework.to_indices(truth.array[0], question, valid, str(pair.reference)), truth


def read(pair: Pair, question: Question, after: Postprocessing = NOTHING) -> tuple[Indices, Indices, Image]:
    """Class indices (*S) of a prediction, after postprocessing, and of its reference, whose label is the third.

    Raises: BadData where they do not fit.
    """
    reference, truth = reference_of(pair, question)
    return prediction_of(pair, question, truth, after), reference, truth


def prediction_of(pair: Pair, question: Question, truth: Image, after: Postprocessing = NOTHING) -> Indices:
    """Class indices (*S) of a prediction after postprocessing. Raises: BadData where it does not fit the reference."""
    return postprocessed(_plain(pair, question, truth), pair.prediction, question, after, truth.spacing)


def postprocessed(
    label: Indices, file: Path, question: Question, after: Postprocessing, spacing: Sequence[float]
) -> Indices:  # fmt: skip
    """The label (*S) of a file when all is done to it. Raises: BadFile where thresholds lack their levels."""
    if after.thresholds:
        shares = {question.classes.index(name): share for name, share in after.thresholds.items()}
        label = decided(label, read_indices(levels_beside(file)), shares)
    return applied(label, acts_of(after.steps, question), spacing)


def _plain(pair: Pair, question: Question, truth: Image) -> Indices:
    guess = casework.reader_of(question).read_label(pair.prediction)
    if truth.shape != guess.shape:
        expected = f"that of its reference, {truth.shape}"
        raise BadData(f"has shape {guess.shape}", where=str(pair.prediction), expected=expected)
    plain = question.model_copy(update={"ignore": None})
    return casework.to_indices(guess.array[0], plain, where=str(pair.prediction))


def scored(
    held: Sequence[Held], jobs: Sequence[Pair], after: Postprocessing, question: Question, voxel: float,
    measures: tuple[str, ...], workers: int | None, voice: Voice,
) -> Scores:  # fmt: skip
    """Every measure of a model's labels, after postprocessing.

    Args:
        jobs: the files of every case; voxel: the longest side of a voxel, in the unit of the spacing.
        measures: what is measured beside voxels, as texts.
    """
    more = evaluate.measures_named(measures, voxel)
    work = partial(_score, question=question, after=after, voxel=voxel, measures=measures)
    cases: dict[str, dict[str, Measures]] = {}
    total = np.zeros((len(question.classes),) * 2, np.int64)
    faults, unit = dict[str, str](), ""
    for index, found in voice.track(engine.local(workers, len(jobs) // 4).run(work, jobs), len(jobs), "measuring"):
        case = held[index].files.id
        if isinstance(found, str):
            faults[case] = found
            continue
        cases[case], counts, unit = found
        total += counts
    groups = {one.files.id: one.files.group for one in held if one.files.group is not None}
    if not cases:
        raise BadData(f"no case can be measured: {next(iter(faults.values()))}", where="the cases held out")
    scores = evaluate.summarise(cases, question, unit, more, groups)
    counted = tuple(tuple(map(int, row)) for row in total)
    return scores.model_copy(update={"confusion": counted, "faults": dict(sorted(faults.items()))})


def _score(
    pair: Pair, question: Question, after: Postprocessing, voxel: float, measures: tuple[str, ...]
) -> tuple[dict[str, Measures], NDArray[np.int64], str] | str:  # fmt: skip
    """The measures of a case, its voxels by class there and predicted, and the unit; or why there are none."""
    prediction, reference, truth = read(pair, question, after)
    more, counts = evaluate.measures_named(measures, voxel), evaluate.confused(prediction, reference, question)
    try:
        rows = evaluate.of_indices(prediction, reference, question, truth.spacing, more, counts)
    except BadData as fault:
        return str(fault)
    unit = evaluate.unit_of(len(truth.spacing), bool(truth.placement.get("crs")))
    return rows, counts, unit
