"""Scoring folders of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import BadData
from autoseg.image import Array, Image
from autoseg.pipeline.voice import Voice
from autoseg.readers import is_litter, reader_for, same_place, stem_of
from autoseg.records import Channel, Measures, Question, Scores
from autoseg.steps import evaluate
from autoseg.steps.cases import read_label, reader_of
from autoseg.store import save_record, save_text


def evaluate_folders(
    predictions: Path, references: Path, out: Path, voice: Voice, question: Question | None = None
) -> Scores:
    """Scores every reference that has a prediction of the same stem; writes scores.json and scores.csv.

    Without a question the classes are the values found in the references.
    Raises: BadData with all faults together; nothing is written then.
    """
    found, wanted = _labels(predictions), _labels(references)
    if not wanted:
        raise BadData("holds no labels", where=str(references))
    if absent := sorted(set(wanted) - set(found)):
        shown = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        raise BadData(f"{len(absent)} references have no prediction ({shown})", where=str(predictions))
    if extra := sorted(set(found) - set(wanted)):
        voice.say(f"{len(extra)} predictions have no reference and are not scored")
    remedy = "" if question else "the classes are the values in the references; -t TASK takes a task's"
    question = question or _question(wanted)
    scored: dict[str, dict[str, Measures]] = {}
    faults = []
    unit = ""
    for case in voice.track(sorted(wanted), len(wanted), "scoring"):
        try:
            scored[case], unit = _score(found[case], wanted[case], question, case)
        except BadData as fault:
            faults.append(str(fault))
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        what = f"{len(faults)} cases cannot be scored: " + " | ".join(faults[:5]) + more
        raise BadData(what, where=str(predictions), remedy=remedy)
    scores = evaluate.summarise(scored, question, unit)
    write(scores, out)
    return scores


def write(scores: Scores, out: Path) -> None:
    """Writes scores.json and scores.csv into a folder."""
    save_record(out / "scores.json", scores)
    save_text(out / "scores.csv", evaluate.as_csv(scores))


def _score(prediction: Path, reference: Path, question: Question, case: str) -> tuple[dict[str, Measures], str]:
    truth = read_label(reference, question.model_copy(update={"reader": reader_for(reference.name)}))
    guess = read_label(prediction, question.model_copy(update={"reader": reader_for(prediction.name)}))
    place = same_place(truth, guess)
    if place.fatal:
        raise BadData(f"does not lie on its reference: {place.sentence}", where=str(prediction))
    spaced = bool(truth.placement.get("crs"))
    unit = evaluate.unit_of(len(truth.spacing), spaced)
    label, reference_label, asked = _said(guess, truth.array[0], question)
    return evaluate.score(label, reference_label, asked, truth.spacing, str(prediction)), unit


def _said(guess: Image, truth: Array, question: Question) -> tuple[Array, Array, Question]:
    """Prediction and reference where the prediction's file declares a nodata that is no class: there the image had no
    measurement, and nothing was found; where no class means that, these pixels are left out."""
    nodata = guess.placement.get("nodata")
    known = {*question.labels.values(), *question.merged}
    label = guess.array[0]
    if not isinstance(nodata, float) or nodata in known or not (unsaid := label == nodata).any():
        return label, truth, question
    if question.background:
        return np.where(unsaid, 0, label), truth, question
    left_out = question.ignore if question.ignore is not None else int(nodata)
    truth = np.where(unsaid, left_out, truth)
    label = np.where(unsaid, question.labels[question.classes[0]], label)
    return label, truth, question.model_copy(update={"ignore": left_out})


def _labels(folder: Path) -> Mapping[str, Path]:
    if folder.is_file():
        return {"case": folder}
    if not folder.is_dir():
        raise BadData("no such folder", where=str(folder))
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and not is_litter(f.name)]
    labels: dict[str, Path] = {}
    for file in files:
        stem = stem_of(file.name)
        if stem in labels:
            raise BadData(f"and {labels[stem].name} are two labels of one case", where=str(file))
        if stem != file.name:
            labels[stem] = file
    return labels


def _question(references: Mapping[str, Path]) -> Question:
    """Classes named after the values that the references hold."""
    reader = reader_for(next(iter(references.values())).name)
    bare = Question(reader=reader, channels=(Channel(name="image", kind="other"),), labels={"a": 0, "b": 1})
    values: set[int] = {0}
    for file in references.values():
        array = reader_of(bare).read_label(file).array
        numbers = np.unique(array)
        if len(numbers) > 256 or not np.array_equal(numbers, np.round(numbers)):
            raise BadData(
                f"holds {len(numbers)} values",
                where=str(file),
                expected="a label: integers that name classes",
            )
        values |= {int(n) for n in numbers}
    if len(values) > 254:
        raise BadData(f"the references hold {len(values)} values", expected="labels of at most 254 classes")
    if len(values) == 1:
        values.add(1)
    return bare.model_copy(update={"labels": _names(sorted(values))})


def _names(values: Sequence[int]) -> dict[str, int]:
    return {"background" if value == 0 else f"class_{value}": value for value in values}
