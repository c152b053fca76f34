"""Training what is missing of all folds of several configurations, within one budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from autoseg import engine
from autoseg.errors import BadUsage
from autoseg.pipeline.cascade import earlier_of
from autoseg.pipeline.choosing import command
from autoseg.pipeline.ensembles import state_of
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.tasks import dataset_of
from autoseg.pipeline.training import train
from autoseg.pipeline.voice import Silent, Voice
from autoseg.records import Folds, Plan
from autoseg.steps import plan as planning
from autoseg.steps.cases import content_hash
from autoseg.store import Home


def train_missing(
    home: Home, plan: Plan, titles: Sequence[str], wish: Wish, devices: Sequence[str], voice: Voice
) -> list[str]:
    """Trains every fold that is not finished, one configuration after the other; answers the configurations.

    Args:
        wish: what holds for all runs; every run gets an equal part of its budget.
        devices: with several, as many runs are trained at once.
    Raises: BadUsage for a configuration that there is not, where there are fewer than two folds, and for runs of
        another plan or other folds.
    """
    folds = home.folds(plan.task)
    if folds is None or len(folds.folds) < 2:
        what = "cross-validation needs folds, of which there is one" if folds else "has no folds"
        raise BadUsage(what, where=plan.task, remedy=f"plan it with folds: autoseg plan {plan.task}")
    order = _in_order(plan, titles)
    due = _due(home, plan, wish, folds, order)
    share = wish.budget / (len(order) * len(folds.folds)) if wish.budget is not None else None
    if due:
        parts = f", those that have not begun for {share / 60:.3g} minutes each" if share else ""
        voice.say(f"{len(due)} of {len(order) * len(folds.folds)} runs are to be trained{parts}")
    wishes = [_wish(wish, *one, share, begun=begun) for one, begun in due.items()]
    if len(devices) > 1:
        for later in (False, True):  # what a cascade goes on from is there before it begins
            stage = [one for one in wishes if (plan.configurations[one.configuration].previous is not None) == later]
            _together(home, plan, stage, devices, voice)
    else:
        for run in wishes:
            voice.say(f"{run.configuration}, fold {run.fold}")
            train(home, plan, _as_long_as_its_like(home, plan, run), voice)
    return [*titles]


def _in_order(plan: Plan, titles: Sequence[str]) -> list[str]:
    """The configurations, each after the one that it goes on from, which is trained too. Raises: BadUsage, BadPlan."""
    for title in titles:
        planning.configuration_of(plan, title)
    before = [earlier_of(plan, title) for title in titles]
    return [*dict.fromkeys([one for one in before if one is not None] + list(titles))]


def _due(
    home: Home, plan: Plan, wish: Wish, folds: Folds, order: Sequence[str]
) -> dict[tuple[str, int], bool]:  # fmt: skip
    """The runs that are to be trained, predicted or scored, and whether each has begun.

    Raises: BadUsage for those that were trained with other folds or another plan: they are not overwritten unasked.
    """
    dataset, _ = dataset_of(home, plan.task)
    cases = {case.id: case for case in dataset.cases}
    content = partial(content_hash, home.task_folder(plan.task))
    due, foreign = {}, []
    for title, fold in product(order, range(len(folds.folds))):
        folder = home.run_folder(plan.task, plan.name, title, fold, wish.seed)
        why, mends = state_of(plan, folds, cases, folder, title, fold, content)
        if not (why or wish.fresh):
            continue
        due[title, fold] = folder.run() is not None
        if why and not (mends or wish.fresh):
            foreign.append(f"{command(plan.task, plan.name, title, fold, wish.seed)} --fresh ({why.partition(':')[0]})")
    if foreign:
        more = f", and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        what = f"{len(foreign)} runs are not of this plan and these folds"
        remedy = f"train them again: {', '.join(foreign[:5])}{more}; or all of them: autoseg crossval --fresh"
        raise BadUsage(what, where=f"{plan.task}, plan {plan.name}", remedy=remedy)
    return due


def _wish(wish: Wish, title: str, fold: int, share: float | None, *, begun: bool) -> Wish:
    """Of a run: one that was begun keeps the steps that it was begun with."""
    one = replace(wish, configuration=title, fold=fold, budget=None if begun else share)
    return replace(one, steps=None) if begun else one


def _as_long_as_its_like(home: Home, plan: Plan, wish: Wish) -> Wish:
    """With a budget the first fold's speed decides: the others get its steps, so that the folds compare."""
    folds = home.folds(plan.task)
    for fold in range(len(folds.folds)) if folds and wish.budget is not None else ():
        run = home.run_folder(plan.task, plan.name, wish.configuration, fold, wish.seed).run()
        if run is not None and run.budget is not None and fold != wish.fold:
            return replace(wish, budget=None, steps=run.settings.train.steps)
    return wish


# -- several devices -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    wishes: tuple[Wish, ...]


def _together(home: Home, plan: Plan, wishes: Sequence[Wish], devices: Sequence[str], voice: Voice) -> None:
    """A list of runs for every device; those that begin at once turn a budget into steps themselves."""
    lists = [
        tuple(replace(one, device=device) for one in wishes[n :: len(devices)]) for n, device in enumerate(devices)
    ]
    jobs = [_Job(one) for one in lists if one]
    if not jobs:
        return
    voice.say(f"{len(jobs)} runs are trained at once, on {', '.join(devices)}; each has its own log")
    work = partial(_train, home=home, plan=plan, threads=max(1, engine.cores() // len(jobs)))
    found: Iterator[tuple[int, list[str]]] = engine.Pool(len(jobs)).run(work, jobs)
    for _, told in voice.track(found, len(jobs), "training"):
        for line in told:
            voice.say(line)


def _train(job: _Job, home: Home, plan: Plan, threads: int) -> list[str]:
    import torch

    torch.set_num_threads(threads)
    lines = []
    for wish in job.wishes:
        folder = train(home, plan, _as_long_as_its_like(home, plan, wish), Silent())
        scores = folder.scores()
        dice = "–" if scores is None or scores.dice is None else f"{scores.dice:.4f}"
        lines.append(f"{wish.configuration}, fold {wish.fold}: validation Dice {dice}")
    return lines
