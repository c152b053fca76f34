"""Scores of predictions against references."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.bootstrap import bounds, drawn_sums, evidence, interval, intervals
from autoseg.arrays.metrics import Confusion, confusion, mean_of, measures, quotients, ratios
from autoseg.arrays.pairs import Measure, pairs
from autoseg.errors import BadData
from autoseg.image import IGNORE, Array, Mask
from autoseg.parts import MEASURES
from autoseg.records import Means, Measures, Question, Scores
from autoseg.spelling import spelled
from autoseg.steps.cases import to_indices
from autoseg.steps.charts import plain

RULE = (
    "a class that is empty in reference and prediction is not counted; empty in one of them: Dice and IoU 0, "
    "distances the image's diagonal, other measures their worst, or not counted where undefined, as precision "
    "(nothing predicted) and recall (nothing there); ignored voxels are left out; means are over the cases that count, "
    "then over the classes; intervals: 95 % of the means, or pooled values, of groups of cases drawn again"
)
Indices = NDArray[np.uint8]
RATIOS = ("dice", "iou", "precision", "recall", "specificity", "accuracy")


def measures_named(texts: Sequence[str], voxel: float) -> dict[str, Measure]:
    """The measures that texts such as `hd95` or `nsd(tolerance=2)` spell, by their text.

    Args:
        voxel: the longest side of a voxel, in the unit of the spacing.
    Raises: BadPlan for what is none.
    """
    parts = [spelled(text, where="--measure") for text in texts]
    return {part.text: MEASURES.build(part, where="--measure", voxel=voxel) for part in parts}


def score(
    prediction: Array, reference: Array, question: Question, spacing: tuple[float, ...], case: str,
    more: Mapping[str, Measure] | None = None, ignored: Mask | None = None,
) -> dict[str, Measures]:  # fmt: skip
    """Measures per foreground class, or region, of one case. Both labels (*S) hold label values, on one grid.

    Args:
        more: what else than counts of voxels is measured, by the name that it gets.
        ignored: bool (*S), where nothing counts, beside what the question ignores.
    """
    return of_indices(*indices_of(prediction, reference, question, case, ignored), question, spacing, more)


def indices_of(
    prediction: Array, reference: Array, question: Question, case: str, ignored: Mask | None = None
) -> tuple[Indices, Indices]:  # fmt: skip
    """Class indices of prediction and reference. Args: as of `score`. Raises: BadData where they do not fit."""
    if prediction.shape != reference.shape:
        raise BadData(f"prediction has shape {prediction.shape}", where=case, expected=f"{reference.shape}")
    truth = to_indices(reference, question, None if ignored is None else ~ignored, f"reference of {case}")
    return to_indices(prediction, question.model_copy(update={"ignore": None}), where=case), truth


def confused(prediction: Indices, reference: Indices, question: Question) -> Confusion:
    """Voxels (K, K) by class of the reference and of the prediction, both (*S) of class indices."""
    return confusion(prediction, reference, len(question.classes), ignore=IGNORE)


def of_indices(
    prediction: Indices, reference: Indices, question: Question, spacing: tuple[float, ...],
    more: Mapping[str, Measure] | None = None, counts: Confusion | None = None,
) -> dict[str, Measures]:  # fmt: skip
    """As `score`, of class indices; the reference is IGNORE where nothing counts.

    Args:
        counts: as of `confused`, where they are known.
    """
    counts = confused(prediction, reference, question) if counts is None else counts
    found = {name: measures(counts, _indices(question, name), prod(spacing)) for name in question.foreground}
    if not more:
        return found
    both = pairs(prediction, reference, [_indices(question, name) for name in question.foreground], spacing)
    for name, pair in zip(question.foreground, both, strict=True):
        values, counted = {}, {}
        for title, measure in more.items():
            try:
                values[title] = _finite(measure(pair))
                if measure.counts is not None:
                    hits, predicted, there = map(int, measure.counts(pair))
                    counted[title] = hits, predicted, there
            except Exception as problem:  # whatever a measure raises, a user's own above all
                raise BadData(f"cannot be measured: {type(problem).__name__}: {problem}", where=title) from problem
        found[name] = found[name].model_copy(update={"more": values, "counts": counted})
    return found


def _finite(value: float | None) -> float | None:
    """Raises: ValueError for what is no number."""
    if value is None or isfinite(value):
        return None if value is None else float(value)
    raise ValueError(f"it is {value}: want a number, or None where it is not defined")


def _indices(question: Question, output: str) -> list[int]:
    """The indices of the classes that an output covers: a class itself, a region several."""
    values = question.regions.get(output) or (question.labels[output],)
    return [index for index, name in enumerate(question.classes) if question.labels[name] in values]


def summarise(
    cases: Mapping[str, dict[str, Measures]], question: Question, unit: str,
    more: Mapping[str, Measure] | None = None, groups: Mapping[str, str] | None = None,
) -> Scores:  # fmt: skip
    """The scores of all cases with their means.

    Args:
        groups: which patient, scene or site a case belongs to; a case that is not named is its own group.
    """
    more, groups = more or {}, groups or {}
    cases = dict(sorted(cases.items()))
    drawn = [groups.get(case, case) for case in cases]
    mean, pooled = {}, {}
    for name in question.foreground:
        rows = [case[name] for case in cases.values()]
        mean[name] = _means(rows, drawn)
        pooled[name] = _pooled(rows, more, drawn)
    per_class = np.array([[_value(case[name], "dice") for name in question.foreground] for case in cases.values()])
    return Scores(
        rule=RULE, unit=unit, cases=cases, mean=mean, dice=mean_of(means.dice for means in mean.values()),
        interval=interval(per_class, drawn) if cases else None, pooled=pooled,
        groups=_by_group(cases, drawn, question),
        measures={title: measure.said for title, measure in more.items()},
    )  # fmt: skip


def _means(rows: Sequence[Measures], groups: Sequence[str]) -> Means:
    names = [*RATIOS, *(rows[0].more if rows else ())]
    table = np.array([[_value(row, name) for name in names] for row in rows], np.float64).reshape(-1, len(names))
    found = dict(zip(names, intervals(table, groups), strict=True))
    means = {name: mean_of(_defined(row, name) for row in rows) for name in names}
    bounds = {name: bound for name, bound in found.items() if bound is not None}
    return _as_means(means, sum(row.dice is not None for row in rows), bounds)


def _as_means(values: Mapping[str, float | None], cases: int, intervals: Mapping[str, Any] | None = None) -> Means:
    more = {name: value for name, value in values.items() if name not in RATIOS}
    return Means(
        **{name: values[name] for name in RATIOS}, cases=cases, more=more, intervals=dict(intervals or {})
    )  # fmt: skip


def _pooled(rows: Sequence[Measures], more: Mapping[str, Measure], groups: Sequence[str]) -> Means:
    """As if all cases were one image; intervals as of `_means`."""
    fields = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    table = _counts([[getattr(row, field) for field in fields] for row in rows], 4)
    values = ratios(*map(int, table.sum(0)))
    drawn = _again(table, groups)
    there = drawn[:, :3].any(1)
    columns = {
        name: np.divide(part, of, out=np.full_like(part, np.nan), where=there & (of > 0))
        for name, (part, of) in quotients(*drawn.T).items()
    }
    for title, measure in more.items():
        if (ratio := measure.ratio) is not None:
            counted = _counts([row.counts.get(title, (0, 0, 0)) for row in rows], 3)
            found = ratio(*map(int, counted.sum(0)))
            values[title] = found if found is not None and isfinite(found) else None
            again = [ratio(*map(int, row)) for row in _again(counted, groups)]
            columns[title] = np.array(again, np.float64)
    within = {name: bounds(column) for name, column in columns.items() if np.isfinite(column).any()}
    return _as_means(values, sum(row.dice is not None for row in rows), within)


def _counts(rows: Sequence[Sequence[int]], columns: int) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(-1, columns)


def _again(counts: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """The sums of counts (cases, columns) when groups are drawn again, (draws, columns); no draw where fewer than two
    groups have a case in which one of the first three counts is not 0."""
    counting = np.where(counts[:, :3].any(1, keepdims=True), 1.0, np.nan)
    return drawn_sums(counts, groups) if evidence(counting, groups) > 1 else counts[:0]


def _by_group(
    cases: Mapping[str, dict[str, Measures]], drawn: Sequence[str], question: Question
) -> dict[str, dict[str, Means]]:
    """The means of the groups of several cases."""
    of: dict[str, list[dict[str, Measures]]] = {}
    for classes, group in zip(cases.values(), drawn, strict=True):
        of.setdefault(group, []).append(classes)
    return {
        group: {name: _means([row[name] for row in rows], [group] * len(rows)) for name in question.foreground}
        for group, rows in sorted(of.items()) if len(rows) > 1
    }  # fmt: skip


def _defined(row: Measures, name: str) -> float | None:
    value: float | None = row.more[name] if name in row.more else getattr(row, name)
    return value


def _value(row: Measures, name: str) -> float:
    value = _defined(row, name)
    return float("nan") if value is None else value


def unit_of(dims: int, spaced: bool) -> str:
    """The unit of volumes: mm³ for volumes, m² for rasters, pixels for pictures without spacing."""
    return "mm³" if dims == 3 else "m²" if spaced else "pixels"


def as_csv(scores: Scores) -> str:
    """One row per case and class."""
    fields = [field for field in Measures.model_fields if field not in ("more", "counts")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "class", *fields, *scores.measures])
    for case, classes in scores.cases.items():
        for name, row in classes.items():
            values = [getattr(row, field) for field in fields] + [row.more.get(title) for title in scores.measures]
            writer.writerow([plain(cell) for cell in (case, name, *values)])
    return text.getvalue()
