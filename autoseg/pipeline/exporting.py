"""Making a model that leaves the machine of finished runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from autoseg import __version__
from autoseg.errors import BadFile, BadInput, BadUsage
from autoseg.pipeline import choosing, tasks
from autoseg.pipeline.models import NO_PLUGINS, network_of
from autoseg.pipeline.voice import Voice
from autoseg.plugins import require
from autoseg.records import (
    NOTHING,
    Checkpoint,
    Choice,
    Configuration,
    Means,
    Measures,
    Member,
    PackedModel,
    Question,
    Run,
    Seen,
    alike,
    digest,
)  # fmt: skip
from autoseg.steps import evaluate
from autoseg.steps.card import card
from autoseg.steps.unlike import seen_of
from autoseg.store import Home, RunFolder, load_header, load_tensors
from autoseg.store.archive import open_packed, staged, weights_in, write_record, write_weights


def export(
    home: Home, runs: Sequence[RunFolder], target: Path, voice: Voice, plugins: Mapping[str, str] = NO_PLUGINS,
    choice: Choice | None = None,
) -> PackedModel:  # fmt: skip
    """Writes finished runs, of one or several configurations, as a model: one file if `target` ends in .autoseg.

    Where they are of a choice, its postprocessing and what it scored on cases held out come with them.
    Those of the earlier stage of a cascade come with them. The model is opened once before it takes its place.
    Raises: BadUsage for runs that are not finished or do not go together, or a target that is no model; BadFile.
    """
    chosen = [(folder, _finished(folder)) for folder in runs]
    if not chosen:
        raise BadUsage("no run is given", where=str(target), remedy="train one first")
    first = chosen[0][1].run
    titles = tuple(dict.fromkeys(point.run.configuration for _, point in chosen))
    known = {folder.folder for folder, _ in chosen}
    earlier = [folder for folder in _earlier(home, [point.run for _, point in chosen], voice) if folder not in known]
    chosen += [(folder, _finished(folder)) for folder in map(RunFolder, dict.fromkeys(earlier))]
    _require_one_question(chosen)
    plan = home.plan(first.task, first.plan)
    with staged(target) as folder:
        members = [_packed(folder, number, one, point) for number, (one, point) in enumerate(chosen)]
        made = PackedModel(
            version=__version__, created=datetime.now(timezone.utc).date().isoformat(), task=first.task,
            plan=first.plan, decisions=digest(plan), measured=plan.fingerprint, question=_nameless(first.question),
            configurations=titles, members=tuple(members), validation=_validation(home, chosen, choice, voice),
            seen=_seen(home, first, plan.fingerprint, voice), cleaning=choice.cleaning.taken if choice else NOTHING,
        )  # fmt: skip
        write_record(folder, made, card(made))
        packed, found = open_packed(folder)
        for member in found.members:
            require(member.plugins, plugins)
            network_of(member.settings, found.question, weights_in(packed, member), member.weights)
    voice.say(f"{len(members)} networks of {', '.join(titles)} in {target}")
    return made


def _finished(folder: RunFolder) -> Checkpoint:
    """The last checkpoint. Raises: BadUsage where the run has not reached its last step."""
    if not folder.ended():
        raise BadUsage("this run is not finished", where=str(folder.folder), remedy="train it to its end first")
    return load_header(Checkpoint, folder.checkpoint_file)


def _earlier(home: Home, runs: Iterable[Run], voice: Voice) -> list[Path]:
    """The folders of the runs that cascades among these go on from. Raises: BadUsage where one has none."""
    found: list[Path] = []
    for run in runs:
        before = run.settings.previous
        if before is None:
            continue
        wanted = [home.run_folder(run.task, run.plan, before, fold, run.seed) for fold in run.earlier]
        there = choosing.ended(wanted, voice)
        if not there:
            raise BadUsage(
                f"{run.configuration} needs the label of {before} first, of which no run is finished",
                where=f"{run.task}, plan {run.plan}", remedy=f"train it: autoseg train {before} 0",
            )  # fmt: skip
        found += [folder.folder for folder in there]
    return found


def _require_one_question(chosen: Sequence[tuple[RunFolder, Checkpoint]]) -> None:
    """Raises: BadUsage for runs of several tasks, or that were trained with other plans than their like."""
    first, settings = chosen[0][1].run, dict[str, Configuration]()
    for folder, point in chosen:
        run, what = point.run, ""
        if (run.task, run.question) != (first.task, first.question):
            what = f"was trained for other channels or classes than fold {first.fold} of {first.configuration}"
        elif settings.setdefault(run.configuration, alike(run.settings)) != alike(run.settings):
            what = f"was trained with another plan than the other folds of {run.configuration}"
        if what:
            remedy = "choose with --folds, or train one of them again with --fresh"
            raise BadUsage(what, where=str(folder.folder), remedy=remedy)


def _nameless(question: Question) -> Question:
    """The question without the names of people who drew labels."""
    return question.model_copy(update={"raters": tuple(f"rater {n}" for n, _ in enumerate(question.raters, 1))})


def _packed(folder: Path, number: int, run_folder: RunFolder, point: Checkpoint) -> Member:
    """Writes the weights that a run predicts with; nothing else of its checkpoint is read."""
    from autoseg.steps.weights import weights_of

    def wanted(name: str) -> bool:
        return name.startswith(("network.", "average."))

    _, tensors = load_tensors(Checkpoint, run_folder.checkpoint_file, wanted=wanted)
    run, name = point.run, f"weights_{number:03d}.safetensors"
    size, content = write_weights(folder, name, weights_of(tensors))
    return Member(
        configuration=run.configuration, fold=run.fold, seed=run.seed, settings=run.settings, steps=point.step,
        precision=run.precision, weights=name, size=size, sha256=content, plugins=run.plugins,
    )  # fmt: skip


def _validation(
    home: Home, chosen: Sequence[tuple[RunFolder, Checkpoint]], choice: Choice | None, voice: Voice
) -> dict[str, dict[str, Means]]:
    """The means over all held-out cases of the runs' folds, per configuration and class, and of the model that was
    chosen; nothing of the cases."""
    cases, units = dict[str, dict[str, dict[str, Measures]]](), dict[str, str]()
    for folder, point in chosen:
        try:
            scores = folder.scores()
        except BadFile as problem:
            voice.say(f"without the scores of fold {point.run.fold}: {problem}")
            continue
        if scores is not None and scores.cases:
            cases.setdefault(point.run.configuration, {}).update(scores.cases)
            units[point.run.configuration] = scores.unit
    run, groups = chosen[0][1].run, _groups(home, chosen[0][1].run.task)
    means = {
        title: evaluate.summarise(found, run.question, units[title], groups=groups).mean
        for title, found in cases.items()
    }
    scores = home.choice_scores(choice.task, choice.plan) if choice else None
    if choice is not None and scores is not None:
        cleaned = ", postprocessed" if choice.cleaning.taken.texts else ""
        means[" + ".join(choice.configurations) + cleaned] = scores.mean
    return means


def _groups(home: Home, task: str) -> dict[str, str]:
    """The group of every case that has one, as far as the task is still there."""
    try:
        dataset, _ = tasks.dataset_of(home, task)
    except BadInput:
        return {}
    return {case.id: case.group for case in dataset.cases if case.group is not None}


def _seen(home: Home, run: Run, measured: str, voice: Voice) -> Seen | None:
    """What the training images were like, as far as that was measured."""
    try:
        fingerprint = home.fingerprint(run.task)
    except BadFile as problem:
        voice.say(f"{problem}; the model will not know what its training images were like")
        return None
    if fingerprint is None:
        voice.say("the model will not know what its training images were like: they have not been measured here")
        return None
    if digest(fingerprint) != measured:
        voice.say("the images have changed since the plan was made; the model tells of them as they are now")
    return seen_of(fingerprint, run.question)
