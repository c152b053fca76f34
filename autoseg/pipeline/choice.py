"""Choosing the model of a plan: one configuration or an ensemble, and its postprocessing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg import engine
from autoseg.errors import BadUsage
from autoseg.pipeline import out_of_fold
from autoseg.pipeline.ensembles import Finished, Held, Titles, finished, held_out, models_of
from autoseg.pipeline.out_of_fold import Pair, pair_of
from autoseg.pipeline.prediction import load_model
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseFacts, Choice, Cleaning, Compared, Part, Plan, Question
from autoseg.steps import cases as casework
from autoseg.steps import choose as choosing
from autoseg.steps import evaluate, postprocess
from autoseg.store import Home, save_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoseg.steps.choose import Row, Verdict


def choose_model(
    home: Home, plan: Plan, titles: Sequence[str], seed: int, device: str, plugins: Mapping[str, str],
    workers: int | None, voice: Voice,
) -> Choice:  # fmt: skip
    """Compares all models of these configurations on cases held out, and writes which is taken.

    Raises: BadUsage where a run of theirs is missing; BadData where a label cannot be read.
    """
    done = finished(home, plan, titles, seed)
    held = held_out(home, done, device, plugins, voice)
    if not held:
        raise BadUsage("no case was held out", where=plan.task, remedy="plan with several folds")
    models, place = models_of([*done.runs]), home.task_folder(plan.task)
    scores = _scores(held, models, place, plan.question, workers, voice)
    prices = _prices(home, done, device, plugins)
    costs = {_named(way): sum(prices[title].seconds for title in way) for way in models}
    groups = [one.files.group or one.files.id for one in held]
    verdict = choosing.choose(scores, costs, groups, [one.fold for one in held])
    taken = next(way for way in models if _named(way) == verdict.name)
    choice = Choice(
        task=plan.task, plan=plan.name, seed=seed, configurations=taken, because=_because(verdict),
        table=tuple(_compared(row, models, prices) for row in verdict.rows), nested=verdict.nested,
        cleaning=_cleaning(held, taken, place, plan.question, workers, voice), runs=done.contents, cases=len(held),
        groups=len(set(groups)),
    )  # fmt: skip
    spacings = [max(facts.spacing) for facts in _facts_of(home, done) if facts.spacing]
    voxel = statistics.median(spacings) if spacings else 1.0
    scored = out_of_fold.scored(held, taken, choice.cleaning.steps, place, plan.question, voxel, workers, voice)
    save_record(home.choice_scores_file(plan.task, plan.name), scored)
    save_record(home.choice_file(plan.task, plan.name), choice)
    return choice


def _facts_of(home: Home, done: Finished) -> list[CaseFacts]:
    """What was measured of the cases."""
    fingerprint = home.fingerprint(done.plan.task)
    known = fingerprint.cases if fingerprint else {}
    return [known[files.id] for files, _ in done.cases if files.id in known]


def _named(way: Titles) -> str:
    return " + ".join(way)


def _because(verdict: Verdict) -> str:
    """Why that model, in a sentence."""
    best, row = verdict.rows[0], verdict.row
    if len(verdict.rows) == 1:
        return "the only one"
    if row.name == best.name:
        cheaper = [other for other in verdict.rows if other.cost < row.cost]
        shown = "all that cost less are shown to be worse" if cheaper else "none costs less"
        return f"the highest Dice, and {shown}"
    apart = "" if row.apart is None else f" (95 %: {row.apart[0]:+.4f} to {row.apart[1]:+.4f})"
    return f"the cheapest that is not shown to be worse than {best.name}, which is {row.behind:.4f} better{apart}"


def _compared(row: Row, models: Sequence[Titles], prices: Mapping[str, _Price]) -> Compared:
    way = next(way for way in models if _named(way) == row.name)
    return Compared(
        name=row.name, configurations=way, dice=row.dice, interval=row.interval, behind=row.behind, apart=row.apart,
        seconds=row.cost, parameters=sum(prices[title].parameters for title in way),
    )  # fmt: skip


# -- scores --------------------------------------------------------------------------------------------


def _scores(
    held: Sequence[Held], models: Sequence[Titles], place: Path, question: Question, workers: int | None, voice: Voice
) -> dict[str, NDArray[np.float64]]:
    """Dice (cases, foreground outputs) of every model."""
    jobs = [[pair_of(one, way, place) for way in models] for one in held]
    found: list[NDArray[np.float64]] = [np.empty(0)] * len(jobs)
    results = engine.local(workers, len(jobs) // 4).run(partial(_score, question=question), jobs)
    for index, rows in voice.track(results, len(jobs), "scoring"):
        found[index] = rows
    return {_named(way): np.array([rows[n] for rows in found]) for n, way in enumerate(models)}


def _score(pairs: Sequence[Pair], question: Question) -> NDArray[np.float64]:
    """(models, foreground outputs) of a case."""
    rows = []
    for pair in pairs:
        prediction, reference, truth = out_of_fold.read(pair, question)
        scored = evaluate.of_indices(prediction, reference, question, truth.spacing)
        dice = [scored[name].dice for name in question.foreground]
        rows.append([np.nan if value is None else value for value in dice])
    return np.array(rows, np.float64)


# -- prices --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Price:
    """Of a configuration: seconds to predict a case of middling size by one fold's networks, what a cascade goes on
    from with it, and their parameters."""

    seconds: float
    parameters: int


def _prices(home: Home, done: Finished, device: str, plugins: Mapping[str, str]) -> dict[str, _Price]:
    question, place = done.plan.question, home.task_folder(done.plan.task)
    fingerprint = home.fingerprint(done.plan.task)
    sizes = {
        files.id: prod(fingerprint.cases[files.id].shape) if fingerprint and files.id in fingerprint.cases else 0
        for files, _ in done.cases
    }
    middle = statistics.median_low(sorted(sizes.values()))
    files, fold = next((files, fold) for files, fold in done.cases if sizes[files.id] == middle)
    image = casework.read_image([place / name for name in files.images], question)
    found = {}
    for title, runs in done.runs.items():
        model = load_model([runs[fold]], device, plugins)
        if (before := model.run.settings.previous) is not None:
            first = home.run_folder(done.plan.task, done.plan.name, before, fold, model.run.seed)
            model = replace(model, earlier=load_model([first], device, plugins))
        model.predict(image)  # the first one of a process takes longer
        began = time.perf_counter()
        model.predict(image)
        seconds = time.perf_counter() - began
        found[title] = _Price(seconds, sum(one.numel() for net in model.networks for one in net.parameters()))
    return found


# -- postprocessing ------------------------------------------------------------------------------------


def _cleaning(
    held: Sequence[Held], way: Titles, place: Path, question: Question, workers: int | None, voice: Voice
) -> Cleaning:  # fmt: skip
    """What of postprocessing helps the model; nothing where there is no background to give voxels to."""
    if question.regions or not question.background:
        what = "its classes overlap" if question.regions else "no class is the background"
        voice.say(f"no postprocessing: {what}")
        return Cleaning()
    names = list(question.foreground)
    classes = {name: question.classes.index(name) for name in names}
    jobs = {one.files.id: (pair_of(one, way, place), one.fold) for one in held}
    results = engine.local(workers, len(jobs) // 4).run(partial(_facts, question=question), [*jobs.values()])
    found = dict(voice.track(results, len(jobs), "looking for postprocessing"))

    def after(case: str, steps: tuple[Part, ...]) -> NDArray[np.float64]:
        label, reference, truth = out_of_fold.read(jobs[case][0], question, steps)
        facts = postprocess.facts(label, reference, [*classes.values()], truth.spacing, 0)
        return postprocess.dice(facts.hits, facts.predicted, facts.there)

    return postprocess.choose({case: found[number] for number, case in enumerate(jobs)}, names, after)


def _facts(job: tuple[Pair, int], question: Question) -> postprocess.Facts:
    pair, fold = job
    prediction, reference, truth = out_of_fold.read(pair, question)
    indices = [question.classes.index(name) for name in question.foreground]
    return postprocess.facts(prediction, reference, indices, truth.spacing, fold)
