"""What the step of the tiles, mirroring and several scales cost, and what they bring, on cases held out in training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoseg.arrays.metrics import mean_of
from autoseg.errors import BadUsage
from autoseg.pipeline import tasks
from autoseg.pipeline.choosing import choose_runs
from autoseg.pipeline.networks import before_deepest
from autoseg.pipeline.prediction import Model, load_model
from autoseg.pipeline.voice import Voice
from autoseg.records import Measures, Plan, Pruned
from autoseg.steps import cases as casework
from autoseg.steps import evaluate
from autoseg.store import Home, RunFolder

CASES = 10  # that are predicted in every way, at most
Way = tuple[float, bool, tuple[float, ...]]  # step, mirroring, scales
PLAIN: Way = (0.5, True, (1.0,))
WAYS: tuple[Way, ...] = (
    PLAIN, (0.5, False, (1.0,)), (0.75, True, (1.0,)), (0.75, False, (1.0,)), (1.0, False, (1.0,)),
    (0.5, True, (0.75, 1.0, 1.25)),
)  # fmt: skip


@dataclass(frozen=True)
class Price:
    """One way to predict: seconds per case, reading and writing left out, and the mean Dice of the same cases."""

    configuration: str
    way: str
    cases: int
    seconds: float
    dice: float | None


def price(
    home: Home, plan: Plan, device: str, plugins: Mapping[str, str], voice: Voice, title: str | None = None
) -> list[Price]:  # fmt: skip
    """Every one of `WAYS`, on the same cases: up to ten, spread over the finished folds, each by its own fold's model.

    Raises: BadUsage for a cascade, and where no finished run held a case out.
    """
    chosen = choose_runs(home, plan, voice, title)
    models = [load_model([folder], device, plugins) for folder in chosen]
    if models[0].run.settings.previous is not None:
        raise BadUsage("of a cascade is not measured", where="--price", remedy="name another with --config")
    pairs = _cases(home, models)
    if not pairs:
        raise BadUsage("no finished run held cases out", where="--price", remedy="train a fold: autoseg train 2d 0")
    found = list(voice.track(_measured(home, pairs, WAYS), len(WAYS) * len(pairs), "measuring prices"))
    rows = []
    for way in WAYS:
        times = [seconds for one, seconds, _ in found if one == way]
        dice = _dice([measures for one, _, measures in found if one == way])
        rows.append(Price(models[0].run.configuration, _named(way), len(pairs), sum(times) / len(times), dice))
    return rows


def of_depths(
    home: Home, folders: Sequence[RunFolder], device: str, plugins: Mapping[str, str], voice: Voice
) -> list[Pruned]:  # fmt: skip
    """Of the finished runs of a configuration, what each depth of its network costs and brings on a few cases.

    Nothing where the network has no heads of several depths, or goes on from another's label.
    """
    whole = [load_model([folder], device, plugins) for folder in folders]
    settings = whole[0].run.settings
    last = before_deepest(settings)
    pairs = [] if last is None or settings.previous is not None else _cases(home, whole)
    if last is None or not pairs or not settings.network.deep_supervision:
        return []
    number, found = {id(model): n for n, model in enumerate(whole)}, []
    title, depths = whole[0].run.configuration, [*range(1, last + 2), None]
    for depth in voice.track(depths, len(depths), f"measuring the depths of {title}"):
        of = whole if depth is None else [load_model([folder], device, plugins, fast=depth) for folder in folders]
        rows = [*_measured(home, [(of[number[id(model)]], case) for model, case in pairs], [PLAIN])]
        seconds = sum(seconds for _, seconds, _ in rows) / len(rows)
        dice = _dice([measures for _, _, measures in rows])
        found.append(Pruned(configuration=title, depth=depth, cases=len(pairs), seconds=seconds, dice=dice))
    return found


def _cases(home: Home, models: Sequence[Model]) -> list[tuple[Model, str]]:
    """Up to CASES cases and the models that had not seen them, in turn over the folds."""
    folds = home.folds(models[0].run.task)
    dataset, _ = tasks.dataset_of(home, models[0].run.task)
    there = {case.id for case in dataset.cases if case.label}
    held = [
        [(model, case) for case in folds.folds[model.run.fold] if case in there and case not in model.run.skipped]
        for model in models
        if folds is not None and isinstance(model.run.fold, int) and model.run.fold < len(folds.folds)
    ]
    longest = max(map(len, held), default=0)
    return [row[number] for number in range(longest) for row in held if number < len(row)][:CASES]


def _measured(
    home: Home, pairs: Sequence[tuple[Model, str]], ways: Sequence[Way]
) -> Iterator[tuple[Way, float, dict[str, Measures]]]:  # fmt: skip
    task = pairs[0][0].run.task
    dataset, _ = tasks.dataset_of(home, task)
    for number, (model, id) in enumerate(pairs):
        case = casework.load(home.task_folder(task), dataset.case(id), model.question)
        assert case.label is not None
        if number == 0:
            model.predict(case.image)  # the first prediction of a process takes longer
        for way in ways:
            step, mirror, scales = way
            began = time.perf_counter()
            label = replace(model, step=step, mirror=mirror, scales=scales).predict(case.image)
            seconds = time.perf_counter() - began
            ignored = None if case.image.valid is None else ~case.image.valid
            scored = evaluate.score(label, case.label, model.question, case.image.spacing, id, ignored=ignored)
            yield way, seconds, scored


def _dice(scored: Sequence[dict[str, Measures]]) -> float | None:
    """The mean over classes of the mean over cases."""
    names = scored[0]
    return mean_of([mean_of([case[name].dice for case in scored]) for name in names])


def _named(way: Way) -> str:
    step, mirror, scales = way
    said = [f"--step {step:g}", *([] if mirror else ["--no-mirror"])]
    return " ".join(said + (["--scales " + ",".join(f"{s:g}" for s in scales)] if len(scales) > 1 else []))
