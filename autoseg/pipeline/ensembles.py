"""What every model of a plan says of cases that none of its networks had seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.errors import BadUsage
from autoseg.pipeline import tasks
from autoseg.pipeline.choosing import command, complete
from autoseg.pipeline.ledger import Ledger, content_of
from autoseg.pipeline.levels import Levels, certainty_beside, levels_beside
from autoseg.pipeline.predicted import content_of as said_by
from autoseg.pipeline.predicted import label_file, lacking
from autoseg.pipeline.prediction import Model, load_model
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseFiles, Dataset, Folds, Made, Plan, alike, digest
from autoseg.steps import cases as casework
from autoseg.store import Home, RunFolder, lock, save_record, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoseg.image import Array, Image
    from autoseg.steps.views import How, View

HELD = 2 << 30  # bytes of what is found out about ensembles while a case is swept
BYTES = 5  # of it, per voxel and ensemble
LARGEST = 3  # configurations that are averaged, at most
Titles = tuple[str, ...]
Content = Callable[[CaseFiles], str]


@dataclass(frozen=True)
class Held:
    """A case as it was held out: in which fold, and the label of it by each model, which is named by configurations."""

    files: CaseFiles
    fold: int
    labels: Mapping[Titles, Path]


@dataclass(frozen=True)
class Finished:
    """The runs of all folds of several configurations, and their cases.

    Attributes:
        runs: by configuration and fold.
        cases: that were held out, with their fold, in the order of the folds.
        content: the hash of a case's files.
    """

    plan: Plan
    dataset: Dataset
    runs: Mapping[str, Sequence[RunFolder]]
    cases: tuple[tuple[CaseFiles, int], ...]
    content: Content

    @property
    def contents(self) -> dict[str, dict[str, str]]:
        """A hash of what each run said of its cases."""
        return {title: {str(n): said_by(run) for n, run in enumerate(runs)} for title, runs in self.runs.items()}


def finished(
    home: Home, plan: Plan, titles: Sequence[str], seed: int, content: Content | None = None
) -> Finished:  # fmt: skip
    """The runs of all folds. Raises: BadUsage that names what has to be trained, or was with other folds or settings.

    Args:
        content: the hash of a case's files; None reads them all.
    """
    content = _once(content or partial(casework.content_hash, home.task_folder(plan.task)))
    folds, dataset = _folds(home, plan), tasks.dataset_of(home, plan.task)[0]
    runs = {
        title: [home.run_folder(plan.task, plan.name, title, fold, seed) for fold in range(len(folds.folds))]
        for title in titles
    }
    known = {case.id: case for case in dataset.cases}
    faults, skipped = [], set[str]()
    for title, there in runs.items():
        for fold, folder in enumerate(there):
            run = folder.run()
            skipped |= set(run.skipped) if run is not None else set()
            if why := state_of(plan, folds, known, folder, title, fold, content)[0]:
                faults.append(f"{command(plan.task, plan.name, title, fold, seed)} ({why})")
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        what = f"{len(faults)} runs are not finished"
        remedy = f"autoseg crossval trains all of them, or: {', '.join(faults[:5])}{more}"
        raise BadUsage(what, where=f"{plan.task}, plan {plan.name}", remedy=remedy)
    cases = tuple(
        (known[id], fold) for fold, ids in enumerate(folds.folds) for id in ids if id in known and id not in skipped
    )  # fmt: skip
    return Finished(plan, dataset, runs, cases, content)


def _once(content: Content) -> Content:
    """Every case is read once."""
    known: dict[str, str] = {}

    def of(files: CaseFiles) -> str:
        if files.id not in known:
            known[files.id] = content(files)
        return known[files.id]

    return of


def _folds(home: Home, plan: Plan) -> Folds:
    folds = home.folds(plan.task)
    if folds is None:
        raise BadUsage("has no folds", where=plan.task, remedy=f"plan it: autoseg plan {plan.task}")
    return folds


def state_of(
    plan: Plan, folds: Folds, cases: Mapping[str, CaseFiles], folder: RunFolder, title: str, fold: int, content: Content
) -> tuple[str, bool]:  # fmt: skip
    """Why the run of a fold does not count, '' where it does; and whether training it, as it is, mends that.

    Args:
        cases: of the task as it is now, by name.
    """
    run = folder.run()
    if run is None:
        return "not trained", True
    if title not in plan.configurations:
        return "not in the plan any more", False
    if run.folds != digest(folds):
        return "trained with other folds than there are now: --fresh trains it again", False
    if run.question != plan.question or alike(run.settings) != alike(plan.configurations[title]):
        return "trained with another plan: --fresh trains it again", False
    if not complete(folder):
        return "not at its last step", True
    held = [cases[id] for id in folds.folds[fold] if id in cases and id not in run.skipped]
    if held and not (folder.scores_file.exists() and folder.certainty_file.exists()):
        return "not scored", True
    return next(iter(lacking(folder, ((one, content(one)) for one in held), run.question)), ""), True


def trained(home: Home, plan: Plan, seed: int) -> Titles:
    """The configurations of which all folds are finished. Raises: BadUsage where there is none."""
    found, why = [], ""
    for title in plan.configurations:
        try:
            finished(home, plan, [title], seed, as_measured(home, plan))
            found.append(title)
        except BadUsage as problem:
            why = why or problem.remedy
    if not found:
        remedy = why or f"train: autoseg crossval -t {plan.task}"
        raise BadUsage(
            "no configuration has all its folds trained", where=f"{plan.task}, plan {plan.name}", remedy=remedy
        )
    return tuple(found)


def as_measured(home: Home, plan: Plan) -> Content | None:
    """The hashes of the cases' files when they were measured last, which costs no reading; None where they were not."""
    fingerprint = home.fingerprint(plan.task)
    if fingerprint is None:
        return None
    known = {id: facts.sha256 for id, facts in fingerprint.cases.items()}
    return lambda files: known.get(files.id, "")


