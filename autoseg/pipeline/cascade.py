"""The earlier stage of a cascade: its runs, and its predictions of cases that they had not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg import engine
from autoseg.errors import BadData, BadPlan, BadUsage
from autoseg.pipeline import prediction, tasks
from autoseg.pipeline.prediction import Model
from autoseg.pipeline.voice import Voice
from autoseg.readers import ending_of
from autoseg.records import CaseFiles, Configuration, Fingerprint, Folds, Plan, Question, Run, digest
from autoseg.steps import cases as casework
from autoseg.steps import plan as planning
from autoseg.steps import preprocess
from autoseg.store import Home, Preprocessed, RunFolder, StoredLabels, lock

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
    """The runs of the earlier stage that have still to be trained, told in one line; none for what is no cascade.

    One that was begun keeps the steps that it was begun with. Raises: BadUsage for finished ones that do not fit.
    """
    before = earlier_of(plan, wish.configuration)
    if before is None:
        return []
    if len(folds.folds) < 2:
        what = f"{wish.configuration} needs what {before} predicts of cases that it has not seen; there is one fold"
        raise BadUsage(what, where=plan.task, remedy=f"plan with more folds, or train {before}")
    asked = replace(wish, configuration=before, fresh=False, pretrained=None, freeze=None, freeze_steps=0)
    wishes, seconds = [], 0.0
    for number in range(len(folds.folds)):
        folder = home.run_folder(plan.task, plan.name, before, number, wish.seed)
        run, point = folder.run(), folder.checkpoint()
        if run is not None:
            _require_fitting(run, folder, plan, folds, number)
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


def _finished(folder: RunFolder, folds: Folds, number: int) -> bool:
    """Whether the run has reached its last step, and its validation cases, if it has any, are predicted."""
    run, point = folder.run(), folder.checkpoint()
    if run is None or point is None or point.step < run.settings.train.steps:
        return False
    return folder.scores() is not None or set(folds.folds[number]) <= set(run.skipped)


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


def _command(plan: Plan, title: str, fold: int | str, seed: int) -> str:
    """How such a run is trained."""
    seeded = f" --seed {seed}" if seed else ""
    return f"autoseg train {title} {fold}{seeded} -t {plan.task} -p {plan.name}"


def _again(plan: Plan, run: Run, number: int) -> str:
    return f"train it again: {_command(plan, run.configuration, number, run.seed)} --fresh"


# -- its predictions -----------------------------------------------------------------------------------


def predicted(
    home: Home, plan: Plan, wish: Wish, folds: Folds, ids: Iterable[str], arrays: Preprocessed,
    measured: Fingerprint, voice: Voice,
) -> Earlier | None:  # fmt: skip
    """The earlier stage's predictions of these cases, brought to the grid of `arrays`; None for what is no cascade.

    Its runs are those that `require_finished` has looked at. Raises: BadUsage where one has not predicted a case.
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
            run = folder.run()
            assert run is not None
            found |= {one.id: _prediction(run, folder, plan, one, number) for one in wanted}
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
            raise BadUsage(
                f"{wish.configuration} needs the predictions of {before}, of which fold {number} is not finished",
                where=str(folder.folder),
                remedy=f"{_command(plan, wish.configuration, wish.fold, wish.seed)} trains what is missing first",
            )
        _require_fitting(run, folder, plan, folds, number)


def _prediction(run: Run, folder: RunFolder, plan: Plan, files: CaseFiles, number: int) -> Path:
    """The file of a case that the run predicted. Raises: BadUsage where there is none."""
    ending = casework.reader_of(run.question).label_ending(ending_of(files.images[0]))
    file = folder.predictions / (files.id + ending)
    if not file.exists():
        raise BadUsage(
            f"fold {number} of {run.configuration} has no prediction of {files.id}", where=str(folder.predictions),
            remedy=_again(plan, run, number),
        )  # fmt: skip
    return file


def content_of(folder: RunFolder) -> str:
    """A hash of all that a run predicted of its validation cases."""
    total = hashlib.sha256()
    for file in sorted(folder.predictions.glob("*")):
        total.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


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

    Raises: BadUsage where no run of the earlier stage is there.
    """
    run, before = model.run, model.run.settings.previous
    if before is None:
        return model
    runs: dict[str, Any] = {fold: home.run_folder(run.task, run.plan, before, fold, run.seed) for fold in run.earlier}
    there = {
        fold: folder
        for fold, folder in runs.items()
        if (point := folder.checkpoint()) and point.step >= point.run.settings.train.steps
    }
    if not there:
        raise BadUsage(
            f"{run.configuration} needs the label of {before} first, of which no run is finished",
            where=f"{run.task}, plan {run.plan}", remedy=f"train it: autoseg train {before} 0",
        )  # fmt: skip
    changed = [fold for fold, folder in there.items() if content_of(folder) != run.earlier[fold]]
    if changed:
        what = f"{before} was trained again since (folds {', '.join(changed)})"
        voice.say(f"{what}: {run.configuration} was not trained with what it predicts now")
    voice.say(f"{run.configuration} is given the label of {before}, folds {', '.join(there)}, which is predicted first")
    first = prediction.load_model(list(there.values()), str(model.device), plugins, model.step, model.mirror)
    return replace(model, earlier=first)
