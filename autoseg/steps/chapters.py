"""The chapters of a task's report, from its records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from autoseg import __version__
from autoseg.arrays.intensity import LEVELS
from autoseg.arrays.metrics import mean_of
from autoseg.records import (
    CaseCertainty,
    CaseFacts,
    Choice,
    Configuration,
    Dataset,
    Fingerprint,
    Intensity,
    Means,
    Plan,
    Question,
    Run,
    Scores,
)
from autoseg.records.certainty import BINS
from autoseg.steps import charts
from autoseg.steps.report import Block, Chart, Section, Text, table

POINTS = 200  # of a learning curve
MEANING = (
    "These figures are of the networks of single folds, each on cases that it had not seen. What predicts new images "
    "is the mean of the networks of all folds, which is unmeasured unless evaluate is given a test set."
)


def asked(plan: Plan, dataset: Dataset, rule: str) -> Section:
    """What was asked."""
    question = plan.question
    rows: list[tuple[str, object]] = [
        ("task", plan.task), ("plan", plan.name), ("cases", f"{len(dataset.cases)}, {_groups(dataset)}"),
        ("channels", ", ".join(f"{one.name} ({one.kind})" for one in question.channels)),
        ("classes", ", ".join(f"{name} = {question.labels[name]}" for name in question.classes)),
        ("folds", rule), ("planned for", f"{plan.target.device}, {plan.target.memory / 1e9:.1f} GB"),
        ("autoseg", __version__),
    ]  # fmt: skip
    if question.regions:
        rows.insert(5, ("regions", ", ".join(question.regions)))
    return Section("asked", "What was asked", [table("asked", "", ("", ""), rows)])


def _groups(dataset: Dataset) -> str:
    groups, sites = ({getattr(case, field) for case in dataset.cases} - {None} for field in ("group", "site"))
    return f"{len(groups) or 'no'} groups, {len(sites) or 'no'} sites"


def data(fingerprint: Fingerprint, plan: Plan) -> Section:
    """What was measured of the images."""
    known = fingerprint.usable
    axes = "yx" if fingerprint.flat else "zyx"
    sizes = {f"size {axis}": _per_case(known, lambda facts, at=at: facts.shape[at]) for at, axis in _axes(axes)}
    spacings = {f"spacing {axis}": _per_case(known, lambda facts, at=at: facts.spacing[at]) for at, axis in _axes(axes)}
    blocks: list[Block] = [
        Text(f"{len(known)} of {len(fingerprint.cases)} cases can be used; every point is a case."),
        Chart.of(charts.boxes("sizes", "Sizes", "Voxels along every axis.", sizes, "voxels")),
        Chart.of(charts.boxes("spacings", "Spacings", "Millimetres, or metres of rasters.", spacings, "spacing")),
    ]
    levels = {}
    for number, channel in enumerate(plan.question.channels):
        seen = {case: one for case, facts in known.items() if (one := _seen(facts, number)) is not None}
        for name, level in (("low", 0.5), ("median", 50), ("high", 99.5)):
            at = LEVELS.index(level)
            levels[f"{channel.name}, {name}"] = [(case, one.quantiles[at]) for case, one in seen.items()]
    if any(levels.values()):
        said = "The 0.5th percentile, the median and the 99.5th percentile of the valid voxels of every case."
        blocks.append(Chart.of(charts.boxes("intensities", "Intensities", said, levels, "value")))
    voxels = {
        name: [
            (case, facts.voxels[name] * prod(facts.spacing)) for case, facts in known.items() if facts.voxels.get(name)
        ]
        for name in plan.question.classes[plan.question.background :]
    }
    said = "Of every class in the cases in which it occurs, on a logarithmic axis."
    blocks.append(
        Chart.of(charts.boxes("volumes", "Volumes or areas of the classes", said, voxels, "volume", log=True))
    )
    return Section("data", "The data", blocks)


def _seen(facts: CaseFacts, channel: int) -> Intensity | None:
    return facts.valid[channel] if len(facts.valid) > channel else None


def _axes(names: str) -> list[tuple[int, str]]:
    return [(number + 3 - len(names), name) for number, name in enumerate(names)]


def _per_case(known: Mapping[str, Any], of: Any) -> list[tuple[str, float]]:
    return [(case, float(of(facts))) for case, facts in known.items()]


def planned(plan: Plan, trained: Mapping[str, Configuration], drawings: Mapping[str, str]) -> Section:
    """The plan with its reasons, and its networks, as they were trained."""
    rows = []
    for title, one in trained.items():
        rows.append((
            title, _times(one.spacing), _times(one.patch), one.batch, one.network.architecture.text,
            " ".join(map(str, one.network.features)), one.train.loss, one.train.steps, round(one.memory.bytes / 1e9, 2),
        ))  # fmt: skip
    header = ("configuration", "spacing", "patch", "batch", "network", "features", "loss", "steps", "training, GB")
    blocks: list[Block] = [
        table("plan", "The configurations.", header, rows),
        table("because", "Why.", ("decision", "reason"), [*plan.because.items()]),
    ]
    for number, (title, svg) in enumerate(drawings.items()):
        drawing = charts.apart(svg, f"network-{number}")
        blocks.append(Chart(f"network-{number}", f"The network of {title}", "", drawing))
    return Section("plan", "The plan", blocks)


def _times(numbers: Iterable[float]) -> str:
    return " × ".join(f"{number:g}" for number in numbers)


def training(logs: Mapping[str, Iterable[Mapping[str, Any]]], runs: Mapping[str, Run]) -> Section:
    """The learning curves of every fold, and what its training took; one log is read after the other."""
    losses, dice, rows = {}, {}, []
    for name, log in logs.items():
        loss: list[tuple[float, float]] = []
        early: list[tuple[float, float]] = []
        seconds = 0.0
        for line in log:
            step, value, took = line.get("step"), line.get("loss"), line.get("seconds")
            if not isinstance(step, int):
                continue
            if isinstance(value, int | float) and isinstance(took, int | float):
                loss.append((step, value))
                seconds += took
            if (found := _mean(line)) is not None:
                early.append((step, found))
        losses[name], dice[name] = _thinned(loss), _thinned(early)
        run = runs[name]
        rows.append((name, run.settings.train.steps, run.settings.batch, round(seconds / 60, 1), run.device,
                     run.precision, run.seed))  # fmt: skip
    said = "Mean over the steps around each point."
    blocks: list[Block] = [
        Chart.of(charts.lines("losses", "Loss", said, losses, "step", "loss")),
        Chart.of(charts.lines("pseudo-dice", "Dice of validation patches",
                              "An early sign, over a few patches; it selects nothing.", dice, "step", "Dice")),
        table("runs", "The runs.", ("run", "steps", "batch", "minutes", "device", "precision", "seed"), rows),
    ]  # fmt: skip
    return Section("training", "Training", blocks if rows else [])


def _mean(line: Mapping[str, Any]) -> float | None:
    found = line.get("pseudo_dice")
    known = [value for value in found.values() if isinstance(value, int | float)] if isinstance(found, dict) else []
    return mean_of(known)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """As many points at most, each the mean of its neighbours."""
    size = -(-len(points) // POINTS) or 1
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def compared(choice: Choice) -> Section:
    """Which model was taken, and why."""
    header = ("model", "Dice", "95 % from", "to", "behind the best", "from", "to", "seconds per case", "parameters")
    rows = [
        (one.name, one.dice, *(one.interval or (None, None)), one.behind, *(one.apart or (None, None)),
         round(one.seconds, 3), one.parameters)
        for one in choice.table
    ]  # fmt: skip
    taken = next(n for n, one in enumerate(choice.table) if one.configurations == choice.configurations)
    blocks: list[Block] = [
        table("models", f"{choice.cases} cases of {choice.groups} groups, held out.", header, rows, taken),
        Text(f"Taken: {' + '.join(choice.configurations)}: {choice.because}."),
    ]
    if choice.nested is not None and len(choice.table) > 1:
        told = "Chosen for each fold on the other folds, and counted on it, models have Dice"
        blocks.append(Text(f"{told} {choice.nested:.4f}: what choosing gains, without what it fits."))
    return Section("models", "Which model", blocks)


def cleaning(choice: Choice) -> Section:
    """What postprocessing brought."""
    found = choice.cleaning
    if not found.tried:
        return Section("postprocessing", "Postprocessing", [Text("None is taken.")])
    steps = ", ".join(part.text for part in found.tried)
    verdict = "taken" if found.steps else "not taken, as it does not hold on cases that it was not chosen on"
    rows = [(name, before, found.after.get(name), found.nested.get(name)) for name, before in found.before.items()]
    header = ("class", "Dice before", "after, as fitted", "after, on cases it was not chosen on")
    return Section("postprocessing", "Postprocessing", [
        Text(f"{steps}: {verdict}."), table("cleaning", "", header, rows),
    ])  # fmt: skip


def results(scores: Scores, question: Question | None, sites: Mapping[str, str]) -> Section:
    """The scores of the cases that were held out, or of a test set."""
    rule = f"{scores.rule[:1].upper()}{scores.rule[1:]}."
    blocks: list[Block] = [table("scores", f"Means over cases. {rule}", *_means(scores))]
    if any(means.intervals for means in scores.mean.values()):
        blocks.append(table("intervals", "Where 95 % of the means lie.", *_bounds(scores)))
    blocks += [Text(f"{name}: {said}.") for name, said in scores.measures.items()]
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
        rest = [None] * (len(header) - 4)
        rows.append(("mean", scores.dice, *(scores.interval or (None, None)), *rest))
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


def sites(rows: Sequence[tuple[str, str, int, float | None, float | None]]) -> Section:
    """Every site by networks that had seen none of it, beside those of the task's own folds.

    Args:
        rows: configuration, site, cases, Dice with the site left out, Dice in the task's folds.
    """
    header = ("configuration", "site", "cases", "Dice, site left out", "Dice, the task's own folds")
    said = (
        "Networks that had seen no case of a site, beside those of the task's own folds, which had seen others of it."
    )
    return Section("sites", "Sites left out", [Text(said), table("left-out", "", header, rows)] if rows else [])


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
    for title, cases in found.items():
        counts, sums, right = (
            np.sum([getattr(one, field) for one in cases], 0) for field in ("counts", "sure", "right")
        )
        bins = [
            (float(sums[n] / counts[n]), float(right[n] / counts[n]), int(counts[n])) for n in range(BINS) if counts[n]
        ]
        off = sum(abs(sure - share) * number for sure, share, number in bins) / max(1, int(counts.sum()))
        said = (
            f"Voxels of cases held out, by the confidence of the single networks of {title}. On the line they are as "
            f"often right as they are sure; they are off by {off:.4f} on average (expected calibration error)."
        )
        blocks.append(Chart.of(charts.calibration(f"calibration-{title}", f"Calibration of {title}", said, bins)))
    return Section("calibration", "Calibration", blocks)


def citing() -> Section:
    """How to cite."""
    return Section("citing", "How to cite", [
        Text(f"The autoseg developers: autoseg {__version__}, self-configuring segmentation for medical and "
             "remote-sensing images. The plan follows rules of nnU-Net (Isensee et al., Nature Methods, 2021); what a "
             "part of the network or a loss goes back to, `autoseg parts NAME` tells."),
    ])  # fmt: skip