def models_of(titles: Sequence[str]) -> list[Titles]:
    """What is compared: every configuration, and every two and three of them averaged."""
    return [way for count in range(1, LARGEST + 1) for way in combinations(titles, count)]


def held_out(
    home: Home, done: Finished, device: str, plugins: Mapping[str, str], voice: Voice
) -> list[Held]:  # fmt: skip
    """Every case with its label by every model; ensembles predict those that they have not yet predicted.

    Their labels lie in `work/TASK/ensembles/PLAN/`, one folder for each; what is there and has not changed stays.
    """
    ensembles = [way for way in models_of([*done.runs]) if len(way) > 1]
    if ensembles:
        out = home.ensembles(done.plan.task, done.plan.name)
        with lock(out / ".ensembles"):
            work = _Predicting(home, done, ensembles, out, device, plugins)
            for _ in voice.track(work.all(), len(done.cases), "predicting ensembles"):
                pass
    return placed(home, done)


def placed(home: Home, done: Finished) -> list[Held]:
    """Every case with the place of its label by every model, whether it lies there or not."""
    out, held = home.ensembles(done.plan.task, done.plan.name), []
    for files, fold in done.cases:
        labels: dict[Titles, Path] = {
            (title,): label_file(runs[fold], files, done.plan.question) for title, runs in done.runs.items()
        }
        name = next(iter(labels.values())).name
        labels |= {way: out / "+".join(way) / name for way in models_of([*done.runs]) if len(way) > 1}
        held.append(Held(files, fold, labels))
    return held


