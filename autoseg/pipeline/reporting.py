"""A task's report: one HTML file, of what lies in its folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from autoseg.arrays.metrics import mean_of
from autoseg.errors import BadData, BadFile, BadInput, BadPlan, BadUsage
from autoseg.image import IGNORE, Image
from autoseg.parts import READERS
from autoseg.pipeline import out_of_fold, tasks
from autoseg.pipeline.choosing import standing
from autoseg.pipeline.ensembles import Held, as_measured, finished, placed
from autoseg.pipeline.inputs import Jobs, inputs
from autoseg.pipeline.levels import certainty_beside
from autoseg.pipeline.scoring import Evaluated, aligned
from autoseg.pipeline.sites import SiteRow, compared
from autoseg.pipeline.voice import Voice
from autoseg.readers import Reader, same_place
from autoseg.records import CaseCertainty, Choice, Configuration, Plan, Question, Scores
from autoseg.steps import cases as casework
from autoseg.steps import chapters, findings, frames
from autoseg.steps.report import Block, Case, Layers, Section, page
from autoseg.store import Home, load_record, save_text

T = TypeVar("T")
SHOWN = 5  # of the worst and of the middling cases
MOST = 300_000_000  # values of an image that is read for its picture


def report(home: Home, plan: Plan, voice: Voice) -> Path:
    """Writes the report of the model that was chosen. Raises: BadUsage where none was."""
    choice, scores = home.choice(plan.task, plan.name), home.choice_scores(plan.task, plan.name)
    if choice is None or scores is None:
        remedy = f"choose one: autoseg crossval -t {plan.task}, or autoseg choose where all folds are trained"
        raise BadUsage("no model was chosen", where=f"{plan.task}, plan {plan.name}", remedy=remedy)
    dataset, _ = tasks.dataset_of(home, plan.task)
    fingerprint, folds = home.fingerprint(plan.task), home.folds(plan.task)
    runs = {
        f"{title}, fold {fold}": home.run_folder(plan.task, plan.name, title, int(fold), choice.seed)
        for title, of in choice.runs.items() for fold in of
    }  # fmt: skip
    records = {name: run for name, folder in runs.items() if (run := _readable(folder.run, None, voice)) is not None}
    trained = {run.configuration: run.settings for run in records.values()}
    sites = {case.id: case.site for case in dataset.cases if case.site is not None}
    left_out = _readable(lambda: compared(home, plan, choice.seed), list[SiteRow](), voice)
    changed = standing(home, plan, voice) is None
    sections = [
        chapters.asked(plan, dataset, folds.rule if folds else ""),
        *([chapters.data(fingerprint, plan)] if fingerprint and fingerprint.usable else []),
        chapters.planned(plan, trained, _drawings(plan, trained, voice)),
        chapters.training({name: runs[name].logged() for name in records}, records),
        findings.compared(choice),
        findings.depths(choice),
        findings.results(scores, plan.question, sites),
        findings.sites([astuple(row) for row in left_out]),
        *([] if changed else [findings.calibration(_certain(home, plan, choice, voice))]),
        findings.cleaning(choice),
        *([] if changed else [_cases(home, plan, choice, scores, voice)]),
        chapters.citing(),
    ]
    file = home.report_file(plan.task, plan.name)
    title, dice = f"{plan.task}, plan {plan.name}", "–" if scores.dice is None else f"{scores.dice:.4f}"
    said = f"{' + '.join(choice.configurations)}: mean Dice {dice} over {len(scores.cases)} cases that were held out. "
    stale = " A run has changed since the model was chosen: its figures are of before." if changed else ""
    save_text(file, page(title, said + chapters.MEANING + stale, sections))
    return file


def report_of_scores(found: Evaluated, title: str, file: Path, images: Path | None, voice: Voice) -> None:
    """Writes the report of a folder of predictions: its results, and cases to look at.

    Args:
        images: a folder of their images; None takes those of the task's own cases, and no image elsewhere.
    """
    scores, question = found.scores, found.question
    dice = "–" if scores.dice is None else f"{scores.dice:.4f}"
    said = f"Mean Dice {dice} over {len(scores.cases)} cases."
    image_of = _Images(found, images, voice)

    def case(name: str, why: str) -> Case:
        prediction, reference, pair = aligned(found.jobs[name], found.asked, question)
        if pair.unsaid is not None:
            prediction = np.where(pair.unsaid, IGNORE, prediction).astype(np.uint8)
        planes = frames.planes(image_of(name, pair.truth), prediction, reference, question)
        return Case(name, f"{why[:1].upper()}{why[1:]}.", planes)

    sections = [
        findings.results(scores, question, found.asked.sites), _shown(scores, question, case, voice), chapters.citing()
    ]  # fmt: skip
    save_text(file, page(title, said, sections))


class _Images:
    """The images of cases that were evaluated; black where there is none, or none that fits, which is said."""

    def __init__(self, found: Evaluated, images: Path | None, voice: Voice) -> None:
        self.folder, self.voice, self.channels = images, voice, len(found.question.channels)
        self.faults: Mapping[str, str] = {}
        own = {name: found.asked.images.get(job.reference.resolve()) for name, job in found.jobs.items()}
        self.known = {name: (found.question.reader, files) for name, files in own.items() if files}
        if images is not None:
            try:
                there = inputs(images, found.question)
            except BadUsage as problem:
                there = Jobs((), dict.fromkeys(found.jobs, str(problem)))
            self.known, self.faults = {job.stem: (job.reader, job.files) for job in there.jobs}, there.faults
            if len(there.jobs) == len(found.jobs) == 1:  # whatever they are called
                self.known = dict(zip(found.jobs, self.known.values(), strict=True))

    def __call__(self, name: str, truth: Image) -> Image:
        """That of a case, whose reference is given."""
        why = ""
        if name in self.known:
            try:
                return self._read(*self.known[name], truth)
            except BadInput as problem:
                why = str(problem)
        elif self.folder is not None:
            why = self.faults.get(name, f"{self.folder} holds none of its name")
        if why:
            self.voice.say(f"{name} is drawn without its image: {why}")
        return Image(np.broadcast_to(np.uint8(0), (1, *truth.shape)), truth.spacing)

    def _read(self, reader: str, files: Sequence[Path], truth: Image) -> Image:
        """Raises: BadInput where it cannot be read, lies elsewhere than its reference, or is too large."""
        made: Reader = READERS.build(reader)
        channels = self.channels
        if hasattr(made, "open_windows"):
            with made.open_windows([*files]) as opened:
                channels = opened.channels
        if (values := channels * prod(truth.shape)) > MOST:
            raise BadData(f"holds {values:.1e} values: too many to be drawn", where=str(files[0]))
        image = made.read([*files])
        if (place := same_place(image, truth)).fatal:
            raise BadData(f"does not lie on its reference: {place.sentence}", where=str(files[0]))
        return image


def _certain(home: Home, plan: Plan, choice: Choice, voice: Voice) -> dict[str, list[CaseCertainty]]:
    """How sure an ensemble and the networks of every configuration of the model were, where that is known."""
    found: dict[str, list[CaseCertainty]] = {}
    if len(choice.configurations) > 1:
        try:
            files = [certainty_beside(one.labels[choice.configurations]) for one in _held(home, plan, choice)]
            found[" + ".join(choice.configurations)] = [load_record(CaseCertainty, file) for file in files]
        except BadInput as problem:
            voice.say(f"the calibration of the ensemble is left out: {problem}")
    for title in choice.configurations:
        for fold in choice.runs[title]:
            run = home.run_folder(plan.task, plan.name, title, int(fold), choice.seed)
            known = _readable(run.certainty, None, voice)
            found.setdefault(title, []).extend(known.cases.values() if known else ())
    return {title: cases for title, cases in found.items() if cases}


def _readable(read: Callable[[], T], otherwise: T, voice: Voice) -> T:
    """What is read, or something else where a file is damaged, which is said: the rest is reported all the same."""
    try:
        return read()
    except BadFile as problem:
        voice.say(str(problem))
        return otherwise


def _held(home: Home, plan: Plan, choice: Choice) -> list[Held]:
    """The cases with their labels. Raises: BadUsage where a run has changed."""
    return placed(home, finished(home, plan, [*choice.runs], choice.seed, as_measured(home, plan)))


def _drawings(plan: Plan, trained: Mapping[str, Configuration], voice: Voice) -> dict[str, str]:
    """The networks as SVG; none for one that cannot be built here."""
    from autoseg.nets import drawing
    from autoseg.steps import suited

    found = {}
    for title, one in trained.items():
        try:
            made = suited.require_one(plan.model_copy(update={"configurations": {title: one}}), title)
        except BadPlan as problem:
            voice.say(f"the network of {title} is not drawn: {problem}")
            continue
        found[title] = drawing.svg(one.network, made, one.patch, title)
    return found


def _cases(home: Home, plan: Plan, choice: Choice, scores: Scores, voice: Voice) -> Section:
    """The worst cases that were held out and middling ones, to look at."""
    try:
        held = {one.files.id: one for one in _held(home, plan, choice)}
    except (BadUsage, BadFile) as problem:
        voice.say(f"no cases are drawn: {problem}")
        return Section("cases", "Cases", [])

    def case(name: str, why: str) -> Case:
        if name not in held:
            raise BadUsage("is no longer a labelled case of the task", where=name)
        return _case(home, plan, choice, held[name], why)

    return _shown(scores, plan.question, case, voice)


def _shown(scores: Scores, question: Question, draw: Callable[[str, str], Case], voice: Voice) -> Section:
    """The worst cases and middling ones; `draw` draws one of a name, of which something is said."""
    known = {
        case: found for case, row in scores.cases.items()
        if (found := mean_of(measures.dice for measures in row.values())) is not None
    }  # fmt: skip
    order = sorted(known, key=lambda case: known[case])
    worst, rest = order[:SHOWN], order[SHOWN:]
    middle = max(0, min(len(rest) - SHOWN, len(order) // 2 - SHOWN // 2 - len(worst)))
    wanted = [(case, "one of the worst") for case in worst]
    wanted += [(case, "in the middle") for case in rest[middle : middle + SHOWN]]
    blocks: list[Block] = [Layers(frames.names(question))]
    for case, why in voice.track(wanted, len(wanted), "drawing cases"):
        try:
            blocks.append(draw(case, f"{why}: mean Dice {known[case]:.4f}"))
        except (BadInput, MemoryError) as problem:
            voice.say(f"{case} is not drawn: {problem or 'it does not fit into the memory'}")
    return Section("cases", "Cases", blocks if len(blocks) > 1 else [])


def _case(home: Home, plan: Plan, choice: Choice, one: Held, said: str) -> Case:
    place, question = home.task_folder(plan.task), plan.question
    image = casework.read_image([place / name for name in one.files.images], question)
    pair = out_of_fold.Pair(one.labels[choice.configurations], place / str(one.files.label))
    prediction, reference, _ = out_of_fold.read(pair, question, choice.cleaning.taken)
    if image.valid is not None:
        reference = np.where(image.valid, reference, IGNORE).astype(np.uint8)
    return Case(one.files.id, f"Fold {one.fold}, {said}.", frames.planes(image, prediction, reference, question))
