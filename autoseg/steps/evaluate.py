"""Scores of predictions against references."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from autoseg.arrays.metrics import confusion, mean_of, measures
from autoseg.errors import BadData
from autoseg.image import IGNORE, Array
from autoseg.records import Means, Measures, Question, Scores
from autoseg.steps.cases import to_indices

RULE = (
    "a class that is empty in reference and prediction is not counted; empty in one of them: Dice 0; "
    "ignored voxels are left out; means are over the cases that count, then over the classes"
)


def score(
    prediction: Array, reference: Array, question: Question, spacing: tuple[float, ...], case: str
) -> dict[str, Measures]:
    """Measures per foreground class, or region, of one case. Both labels (*S) hold label values, on one grid."""
    if prediction.shape != reference.shape:
        raise BadData(f"prediction has shape {prediction.shape}", where=case, expected=f"{reference.shape}")
    truth = to_indices(reference, question, where=f"reference of {case}")
    counts = confusion(
        to_indices(prediction, question.model_copy(update={"ignore": None}), where=case),
        truth,
        len(question.classes),
        ignore=IGNORE,
    )
    return {name: measures(counts, _indices(question, name), prod(spacing)) for name in question.foreground}


def _indices(question: Question, output: str) -> list[int]:
    """The indices of the classes that an output covers: a class itself, a region several."""
    values = question.regions.get(output) or (question.labels[output],)
    return [index for index, name in enumerate(question.classes) if question.labels[name] in values]


def summarise(cases: Mapping[str, dict[str, Measures]], question: Question, unit: str) -> Scores:
    """The scores of all cases with their means."""
    mean = {}
    for name in question.foreground:
        rows = [case[name] for case in cases.values()]
        means = {
            field: mean_of(getattr(row, field) for row in rows) for field in ("dice", "iou", "precision", "recall")
        }
        mean[name] = Means(**means, cases=sum(row.dice is not None for row in rows))
    dice = mean_of(means.dice for means in mean.values())
    return Scores(rule=RULE, unit=unit, cases=dict(sorted(cases.items())), mean=mean, dice=dice)


def unit_of(dims: int, spaced: bool) -> str:
    """The unit of volumes: mm³ for volumes, m² for rasters, pixels for pictures without spacing."""
    return "mm³" if dims == 3 else "m²" if spaced else "pixels"


def as_csv(scores: Scores) -> str:
    """One row per case and class."""
    fields = list(Measures.model_fields)
    lines = [",".join(["case", "class", *fields])]
    for case, classes in scores.cases.items():
        for name, row in classes.items():
            values = row.model_dump()
            cells = ["" if values[field] is None else str(values[field]) for field in fields]
            lines.append(",".join([_quoted(case), _quoted(name), *cells]))
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text