class _Predicting:
    """Ensembles fold by fold: each configuration looks at a case once, whatever number of ensembles it is in."""

    def __init__(
        self, home: Home, done: Finished, ensembles: Sequence[Titles], out: Path, device: str,
        plugins: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.home, self.done, self.ensembles, self.out = home, done, ensembles, out
        self.device, self.plugins = device, plugins
        self.titles = [*done.runs]
        self.ledger = Ledger(out)
        self.contents = done.contents

    def all(self) -> Iterator[str]:
        """Every case, when its labels are there."""
        models: dict[int, list[Model]] = {}
        for held in placed(self.home, self.done):
            files, fold = held.files, held.fold
            way, labels = self._way(fold), {one: held.labels[one] for one in self.ensembles}
            content = self.done.content(files)
            made = self.ledger.stands(files.id, content, way)
            names = [str(file.relative_to(self.out)) for label in labels.values() for file in self._files(label)]
            if made is None or sorted(made.outputs) != sorted(names):
                if fold not in models:
                    models = {fold: self._models(fold)}  # one fold's are held
                self._predict(models[fold], files, fold, labels)
                outputs = {name: content_of([self.out / name]) for name in names}
                self.ledger.add(Made(case=files.id, inputs=content, way=way, outputs=outputs))
            yield files.id

    def _files(self, label: Path) -> list[Path]:
        question = self.done.plan.question
        levels = [levels_beside(label)] if question.background and not question.regions else []
        return [label, certainty_beside(label), *levels]

    def _way(self, fold: int) -> str:
        """A hash of the runs of a fold."""
        said = [[title, self.contents[title][str(fold)]] for title in self.titles]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _models(self, fold: int) -> list[Model]:
        return [load_model([self.done.runs[title][fold]], self.device, self.plugins) for title in self.titles]

    def _predict(self, models: Sequence[Model], files: CaseFiles, fold: int, labels: Mapping[Titles, Path]) -> None:
        question = self.done.plan.question
        case = casework.load(self.home.task_folder(self.done.plan.task), files, question)
        assert case.label is not None
        image, reference = case.image, casework.to_indices(case.label, question, case.image.valid, files.id)
        how = models[0].how(views=len(models), probabilities=True)
        views = [one for model in models for one in model.views(image, how, self._before(model, files, fold))]
        each = max(1, HELD // (BYTES * prod(image.shape)))
        for first in range(0, len(labels), each):
            self._write(views, how, image, reference, dict([*labels.items()][first : first + each]))

    def _write(
        self, views: Sequence[View], how: How, image: Image, reference: NDArray[np.uint8], labels: Mapping[Titles, Path]
    ) -> None:  # fmt: skip
        """Labels, levels and certainty of some ensembles, which are in the memory until the case is swept."""
        from autoseg.steps import predict as step
        from autoseg.steps.certainty import Weighing

        question = self.done.plan.question
        among = [[self.titles.index(title) for title in way] for way in labels]
        levels = [Levels(image.shape, question) for _ in labels]
        sure = [Weighing(reference, question, image.spacing) for _ in labels]
        for parts in step.ways(views, question, how, among):
            for number, part in enumerate(parts):
                levels[number].take(part)
                sure[number].take(part)
        reader = casework.reader_of(question)
        for number, target in enumerate(labels.values()):
            target.parent.mkdir(parents=True, exist_ok=True)
            levels[number].save(target)
            save_record(certainty_beside(target), sure[number].close())
            with whole(target) as temporary:
                reader.write_label(temporary, casework.to_values(sure[number].said, question), image)

    def _before(self, model: Model, files: CaseFiles, fold: int) -> Array | None:
        """What a cascade's earlier stage said of the case when it was held out."""
        plan, before = self.done.plan, model.run.settings.previous
        if before is None:
            return None
        folder = self.home.run_folder(plan.task, plan.name, before, fold, model.run.seed)
        file = label_file(folder, files, plan.question)
        if not file.exists():
            remedy = command(plan.task, plan.name, before, fold, model.run.seed)
            raise BadUsage(f"there is no prediction of {files.id} by {before}", where=str(file), remedy=remedy)
        label: Array = casework.reader_of(plan.question).read_label(file).array[0]
        return label
