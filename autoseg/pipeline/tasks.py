"""Measuring, planning and preprocessing a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from autoseg import engine, layouts
from autoseg.errors import BadData, BadFile, BadTask
from autoseg.pipeline.voice import Voice
from autoseg.records import (
    CaseFacts,
    CaseFiles,
    Configuration,
    Dataset,
    Fault,
    Fingerprint,
    Plan,
    Question,
    digest,
)
from autoseg.steps import cases, fingerprint, likeness, preprocess
from autoseg.steps import plan as planning
from autoseg.store import Home, Preprocessed, lock, save_record

PATIENCE = 86_400.0  # seconds to wait for another process that preprocesses the same


def dataset_of(home: Home, task: str) -> tuple[Dataset, tuple[Fault, ...]]:
    """The task as its folder describes it, and what is wrong with the folder itself."""
    dataset, faults = layouts.read_task(home.task_folder(task))
    return dataset, faults


def measure(home: Home, task: str, voice: Voice, workers: int | None = None) -> tuple[Dataset, Fingerprint]:
    """The fingerprint of a task as it is now; cases whose files have not changed are not measured again."""
    dataset, orphans = dataset_of(home, task)
    folder, question = home.task_folder(task), dataset.question()
    known = _known(home, task, digest(question), voice)
    facts: dict[str, CaseFacts] = {}
    fresh = []
    for files in dataset.cases:
        old = known.get(files.id)
        if old and old.sha256 == cases.content_hash(folder, files):
            facts[files.id] = old
        else:
            fresh.append(files)
    job = partial(_examine, folder=folder, question=question)
    results = engine.local(workers, len(fresh) // 4).run(job, fresh)
    for index, found in voice.track(results, len(fresh), "measuring cases"):
        facts[fresh[index].id] = found
    ordered = {files.id: facts[files.id] for files in dataset.cases}
    spread = [f.shape[0] for f in ordered.values() if f.shape]
    flat = bool(spread) and max(spread) == 1
    loose = tuple(fault for fault in orphans if not fault.fatal)  # missing files are told by their cases
    made = Fingerprint(
        version=fingerprint.VERSION, question=digest(question), flat=flat, cases=ordered,
        groups=likeness.groups(dataset.cases), faults=(*loose, *likeness.compare(ordered, dataset.cases, question)),
    )  # fmt: skip
    save_record(home.fingerprint_file(task), made)
    return dataset, made


def _known(home: Home, task: str, question: str, voice: Voice) -> Mapping[str, CaseFacts]:
    try:
        old = home.fingerprint(task)
    except BadFile as problem:
        voice.say(f"{problem}; measuring all cases again")
        return {}
    same = old is not None and (old.version, old.question) == (fingerprint.VERSION, question)
    return old.cases if old is not None and same else {}


def _examine(files: CaseFiles, folder: Path, question: Question) -> CaseFacts:
    return fingerprint.examine(folder, files, question)


def prepare(
    home: Home, plan: Plan, titles: Iterable[str], voice: Voice, workers: int | None = None
) -> tuple[dict[str, Preprocessed], Fingerprint]:
    """Preprocesses what is not yet; answers where the configurations' arrays lie, and the task's fingerprint now."""
    configurations = {title: planning.configuration_of(plan, title) for title in titles}
    dataset, measured = measure(home, plan.task, voice, workers)
    if digest(measured) != plan.fingerprint:
        voice.say(f"the images have changed since plan {plan.name} was made; autoseg plan {plan.task} looks again")
    if digest(dataset.question()) != digest(plan.question):
        raise BadTask(
            "channels, labels or raters have changed since the plan was made",
            where=str(home.task_folder(plan.task)),
            remedy=f"plan again: autoseg plan {plan.task}",
        )
    folders: dict[str, Preprocessed] = {}
    for title, configuration in configurations.items():
        preprocess.require_sizes(title, configuration, measured.usable.values())
        folder = home.preprocessed(plan.task, preprocess.key(configuration, plan.question, measured.usable.values()))
        if folder not in folders.values():  # two configurations may share their arrays
            job = partial(
                _prepare, folder=home.task_folder(plan.task), configuration=configuration, question=plan.question,
                into=folder,
            )  # fmt: skip
            those = [(dataset.case(id), facts) for id, facts in measured.usable.items()]
            _fill(folder, job, those, title, voice, workers)
        folders[title] = folder
    return folders, measured


def _fill(
    folder: Preprocessed,
    job: Callable[[tuple[CaseFiles, str]], None],
    wanted: Sequence[tuple[CaseFiles, CaseFacts]],
    title: str,
    voice: Voice,
    workers: int | None,
) -> None:
    """Does the job for every case that does not lie in the folder as it is now."""
    key = folder.folder.name
    with lock(folder.folder.parent / f".{key}", patience=PATIENCE):  # another fold may be at it
        signed = [(files, f"{facts.sha256}:{key}") for files, facts in wanted]
        jobs = [(files, signature) for files, signature in signed if folder.signature(files.id) != signature]
        results = engine.local(workers, len(jobs) // 4).run(job, jobs)
        for _ in voice.track(results, len(wanted), f"preprocessing {title}", len(wanted) - len(jobs)):
            pass


def _prepare(
    job: tuple[CaseFiles, str],
    folder: Path,
    configuration: Configuration,
    question: Question,
    into: Preprocessed,
) -> None:
    files, signature = job
    try:
        case = cases.load(folder, files, question)
        into.save(files.id, signature, *preprocess.prepare(case, configuration, question))
    except BadData as problem:
        raise BadData(problem.what, where=problem.where or files.id, expected=problem.expected) from None
