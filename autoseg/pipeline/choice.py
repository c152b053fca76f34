"""Choosing the model of a plan: one configuration or an ensemble, and its postprocessing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from autoseg import engine
from autoseg.errors import BadFile, BadInput, BadUsage
from autoseg.pipeline import out_of_fold
from autoseg.pipeline.ensembles import Finished, Held, Titles, finished, held_out, models_of
from autoseg.pipeline.levels import levels_beside
from autoseg.pipeline.out_of_fold import Indices, Pair, pair_of
from autoseg.pipeline.prediction import load_model
from autoseg.pipeline.pricing import of_depths
from autoseg.pipeline.scoring import USUAL
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseFacts, Choice, Cleaning, Compared, Plan, Postprocessing, Pruned, Question
from autoseg.steps import cases as casework
from autoseg.steps import choose as choosing
from autoseg.steps import evaluate, postprocess, tallies
from autoseg.store import Home, read_indices, save_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoseg.steps.choose import Row, Verdict


Job = TypeVar("Job")
Result = TypeVar("Result")


def choose_model(
    home: Home, plan: Plan, titles: Sequence[str], seed: int, device: str, plugins: Mapping[str, str],
    workers: int | None, voice: Voice, measures: tuple[str, ...] = USUAL,
) -> Choice:  # fmt: skip
    """Compares all models of these configurations on cases held out, and writes which is taken.

    Args:
        measures: what is measured of it beside Dice and its like, as texts.
    Raises: BadUsage where a run of theirs is missing; BadData where a label cannot be read.
    """
    done = finished(home, plan, titles, seed)
    held = held_out(home, done, device, plugins, voice)
    if not held:
        raise BadUsage("no case was held out", where=plan.task, remedy="plan with several folds")
    before = _before(home, plan)
    models, place, known = models_of([*done.runs]), home.task_folder(plan.task), _facts_of(home, done)

    def pairs(way: Titles) -> list[Pair]:
        return [pair_of(one, way, place, known.get(one.files.id)) for one in held]

    work = _Work(plan.question, workers, voice)
    scores = work.scores({_named(way): pairs(way) for way in models})
    prices = _prices(home, done, device, plugins)
    costs = {_named(way): sum(prices[title].seconds for title in way) for way in models}
    groups = [one.files.group or one.files.id for one in held]
    verdict = choosing.choose(scores, costs, groups, [one.fold for one in held])
    taken = next(way for way in models if _named(way) == verdict.name)
    choice = Choice(
        task=plan.task, plan=plan.name, seed=seed, configurations=taken, because=_because(verdict),
        table=tuple(_compared(row, models, prices) for row in verdict.rows), nested=verdict.nested,
        depths=_depths(home, done, before, device, plugins, voice),
        cleaning=work.cleaning(held, pairs(taken)), runs=done.contents, cases=len(held), groups=len(set(groups)),
    )  # fmt: skip
    voxel = statistics.median([max(facts.spacing) for facts in known.values() if facts.spacing] or [1.0])
    scored = out_of_fold.scored(
        held, pairs(taken), choice.cleaning.taken, plan.question, voxel, measures, workers, voice
    )  # fmt: skip
    save_record(home.choice_scores_file(plan.task, plan.name), scored)
    save_record(home.choice_file(plan.task, plan.name), choice)
    return choice


def _before(home: Home, plan: Plan) -> Choice | None:
    """What was chosen before, as far as it can be read."""
    try:
        return home.choice(plan.task, plan.name)
    except BadFile:
        return None


def _depths(
    home: Home, done: Finished, before: Choice | None, device: str, plugins: Mapping[str, str], voice: Voice
) -> tuple[Pruned, ...]:  # fmt: skip
    """What depths of networks cost and bring; of runs that have not changed that is known."""
    found: list[Pruned] = []
    for title, runs in done.runs.items():
        if before is not None and before.runs.get(title) == done.contents[title]:
            found += [row for row in before.depths if row.configuration == title]
            continue
        try:
            found += of_depths(home, runs, device, plugins, voice)
        except BadInput as problem:
            voice.say(f"the depths of {title} are not measured: {problem}")
    return tuple(found)


def _facts_of(home: Home, done: Finished) -> dict[str, CaseFacts]:
    """What was measured of the cases."""
    fingerprint = home.fingerprint(done.plan.task)
    known = fingerprint.cases if fingerprint else {}
    return {files.id: known[files.id] for files, _ in done.cases if files.id in known}


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
        memory=max(prices[title].memory for title in way),
    )  # fmt: skip


# -- scores and postprocessing -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """What is done case by case, by several processes."""

    question: Question
    workers: int | None
    voice: Voice

    def _each(self, function: Callable[[Job], Result], jobs: Sequence[Job], label: str) -> list[Result]:
        """In the order of the jobs."""
        run = engine.local(self.workers, len(jobs) // 4).run(function, jobs)
        found = dict(self.voice.track(run, len(jobs), label))
        return [found[number] for number in range(len(jobs))]

    def scores(self, pairs: Mapping[str, Sequence[Pair]]) -> dict[str, NDArray[np.float64]]:
        """Dice (cases, foreground outputs) of every model."""
        jobs = [*zip(*pairs.values(), strict=True)]
        found = self._each(partial(_dice_of, question=self.question), jobs, "scoring")
        return {name: np.array([rows[n] for rows in found]) for n, name in enumerate(pairs)}

    def cleaning(self, held: Sequence[Held], pairs: Sequence[Pair]) -> Cleaning:
        """What of postprocessing helps the model; nothing where there is no background to give voxels to."""
        question = self.question
        if question.regions or not question.background:
            what = "its classes overlap" if question.regions else "no class is the background"
            self.voice.say(f"no postprocessing: {what}")
            return Cleaning()
        jobs = [(pair, one.fold) for pair, one in zip(pairs, held, strict=True)]
        first = None
        try:
            odds = self._each(partial(_odds, question=question), jobs, "looking for thresholds")
            first = postprocess.thresholds(odds, question.foreground)
        except BadFile as problem:
            self.voice.say(f"no thresholds: {problem}")
        taken = Postprocessing(thresholds=dict(first.taken) if first else {})
        found = self._each(partial(_facts, question=question, after=taken), jobs, "looking for postprocessing")
        by_name = {one.files.id: pair for pair, one in zip(pairs, held, strict=True)}

        def after(wanted: Sequence[tuple[str, Postprocessing]]) -> list[NDArray[np.float64]]:
            done = [(by_name[case], what) for case, what in wanted]
            return self._each(partial(_cleaned_dice, question=question), done, "trying postprocessing")

        known = {one.files.id: facts for one, facts in zip(held, found, strict=True)}
        return postprocess.choose(known, question.foreground, after, first)


def _dice_of(pairs: Sequence[Pair], question: Question) -> NDArray[np.float64]:
    """(models, foreground outputs) of a case."""
    reference, truth = out_of_fold.reference_of(pairs[0], question)
    guesses = (out_of_fold.prediction_of(pair, question, truth) for pair in pairs)
    return np.array([_row(guess, reference, question) for guess in guesses], np.float64)


def _row(prediction: Indices, reference: Indices, question: Question) -> list[float]:
    scored = evaluate.of_indices(prediction, reference, question, (1.0,) * prediction.ndim)
    dice = (scored[name].dice for name in question.foreground)
    return [np.nan if value is None else value for value in dice]


def _foreground(question: Question) -> list[int]:
    return [question.classes.index(name) for name in question.foreground]


def _odds(job: tuple[Pair, int], question: Question) -> tallies.Odds:
    pair, fold = job
    reference, _ = out_of_fold.reference_of(pair, question)
    return tallies.odds(read_indices(levels_beside(pair.prediction)), reference, _foreground(question), fold)


def _facts(job: tuple[Pair, int], question: Question, after: Postprocessing) -> tallies.Facts:
    pair, fold = job
    prediction, reference, truth = out_of_fold.read(pair, question, after)
    return tallies.facts(prediction, reference, _foreground(question), truth.spacing, fold)


def _cleaned_dice(job: tuple[Pair, Postprocessing], question: Question) -> NDArray[np.float64]:
    pair, what = job
    prediction, reference, _ = out_of_fold.read(pair, question, what)
    return np.array(_row(prediction, reference, question), np.float64)


# -- prices --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Price:
    """Of a configuration: seconds to predict a case of middling size by one fold's networks, what a cascade goes on
    from with it, their parameters, and the bytes of a step of its training."""

    seconds: float
    parameters: int
    memory: int


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
        times = []
        for _ in range(4):  # the first one of a process takes longer
            began = time.perf_counter()
            model.predict(image)
            times.append(time.perf_counter() - began)
        networks = [*model.networks, *(model.earlier.networks if model.earlier else ())]
        found[title] = _Price(
            statistics.median(times[1:]),
            sum(one.numel() for net in networks for one in net.parameters()),
            model.run.settings.memory.bytes,
        )
    return found
