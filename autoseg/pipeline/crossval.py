"""Training what is missing of all folds of several configurations, within one budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autoseg import engine
from autoseg.errors import BadUsage
from autoseg.pipeline.cascade import earlier_of
from autoseg.pipeline.choosing import complete
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.training import train
from autoseg.pipeline.voice import Silent, Voice
from autoseg.records import Folds, Plan
from autoseg.steps import plan as planning
from autoseg.store import Home


def train_missing(
    home: Home, plan: Plan, titles: Sequence[str], wish: Wish, devices: Sequence[str], voice: Voice
) -> list[str]:
    """Trains every fold that is not finished, one configuration after the other; answers the configurations.

    Args:
        wish: what holds for all runs; its budget is divided among those that have not begun.
        devices: with several, as many runs are trained at once.
    Raises: BadUsage for a configuration that there is not, and where there are fewer than two folds.
    """
    folds = home.folds(plan.task)
    if folds is None or len(folds.folds) < 2:
        what = "cross-validation needs folds, of which there is one" if folds else "has no folds"
        raise BadUsage(what, where=plan.task, remedy=f"plan it with folds: autoseg plan {plan.task}")
    order = _in_order(plan, titles)
    due = [
        (title, fold)
        for title in order
        for fold in range(len(folds.folds))
        if _due(home, plan, wish, folds, title, fold)
    ]
    fresh = [one for one in due if home.run_folder(plan.task, plan.name, *one, wish.seed).run() is None]
    share = wish.budget / len(fresh) if wish.budget is not None and fresh else None
    if due:
        parts = f", {share / 60:.3g} minutes for each of the {len(fresh)} that have not begun" if share else ""
        voice.say(f"{len(due)} of {len(order) * len(folds.folds)} runs are to be trained{parts}")
    wishes = [_wish(wish, *one, share, begun=one not in fresh) for one in due]
    if len(devices) > 1:
        _together(home, plan, wishes, devices, voice)
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


def _due(home: Home, plan: Plan, wish: Wish, folds: Folds, title: str, fold: int) -> bool:
    folder = home.run_folder(plan.task, plan.name, title, fold, wish.seed)
    return wish.fresh or folder.run() is None or not complete(folder) or folder.scores() is None


def _wish(wish: Wish, title: str, fold: int, share: float | None, *, begun: bool) -> Wish:
    """Of a run: one that was begun keeps the steps that it was begun with."""
    one = replace(wish, configuration=title, fold=fold, budget=None if begun else share)
    return replace(one, steps=None) if begun else one


def _as_long_as_its_like(home: Home, plan: Plan, wish: Wish) -> Wish:
    """With a budget the first fold's speed decides: the others get its steps, so that the folds compare."""
    if wish.budget is None:
        return wish
    for fold in range(int(wish.fold)):
        run = home.run_folder(plan.task, plan.name, wish.configuration, fold, wish.seed).run()
        if run is not None and run.budget == wish.budget:
            return replace(wish, budget=None, steps=run.settings.train.steps)
    return wish


# -- several devices -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    wishes: tuple[Wish, ...]


def _together(home: Home, plan: Plan, wishes: Sequence[Wish], devices: Sequence[str], voice: Voice) -> None:
    """A list of runs for every device, each of which converts its budget itself."""
    lists = [
        tuple(replace(one, device=device) for one in wishes[n :: len(devices)]) for n, device in enumerate(devices)
    ]
    jobs = [_Job(one) for one in lists if one]
    voice.say(f"{len(jobs)} runs are trained at once, on {', '.join(devices)}; each has its own log")
    found: Iterator[tuple[int, list[str]]] = engine.Pool(len(jobs)).run(partial(_train, home=home, plan=plan), jobs)
    for _, told in voice.track(found, len(jobs), "training"):
        for line in told:
            voice.say(line)


def _train(job: _Job, home: Home, plan: Plan) -> list[str]:
    lines = []
    for wish in job.wishes:
        folder = train(home, plan, wish, Silent())
        scores = folder.scores()
        dice = "–" if scores is None or scores.dice is None else f"{scores.dice:.4f}"
        lines.append(f"{wish.configuration}, fold {wish.fold}: validation Dice {dice}")
    return lines
