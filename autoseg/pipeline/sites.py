"""Leaving one site out: folds by site beside the task's own, and what both say of every site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.bootstrap import Bounds, bounds, evidence, interval, redrawn
from autoseg.arrays.metrics import mean_of
from autoseg.errors import BadUsage
from autoseg.layouts.folds import SITE, site_folds
from autoseg.pipeline.crossval import train_missing
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.tasks import dataset_of
from autoseg.pipeline.voice import Voice
from autoseg.records import Measures, Plan, Scores, digest
from autoseg.store import Home, save_record

CORNER = "sites"


@dataclass(frozen=True)
class SiteRow:
    """Of a configuration: the mean Dice over a site's cases by networks that had seen none of them, and by those of the
    task's own folds, which had seen others of the site; None where these are not trained.

    `apart` is the former less the latter. `within` and `apart_within` hold 95 % of the former and of the difference
    when the same groups are drawn again for both; None with fewer than two.
    """

    configuration: str
    site: str
    cases: int
    unseen: float | None
    within: Bounds | None
    seen: float | None
    apart: float | None
    apart_within: Bounds | None


def leave_out(
    home: Home, plan: Plan, titles: Sequence[str], wish: Wish, devices: Sequence[str], voice: Voice
) -> list[SiteRow]:  # fmt: skip
    """Trains what is missing of one fold per site, apart from the task's other runs. Raises: BadTask without sites."""
    own, apart = home.folds(plan.task), replace(home, corner=CORNER)
    if own is not None and own.by == SITE:
        raise BadUsage("are by site already", where=f"the folds of {plan.task}", remedy="leave the option out")
    dataset, _ = dataset_of(home, plan.task)
    folds = site_folds(dataset.cases)
    if folds != apart.folds(plan.task):
        save_record(apart.folds_file(plan.task), folds)
    train_missing(apart, plan, titles, wish, devices, voice)
    return compared(home, plan, wish.seed)


def compared(home: Home, plan: Plan, seed: int) -> list[SiteRow]:
    """What has been trained so far, site by site."""
    apart = replace(home, corner=CORNER)
    folds = apart.folds(plan.task)
    groups = {case.id: case.group or case.id for case in dataset_of(home, plan.task)[0].cases}
    rows = []
    for title in plan.configurations if folds is not None else ():
        inside = _cases(home, plan, title, seed)
        for number, site in enumerate(folds.names if folds else ()):
            scores = _scores(apart, plan, title, number, seed)
            if scores is not None and scores.cases:
                drawn = [groups.get(case, case) for case in scores.cases]
                whole = set(scores.cases) <= set(inside)
                same = [inside[case] for case in scores.cases] if whole else []
                rows.append(_row(title, site, [*scores.cases.values()], same, drawn))
    return rows


def _row(
    title: str, site: str, unseen: Sequence[dict[str, Measures]], seen: Sequence[dict[str, Measures]],
    groups: Sequence[str],
) -> SiteRow:  # fmt: skip
    """Args: the cases of a site by both kinds of networks, one after the other; `seen` is empty where not known."""
    dice = _table(unseen)
    if not seen:
        return SiteRow(title, site, len(dice), _mean(dice), interval(dice, groups), None, None, None)
    same = _table(seen)
    means = _mean(dice), _mean(same)
    apart = None if means[0] is None or means[1] is None else means[0] - means[1]
    several = min(evidence(dice, groups), evidence(same, groups)) > 1
    within = bounds(redrawn(dice, groups) - redrawn(same, groups)) if several else None
    return SiteRow(title, site, len(dice), means[0], interval(dice, groups), means[1], apart, within)


def _cases(home: Home, plan: Plan, title: str, seed: int) -> dict[str, dict[str, Measures]]:
    """The measures of every case that a run of the task's own folds held out."""
    folds = home.folds(plan.task)
    found: dict[str, dict[str, Measures]] = {}
    for number in range(len(folds.folds)) if folds is not None else ():
        scores = _scores(home, plan, title, number, seed)
        found |= scores.cases if scores is not None else {}
    return found


def _scores(home: Home, plan: Plan, title: str, fold: int, seed: int) -> Scores | None:
    """Of a run of the folds and classes that there are now; None where there is none."""
    folder, folds = home.run_folder(plan.task, plan.name, title, fold, seed), home.folds(plan.task)
    run = folder.run()
    same = run is not None and folds is not None and run.folds == digest(folds) and run.question == plan.question
    return folder.scores() if same else None


def _table(rows: Sequence[dict[str, Measures]]) -> NDArray[np.float64]:
    """The Dice (cases, classes), NaN where a class does not count."""
    return np.array([[row[name].dice for name in rows[0]] for row in rows], np.float64)


def _mean(table: NDArray[np.float64]) -> float | None:
    """The mean over classes of the mean over cases."""
    return mean_of(mean_of(float(value) for value in column if value == value) for column in table.T)
