"""The earlier stage of a cascade: its runs, and its predictions of cases that they had not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg import engine
from autoseg.errors import BadData, BadFile, BadPlan, BadUsage
from autoseg.pipeline import choosing, prediction, tasks
from autoseg.pipeline.choosing import command
from autoseg.pipeline.predicted import content_of, label_file, lacking
from autoseg.pipeline.prediction import Model
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseFiles, Checkpoint, Configuration, Fingerprint, Folds, Plan, Question, Run, digest
from autoseg.steps import cases as casework
from autoseg.steps import plan as planning
from autoseg.steps import preprocess
from autoseg.store import Home, Preprocessed, RunFolder, StoredLabels, load_header, lock

if TYPE_CHECKING:
    from autoseg.pipeline.fold_cases import Wish


@dataclass(frozen=True)
class Earlier:
    """What an earlier stage predicted of cases that it had not seen.

    Attributes:
        contents: a hash of the predictions of every fold.
        files: each case's prediction, on the image's own grid, in the task's values.
        stored: the same as class indices on the preprocessed grid of the later stage.
    """

    contents: Mapping[str, str]
    files: Mapping[str, Path]
    stored: Mapping[str, Path]


def earlier_of(plan: Plan, title: str) -> str | None:
    """The configuration that one goes on from. Raises: BadPlan where that one goes on from another itself."""
    before = planning.configuration_of(plan, title).previous
    if before is not None and plan.configurations[before].previous is not None:
        raise BadPlan(
            f"{title} goes on from {before}, which goes on from {plan.configurations[before].previous}",
            where=f"configurations.{title}.previous", expected="a configuration that goes on from none",
        )  # fmt: skip
    return before


# -- training the earlier stage ------------------------------------------------------------------------


def missing(home: Home, plan: Plan, wish: Wish, folds: Folds, voice: Voice) -> list[Wish]:
    """The runs of the earlier stage that have still to be trained, told in one line.

    None for what is no cascade, or a finished one, which needs them no more.
    One that was begun keeps the steps that it was begun with. Raises: BadUsage for finished ones that do not fit.
    """
    before = earlier_of(plan, wish.configuration)
    if before is None or done(home, plan, wish, folds):
        return []
    if len(folds.folds) < 2:
        what = f"{wish.configuration} needs what {before} predicts of cases that it has not seen; there is one fold"
        raise BadUsage(what, where=plan.task, remedy=f"plan with more folds, or train {before}")
    asked = replace(wish, configuration=before, fresh=False, pretrained=None, freeze=None, freeze_steps=0)
    wishes, seconds = [], 0.0
    for number in range(len(folds.folds)):
        folder = home.run_folder(plan.task, plan.name, before, number, wish.seed)
        run, point = folder.run(), None
        if run is not None:
            _require_fitting(run, folder, plan, folds, number)
            point = _point(run, folder, plan, number)
        if _finished(folder, folds, number):
            continue
        one = replace(asked, fold=number) if run is None else replace(asked, fold=number, steps=None, budget=None)
        wishes.append(one)
        steps = run.settings.train.steps if run else wish.steps or plan.configurations[before].train.steps
        left = steps - (point.step if point else 0)
        known = plan.seconds_per_step.get(before, float("nan"))
        seconds += wish.budget if run is None and wish.budget is not None else left * known
    if wishes:
        listed = ", ".join(str(one.fold) for one in wishes)
        held = _held(wish)
        voice.say(
            f"{wish.configuration} needs what {before} predicts of cases that it has not seen: {len(wishes)} of "
            f"{len(folds.folds)} folds ({listed}) are trained first{held}, which takes {_lasting(seconds)}"
        )
    return wishes


def _held(wish: Wish) -> str:
    """What the command says of the runs."""
    if wish.budget is not None:
        return f", with a budget of {wish.budget / 60:.4g} minutes each"
    return "" if wish.steps is None else f", for {wish.steps} steps each"


def _lasting(seconds: float) -> str:
    if seconds != seconds:
        return "a time that is not known here"
    return f"about {seconds / 3600:.1f} hours" if seconds >= 5400 else f"about {max(1, round(seconds / 60))} minutes"


def done(home: Home, plan: Plan, wish: Wish, folds: Folds) -> bool:
    """Whether the run that is wished for is trained and scored already: it needs nothing of an earlier stage."""
    folder = home.run_folder(plan.task, plan.name, wish.configuration, wish.fold, wish.seed)
    return not wish.fresh and _finished(folder, folds, wish.fold)


def _finished(folder: RunFolder, folds: Folds, number: int | str) -> bool:
    """Whether the run has reached its last step, and its validation cases, if it has any, are scored."""
    run = folder.run()
    if run is None or not choosing.complete(folder):  # what cannot be read is trained again from the one before it
        return False
    return folder.scores() is not None or set(folds.split(number)[1]) <= set(run.skipped)


def _point(run: Run, folder: RunFolder, plan: Plan, number: int) -> Checkpoint | None:
    """The last checkpoint that can be read; None before there is one. Raises: BadUsage where none of several can."""
    there = [file for file in (folder.checkpoint_file, folder.checkpoint_before) if file.exists()]
    for file in there:
        with suppress(BadFile):
            return load_header(Checkpoint, file)
    if there:
        what = f"no checkpoint of fold {number} of {run.configuration} can be read"
        raise BadUsage(what, where=str(folder.folder), remedy=_again(plan, run, number))
    return None


def _require_fitting(run: Run, folder: RunFolder, plan: Plan, folds: Folds, number: int) -> None:
    """Raises: BadUsage where the run is another fold's, or was trained with other folds, settings or classes."""
    _require_held_out(run, folder, plan, folds, number)
    wanted, had = (
        one.model_copy(update={"train": one.train.model_copy(update={"seed": 0, "steps": 1})})
        for one in (plan.configurations[run.configuration], run.settings)
    )
    if wanted != had or run.question != plan.question:
        raise BadUsage(
            f"fold {number} of {run.configuration} was trained with another plan", where=str(folder.folder),
            remedy=_again(plan, run, number),
        )  # fmt: skip


