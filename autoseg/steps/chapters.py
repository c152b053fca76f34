"""The chapters of a report that say what was done: the question, the data, the plan, the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from autoseg import __version__
from autoseg.arrays.intensity import LEVELS
from autoseg.arrays.metrics import mean_of
from autoseg.records import (
    CaseFacts,
    Configuration,
    Dataset,
    Fingerprint,
    Intensity,
    Plan,
    Run,
)
from autoseg.steps import charts
from autoseg.steps.report import Block, Chart, Section, Text, table

POINTS = 200  # of a learning curve
MEANING = (
    "These figures are of the networks of single folds, each on cases that it had not seen. What predicts new images "
    "is the mean of the networks of all folds, which is unmeasured unless evaluate is given a test set. The model and "
    "its postprocessing were chosen on these very cases; what that is worth on others stands in their chapters."
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
        key, name = f"network-{number}", f"The network of {title}"
        blocks.append(Chart(key, name, "", charts.apart(svg, key, name)))
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


def citing() -> Section:
    """How to cite."""
    return Section("citing", "How to cite", [
        Text(f"The autoseg developers: autoseg {__version__}, self-configuring segmentation for medical and "
             "remote-sensing images. The plan follows rules of nnU-Net (Isensee et al., Nature Methods, 2021); what a "
             "part of the network or a loss goes back to, `autoseg parts NAME` tells."),
        Text(f"@software{{autoseg, author = {{The autoseg developers}}, title = {{autoseg}}, version = "
             f"{{{__version__}}}}}"),
    ])  # fmt: skip
