"""The chapters of a report that say what was found: the comparison, the scores, what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autoseg.arrays.metrics import mean_of
from autoseg.records import CaseCertainty, Choice, Means, Question, Scores
from autoseg.records.certainty import BINS
from autoseg.steps import charts
from autoseg.steps.report import Block, Chart, Section, Text, table

COST = (
    "Seconds and parameters are those of the networks of one fold, as the Dice is; the packed model has those of all "
    "folds. Memory is what a step of training takes, as planned."
)


def compared(choice: Choice) -> Section:
    """Which model was taken, and why."""
    header = ("model", "Dice", "95 % from", "to", "behind the best", "from", "to", "seconds per case", "parameters",
              "training, GB")  # fmt: skip
    rows = [
        (one.name, one.dice, *(one.interval or (None, None)), one.behind, *(one.apart or (None, None)),
         round(one.seconds, 3), one.parameters, round(one.memory / 1e9, 2))
        for one in choice.table
    ]  # fmt: skip
    taken = next(n for n, one in enumerate(choice.table) if one.configurations == choice.configurations)
    blocks: list[Block] = [
        table("models", f"{choice.cases} cases of {choice.groups} groups, held out. {COST}", header, rows, taken),
        Text(f"Taken: {' + '.join(choice.configurations)}: {choice.because}."),
    ]
    if choice.nested is not None and len(choice.table) > 1:
        told = "Chosen for each fold on the other folds, and counted on it, models have Dice"
        blocks.append(Text(f"{told} {choice.nested:.4f}: what choosing gains, without what it fits."))
    return Section("models", "Which model", blocks)


def depths(choice: Choice) -> Section:
    """What the depths of a UNet++ cost and bring."""
    if not choice.depths:
        return Section("depths", "Depth", [])
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in choice.depths:
        if one.dice is not None and one.depth is not None:
            lines.setdefault(one.configuration, []).append((one.seconds, one.dice))
    rows = [
        (one.configuration, "as planned" if one.depth is None else one.depth, round(one.seconds, 3), one.dice)
        for one in choice.depths
    ]
    said = "Every point is the head of one depth alone, the shallowest on the left."
    return Section("depths", "Depth", [
        Text(f"A UNet++ predicts with less of itself, too (predict --depth): {choice.depths[0].cases} cases held out."),
        Chart.of(charts.lines("depth-time", "Dice by depth", said, lines, "seconds per case", "Dice")),
        table("depths", "", ("configuration", "depth", "seconds per case", "Dice"), rows),
    ])  # fmt: skip


def cleaning(choice: Choice) -> Section:
    """What postprocessing brought."""
    found = choice.cleaning
    if not found.tried.texts:
        return Section("postprocessing", "Postprocessing", [Text("None is taken.")])
    return Section("postprocessing", "Postprocessing", [
        Text(f"Tried: {found.said}."), table("cleaning", "", *found.gains),
    ])  # fmt: skip


def results(scores: Scores, question: Question | None, sites: Mapping[str, str]) -> Section:
    """The scores of the cases that were held out, or of a test set."""
    rule = f"{scores.rule[:1].upper()}{scores.rule[1:]}."
    blocks: list[Block] = [table("scores", f"Means over cases. {rule}", *_means(scores))]
    if any(means.intervals for means in scores.mean.values()):
        blocks.append(table("intervals", "Where 95 % of the means lie.", *_bounds(scores)))
    blocks += [Text(f"{name}: {said}.") for name, said in scores.measures.items()]
    if scores.pooled:
        blocks.append(table("pooled", "All cases counted as one image.", *scores.together))
    dice = {name: _defined(scores, name, lambda row: row.dice) for name in scores.mean}
    blocks.append(
        Chart.of(charts.boxes("dice", "Dice", "Every point is a case in which the class counts.", dice, "Dice"))
    )
    for title in scores.measures:
        found = {name: _defined(scores, name, lambda row, title=title: row.more.get(title)) for name in scores.mean}
        if title == "hd95":
            said = "95th percentile of the distances of surfaces; every point is a case."
            blocks.append(Chart.of(charts.boxes("hd95", "HD95", said, found, "HD95", log=True)))
    volumes = {
        name: [(case, row[name].volume_reference, row[name].volume_prediction) for case, row in scores.cases.items()]
        for name in scores.mean
    }
    blocks.append(Chart.of(charts.scatter("volume", "Volume against volume", "On the line they are equal.", volumes,
                                          scores.unit)))  # fmt: skip
    if scores.confusion and question is not None and not question.regions:
        said = (
            "Of the voxels of every class (rows), the share that was predicted as each (columns), all cases together."
        )
        blocks.append(Chart.of(charts.confused("confusion", "Confusion", said, scores.confusion, question.classes)))
    blocks += [*_by(scores, "group", scores.groups), *_by(scores, "site", _sites(scores, sites))]
    if scores.faults:
        blocks.append(table("faults", "Not scored.", ("case", "why"), [*scores.faults.items()]))
    if scores.unreferenced:
        said = "Predictions without a reference."
        blocks.append(table("unreferenced", said, ("prediction",), [(one,) for one in scores.unreferenced]))
    return Section("results", "Results", blocks)


def _means(scores: Scores) -> tuple[Sequence[str], list[Sequence[object]]]:
    header = (
        "class",
        "Dice",
        "95 % from",
        "to",
        "IoU",
        "precision",
        "recall",
        *scores.measures,
        "pooled Dice",
        "cases",
    )
    rows: list[Sequence[object]] = []
    for name, mean in scores.mean.items():
        pooled = scores.pooled[name].dice if name in scores.pooled else None
        more = [mean.more.get(title) for title in scores.measures]
        rows.append((name, mean.dice, *mean.intervals.get("dice", (None, None)), mean.iou, mean.precision, mean.recall,
                     *more, pooled, mean.cases))  # fmt: skip
    if len(rows) > 1:
        rest = [mean_of(row[column] for row in rows) for column in range(4, len(header) - 1)]  # type: ignore[misc]
        rows.append(("mean", scores.dice, *(scores.interval or (None, None)), *rest, None))
    return header, rows


def _bounds(scores: Scores) -> tuple[Sequence[str], list[Sequence[object]]]:
    names = list(dict.fromkeys(name for means in scores.mean.values() for name in means.intervals))
    header = ("class", *(f"{name}, {side}" for name in names for side in ("from", "to")))
    rows: list[Sequence[object]] = [
        (title, *(bound for name in names for bound in means.intervals.get(name, (None, None))))
        for title, means in scores.mean.items()
    ]  # fmt: skip
    return header, rows


def _defined(scores: Scores, name: str, of: Any) -> list[tuple[str, float]]:
    return [(case, found) for case, row in scores.cases.items() if (found := of(row[name])) is not None]


def _sites(scores: Scores, sites: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """The mean Dice per class of the cases of every site, where there are several."""
    names = sorted({sites[case] for case in scores.cases if case in sites})
    if len(names) < 2:
        return {}
    return {
        site: {
            name: mean_of(row[name].dice for case, row in scores.cases.items() if sites.get(case) == site)
            for name in scores.mean
        }
        for site in names
    }


def sites(rows: Sequence[Sequence[Any]]) -> Section:
    """Every site by networks that had seen none of it, beside those of the task's own folds.

    Args:
        rows: configuration, site, cases, Dice with the site left out and its interval, Dice in the task's folds, the
            former less the latter and its interval.
    """
    header = ("configuration", "site", "cases", "Dice, site left out", "95 % from", "to", "Dice, the task's own folds",
              "difference", "95 % from", "to")  # fmt: skip
    said = (
        "Networks that had seen no case of a site, beside those of the task's own folds, which had seen others of it."
    )
    cells = [
        (*named, unseen, *(within or (None, None)), seen, apart, *(apart_within or (None, None)))
        for *named, unseen, within, seen, apart, apart_within in rows
    ]
    return Section("sites", "Sites left out", [Text(said), table("left-out", "", header, cells)] if rows else [])


def _by(scores: Scores, what: str, found: Mapping[str, Mapping[str, Means | float | None]]) -> Iterator[Block]:
    if found:
        rows = [
            (one, *(value.dice if isinstance(value, Means) else value for value in means.values()))
            for one, means in found.items()
        ]  # fmt: skip
        yield table(f"by-{what}", f"Mean Dice per {what}.", (what, *scores.mean), rows)


def calibration(found: Mapping[str, Sequence[CaseCertainty]]) -> Section:
    """How often the networks of each configuration are right, by how sure they are."""
    blocks: list[Block] = []
    for number, (title, cases) in enumerate(found.items()):
        counts, sums, right = (
            np.sum([getattr(one, field) for one in cases], 0) for field in ("counts", "sure", "right")
        )
        bins = [
            (float(sums[n] / counts[n]), float(right[n] / counts[n]), int(counts[n])) for n in range(BINS) if counts[n]
        ]
        off = sum(abs(sure - share) * voxels for sure, share, voxels in bins) / max(1, int(counts.sum()))
        said = (
            f"Voxels of cases held out, by the confidence of the networks of {title}, each of a single fold. On the "
            f"line they are as often right as they are sure; they are off by {off:.4f} on average (expected "
            "calibration error)."
        )
        blocks.append(Chart.of(charts.calibration(f"calibration-{number}", f"Calibration of {title}", said, bins)))
    return Section("calibration", "Calibration", blocks)