def _require_held_out(run: Run, folder: RunFolder, plan: Plan, folds: Folds, number: int) -> None:
    """Raises: BadUsage unless the run held out the cases of that fold, as the folds are now."""
    what = ""
    if run.fold != number:
        what = f"the run of fold {run.fold} has trained on the cases of fold {number}: it cannot predict them unseen"
    elif run.folds != digest(folds):
        what = f"fold {number} of {run.configuration} was trained with other folds than there are now"
    if what:
        raise BadUsage(what, where=str(folder.folder), remedy=_again(plan, run, number))


def _again(plan: Plan, run: Run, number: int) -> str:
    return f"train it again: {command(plan.task, plan.name, run.configuration, number, run.seed)} --fresh"


# -- its predictions -----------------------------------------------------------------------------------


def predicted(
    home: Home, plan: Plan, wish: Wish, folds: Folds, ids: Iterable[str], arrays: Preprocessed,
    measured: Fingerprint, voice: Voice,
) -> Earlier | None:  # fmt: skip
    """The earlier stage's predictions of these cases, brought to the grid of `arrays`; None for what is no cascade.

    Its runs are those that `require_finished` has looked at. One whose predictions are not all there, or are of files
    that have changed since, predicts its validation cases again.
    """
    before = earlier_of(plan, wish.configuration)
    if before is None:
        return None
    dataset, _ = tasks.dataset_of(home, plan.task)
    files = {id: dataset.case(id) for id in ids}
    found: dict[str, Path] = {}
    contents: dict[str, str] = {}
    for number, held_out in enumerate(folds.folds):
        wanted = [files[id] for id in held_out if id in files]
        if wanted:
            folder = home.run_folder(plan.task, plan.name, before, number, wish.seed)
            usable = [dataset.case(id) for id in held_out if id in measured.usable]
            if lacking(folder, ((one, measured.usable[one.id].sha256) for one in usable), plan.question):
                with lock(folder.folder.parent / f".{folder.folder.name}"):
                    prediction.validate(home, folder, [one.id for one in usable], wish.device, wish.plugins, voice)
            found |= {one.id: label_file(folder, one, plan.question) for one in wanted}
            contents[str(number)] = content_of(folder)
    stored = arrays.earlier(hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:12])
    contained = {id: measured.usable[id].sha256 for id in files}
    job = partial(
        _bring, folder=home.task_folder(plan.task), configuration=plan.configurations[wish.configuration],
        question=plan.question, arrays=arrays, into=stored,
    )  # fmt: skip
    with lock(stored.folder, patience=tasks.PATIENCE):  # another fold may be at it
        jobs = [(one, found[id], contained[id]) for id, one in files.items() if not stored.holds(id, contained[id])]
        results = engine.local(wish.workers, len(jobs) // 4).run(job, jobs)
        for _ in voice.track(results, len(files), f"bringing in {before}", len(files) - len(jobs)):
            pass
    return Earlier(contents, found, {id: stored.file(id, contained[id]) for id in files})


def require_finished(home: Home, plan: Plan, wish: Wish, folds: Folds) -> None:
    """Raises: BadUsage where a run of the earlier stage has still to be trained, or does not fit."""
    before = earlier_of(plan, wish.configuration)
    for number in range(len(folds.folds)) if before is not None else ():
        folder = home.run_folder(plan.task, plan.name, str(before), number, wish.seed)
        run = folder.run()
        if run is None or not _finished(folder, folds, number):
            start = command(plan.task, plan.name, wish.configuration, wish.fold, wish.seed)
            raise BadUsage(
                f"{wish.configuration} needs the predictions of {before}, of which fold {number} is not finished",
                where=str(folder.folder),
                remedy=f"{start} trains what is missing first",
            )
        _require_fitting(run, folder, plan, folds, number)


def remembered(home: Home, plan: Plan, wish: Wish, voice: Voice) -> Earlier | None:
    """Of a finished cascade: what it was trained with, without the files; says where they are others now."""
    run = home.run_folder(plan.task, plan.name, wish.configuration, wish.fold, wish.seed).run()
    if run is None or run.settings.previous is None:
        return None
    _tell_changed(home, [run], voice)
    return Earlier(run.earlier, {}, {})


def _tell_changed(home: Home, runs: Iterable[Run], voice: Voice) -> None:
    """Says which runs were trained with other predictions of the earlier stage than are there now."""
    told: dict[str, list[str]] = {}
    for run in runs:
        before, seeded = str(run.settings.previous), f", seed {run.seed}" if run.seed else ""
        folders = {fold: home.run_folder(run.task, run.plan, before, fold, run.seed) for fold in run.earlier}
        now = {fold: content_of(folder) for fold, folder in folders.items()}
        if changed := [fold for fold, known in run.earlier.items() if now[fold] not in ("", known)]:
            what = f"{before} was trained again since (folds {', '.join(changed)}{seeded}), or its images have changed"
            told.setdefault(f"{what}: {run.configuration}", []).append(str(run.fold))
    for what, folds in told.items():
        voice.say(f"{what} (folds {', '.join(folds)}) was not trained with what it predicts now")


def _bring(
    job: tuple[CaseFiles, Path, str],
    folder: Path,
    configuration: Configuration,
    question: Question,
    arrays: Preprocessed,
    into: StoredLabels,
) -> None:
    """Stores a case's prediction as class indices on the grid of its preprocessed image."""
    files, file, content = job
    image = casework.read_image([folder / name for name in files.images], question)
    label = casework.reader_of(question).read_label(file).array[0]
    if label.shape != image.shape:
        raise BadData(f"has shape {label.shape}", where=str(file), expected=f"that of its image, {image.shape}")
    geometry = preprocess.geometry_of(image, configuration, question)
    made = preprocess.prepare_label(label, image, geometry, arrays.shape(files.id), question)
    into.save(files.id, content, made)


# -- predicting files ----------------------------------------------------------------------------------


def completed(home: Home, model: Model, plugins: Mapping[str, str], voice: Voice) -> Model:
    """The model with that of its earlier stage, all finished folds averaged; as it is where it goes on from none.

    Where its folds were trained with different seeds, the earlier runs of each are taken.
    Raises: BadUsage where no run of the earlier stage is there, BadFile where the only ones cannot be read.
    """
    run, before = model.run, model.run.settings.previous
    if before is None:
        return model
    wanted = {
        (fold, one.seed): home.run_folder(one.task, one.plan, before, fold, one.seed)
        for one in model.runs
        for fold in one.earlier
    }
    there = choosing.ended(wanted.values(), voice)
    if not there:
        raise BadUsage(
            f"{run.configuration} needs the label of {before} first, of which no run is finished",
            where=f"{run.task}, plan {run.plan}", remedy=f"train it: autoseg train {before} 0",
        )  # fmt: skip
    _tell_changed(home, model.runs, voice)
    folds = choosing.listed(there)
    voice.say(f"{run.configuration} is given the label of {before}, folds {folds}, which is predicted first")
    first = prediction.load_model(there, str(model.device), plugins, model.step, model.mirror)
    return replace(model, earlier=first, digest=f"{model.digest} {first.digest}")
