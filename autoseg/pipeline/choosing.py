"""Which of the runs that are there a model is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autoseg.errors import BadFile, BadUsage
from autoseg.pipeline.predicted import content_of
from autoseg.pipeline.voice import Voice
from autoseg.records import Choice, Plan
from autoseg.store import Home, RunFolder


def choose_runs(
    home: Home, plan: Plan, voice: Voice, configuration: str | None = None, folds: Sequence[str] | None = None
) -> list[RunFolder]:
    """The finished runs to predict with: of the configuration with the best mean validation Dice, all folds.

    Raises: BadUsage when there is none.
    """
    runs: dict[str, dict[str, RunFolder]] = {}
    begun = {folder.folder: run for folder in home.runs(plan.task, plan.name) if (run := folder.run()) is not None}
    asked = [RunFolder(place) for place, run in begun.items() if configuration in (None, run.configuration)]
    for folder in ended(asked, voice):
        run = begun[folder.folder]
        runs.setdefault(run.configuration, {}).setdefault(str(run.fold), folder)
    if not runs:
        wanted = configuration or next(iter(plan.configurations))
        others = dict.fromkeys(run.configuration for place, run in begun.items() if complete(RunFolder(place)))
        raise BadUsage(
            f"no run of {configuration or 'any configuration'} is finished",
            where=f"{plan.task}, plan {plan.name}",
            expected=f"one of {', '.join(others)}" if others else "",
            remedy=f"train one: autoseg train {wanted} 0",
        )
    dice = {title: _mean_dice(found) for title, found in runs.items()}
    title = configuration or max(runs, key=lambda name: -1.0 if (known := dice[name]) is None else known)
    if folds and (missing := [fold for fold in folds if fold not in runs[title]]):
        there = ", ".join(runs[title])
        raise BadUsage(f"fold {missing[0]} of {title} is not finished", where="--folds", expected=f"of {there}")
    chosen = {fold: runs[title][fold] for fold in folds} if folds else runs[title]
    best = "" if configuration or len(runs) == 1 else ", the best by validation Dice"
    known = "not scored" if dice[title] is None else f"validation Dice {dice[title]:.4f}"
    voice.say(f"predicting with {title}{best} ({known}), folds {listed(chosen.values())}")
    return list(chosen.values())


def standing(home: Home, plan: Plan, voice: Voice) -> Choice | None:
    """The model that was chosen for the plan; None where none was, or where runs have changed since, which is said."""
    choice = home.choice(plan.task, plan.name)
    if choice is None:
        return None
    again = f"autoseg choose -t {plan.task} -p {plan.name} chooses again"
    for title, known in choice.runs.items():
        for fold, content in known.items():
            if content_of(home.run_folder(plan.task, plan.name, title, fold, choice.seed)) != content:
                voice.say(f"fold {fold} of {title} has changed since a model was chosen, which is not used: {again}")
                return None
    steps = ", ".join(choice.cleaning.taken.texts)
    cleaned = f", then {steps}" if steps else ""
    voice.say(f"the model that was chosen: {' + '.join(choice.configurations)}{cleaned}")
    return choice


def runs_of(home: Home, choice: Choice) -> list[list[RunFolder]]:
    """The runs of each configuration of the model that was chosen: those that it was chosen by."""
    return [
        [home.run_folder(choice.task, choice.plan, title, int(fold), choice.seed) for fold in choice.runs[title]]
        for title in choice.configurations
    ]


def listed(folders: Iterable[RunFolder]) -> str:
    """The folds of runs, with the seeds that are not 0."""
    runs = (run for folder in folders if (run := folder.run()) is not None)
    return ", ".join(f"{run.fold} (seed {run.seed})" if run.seed else str(run.fold) for run in runs)


def _mean_dice(runs: Mapping[str, RunFolder]) -> float | None:
    found = [s.dice for folder in runs.values() if (s := folder.scores()) is not None and s.dice is not None]
    return sum(found) / len(found) if found else None


def ended(folders: Iterable[RunFolder], voice: Voice) -> list[RunFolder]:
    """Those that have reached their last step; one whose checkpoint cannot be read is left out, which is said.

    Raises: BadFile where no other one is there.
    """
    found, damaged = [], []
    for folder in folders:
        try:
            if folder.ended():
                found.append(folder)
        except BadFile as problem:
            damaged.append(with_remedy(problem, folder))
    if damaged and not found:
        raise damaged[0]
    for fault in damaged:
        voice.say(f"left out: {fault}")
    return found


def complete(folder: RunFolder) -> bool:
    """Whether the last step is reached, and the checkpoint can be read."""
    try:
        return folder.ended()
    except BadFile:
        return False


def with_remedy(problem: BadFile, folder: RunFolder) -> BadFile:
    """What is wrong with a checkpoint, and the command that mends it."""
    if (run := folder.run()) is None:
        return problem
    again = command(run.task, run.plan, run.configuration, run.fold, run.seed)
    there = folder.checkpoint_before.exists()
    remedy = f"{again} goes on from the one before it" if there else f"train it again: {again} --fresh"
    return BadFile(problem.what, where=problem.where, expected=problem.expected, remedy=remedy)


def command(task: str, plan: str, title: str, fold: int | str, seed: int) -> str:
    """How such a run is trained."""
    seeded = f" --seed {seed}" if seed else ""
    return f"autoseg train {title} {fold}{seeded} -t {task} -p {plan}"
