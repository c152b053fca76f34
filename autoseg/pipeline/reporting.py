"""A task's report: one HTML file, of what lies in its folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg.arrays.metrics import mean_of
from autoseg.errors import BadFile, BadUsage
from autoseg.pipeline import out_of_fold, tasks
from autoseg.pipeline.ensembles import Held, as_measured, finished, placed
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseCertainty, Choice, Plan, Question, Scores
from autoseg.steps import cases as casework
from autoseg.steps import chapters, frames
from autoseg.steps.report import Block, Case, Layers, Section, page
from autoseg.store import Home, RunFolder, save_text

SHOWN = 5  # of the worst and of the middling cases


def report(home: Home, plan: Plan, voice: Voice) -> Path:
    """Writes the report of the model that was chosen. Raises: BadUsage where none was."""
    choice, scores = home.choice(plan.task, plan.name), home.choice_scores(plan.task, plan.name)
    if choice is None or scores is None:
        remedy = f"choose one: autoseg crossval -t {plan.task}, or autoseg choose where all folds are trained"
        raise BadUsage("no model was chosen", where=f"{plan.task}, plan {plan.name}", remedy=remedy)
    dataset, _ = tasks.dataset_of(home, plan.task)
    fingerprint, folds = home.fingerprint(plan.task), home.folds(plan.task)
    titles = list(choice.runs)
    runs = {
        f"{title}, fold {fold}": home.run_folder(plan.task, plan.name, title, int(fold), choice.seed)
        for title, of in choice.runs.items() for fold in of
    }  # fmt: skip
    records = {name: run for name, folder in runs.items() if (run := folder.run()) is not None}
    sites = {case.id: case.site for case in dataset.cases if case.site is not None}
    sections = [
        chapters.asked(plan, dataset, folds.rule if folds else ""),
        *([chapters.data(fingerprint, plan)] if fingerprint and fingerprint.usable else []),
        chapters.planned(plan, titles, _drawings(home, plan, titles)),
        chapters.training({name: _log(runs[name]) for name in records}, records),
        chapters.compared(choice),
        chapters.results(scores, plan.question, sites),
        chapters.calibration(_certain(home, plan, choice)),
        chapters.cleaning(choice),
        _cases(home, plan, choice, scores, voice),
        chapters.citing(),
    ]
    file = home.report_file(plan.task, plan.name)
    title, dice = f"{plan.task}, plan {plan.name}", "–" if scores.dice is None else f"{scores.dice:.4f}"
    said = f"{' + '.join(choice.configurations)}: mean Dice {dice} over {len(scores.cases)} cases that were held out. "
    save_text(file, page(title, said + chapters.MEANING, sections))
    return file


def report_of_scores(scores: Scores, question: Question | None, title: str, file: Path) -> None:
    """Writes the report of a folder of predictions: its results alone."""
    dice = "–" if scores.dice is None else f"{scores.dice:.4f}"
    said = f"Mean Dice {dice} over {len(scores.cases)} cases."
    save_text(file, page(title, said, [chapters.results(scores, question, {}), chapters.citing()]))


def _certain(home: Home, plan: Plan, choice: Choice) -> dict[str, list[CaseCertainty]]:
    """How sure the networks of every configuration of the model were, where that is known."""
    found: dict[str, list[CaseCertainty]] = {}
    for title in choice.configurations:
        for fold in choice.runs[title]:
            known = home.run_folder(plan.task, plan.name, title, int(fold), choice.seed).certainty()
            found.setdefault(title, []).extend(known.cases.values() if known else ())
    return {title: cases for title, cases in found.items() if cases}


def _log(folder: RunFolder) -> chapters.Log:
    return list(folder.logged())


def _drawings(home: Home, plan: Plan, titles: Sequence[str]) -> dict[str, str]:
    """The networks as SVG; none for one that a plug-in would be needed for."""
    from autoseg.nets import drawing
    from autoseg.steps import suited

    found = suited.require_parts(plan)
    return {
        title: drawing.svg(plan.configurations[title].network, found[title], plan.configurations[title].patch, title)
        for title in titles if title in found
    }  # fmt: skip


def _cases(home: Home, plan: Plan, choice: Choice, scores: Scores, voice: Voice) -> Section:
    """The worst cases and middling ones, to look at."""
    known = {
        case: found for case, row in scores.cases.items()
        if (found := mean_of(measures.dice for measures in row.values())) is not None
    }  # fmt: skip
    order = sorted(known, key=lambda case: known[case])
    middle = max(0, (len(order) - SHOWN) // 2)
    worst = order[:SHOWN]
    typical = [case for case in order[middle : middle + SHOWN] if case not in worst]
    done = finished(home, plan, [*choice.runs], choice.seed, as_measured(home, plan))
    held = {one.files.id: one for one in placed(home, done)}
    blocks: list[Block] = [Layers(frames.names(plan.question.classes))]
    wanted = [(case, "one of the worst") for case in worst] + [(case, "in the middle") for case in typical]
    for case, why in voice.track(wanted, len(wanted), "drawing cases"):
        if case in held:
            try:
                blocks.append(_case(home, plan, choice, held[case], f"{why}: mean Dice {known[case]:.4f}"))
            except BadFile as problem:
                voice.say(str(problem))
    return Section("cases", "Cases", blocks if len(blocks) > 1 else [])


def _case(home: Home, plan: Plan, choice: Choice, one: Held, said: str) -> Case:
    place, question = home.task_folder(plan.task), plan.question
    pair = out_of_fold.pair_of(one, choice.configurations, place)
    prediction, reference, _ = out_of_fold.read(pair, question, choice.cleaning.steps)
    image = casework.read_image([place / name for name in one.files.images], question)
    return Case(one.files.id, f"Fold {one.fold}, {said}.", frames.planes(image, prediction, reference))
