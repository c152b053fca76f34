"""Labels that may be wrong: where networks that had not seen them are sure of something else."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoseg.errors import BadInput, BadUsage
from autoseg.pipeline import out_of_fold
from autoseg.pipeline.choosing import complete, standing
from autoseg.pipeline.ensembles import models_of
from autoseg.pipeline.levels import certainty_beside
from autoseg.pipeline.predicted import label_file, lacking
from autoseg.pipeline.tasks import dataset_of
from autoseg.pipeline.voice import Silent, Voice
from autoseg.records import CaseCertainty, CaseFiles, Plan
from autoseg.steps import cases as casework
from autoseg.steps import frames
from autoseg.steps.report import Block, Case, Layers, Section, Text, page, table
from autoseg.store import Home, load_record, save_text

FEW = 8  # slices along an axis that are shown beside the doubted one: there may be many cases
SAID = (
    "Cases whose labels networks that had not seen them doubt most: the sum, over the places where they are at least "
    "half surer of another class than of the label's, of how much surer they are, by the size of what is labelled or "
    "predicted, which counts as that of a case of middling size where it is smaller. A doubt is a reason to look, no "
    "verdict: what is rare or hard is doubted too. Places are voxels along the axes in memory (z, y, x, or y, x)."
)


@dataclass(frozen=True)
class Asked:
    """A case, in which fold it was held out, what was predicted of it then and how sure that was."""

    files: CaseFiles
    fold: int
    label: Path
    certainty: CaseCertainty


@dataclass(frozen=True)
class Suspect(Asked):
    """Such a case, and how much its label is doubted."""

    doubt: float


def suspects(home: Home, plan: Plan, titles: Sequence[str], seed: int, voice: Voice) -> list[Suspect]:
    """The cases that were held out by finished runs of a configuration, or of an ensemble, the most doubted first.

    Those whose files have changed since are left out, which is said. Raises: BadUsage where there are none.
    """
    asked = _alone(home, plan, titles[0], seed) if len(titles) == 1 else _together(home, plan, titles, seed)
    found, changed = [], []
    for one, stands in asked:
        if stands:
            found.append(one)
        else:
            changed.append(one.files.id)
    if changed:
        shown = ", ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
        voice.say(f"{len(changed)} cases have changed since they were predicted and are left out ({shown})")
    if not found:
        what, where = f"no finished run of {' + '.join(titles)} says how sure it was", f"{plan.task}, plan {plan.name}"
        raise BadUsage(
            what, where=where, remedy=f"train and predict its folds: autoseg crossval {' '.join(titles)} -t {plan.task}"
        )
    usual = statistics.median(one.certainty.above for one in found) or 1.0
    doubts = [
        Suspect(one.files, one.fold, one.label, one.certainty, one.certainty.weight / max(one.certainty.above, usual))
        for one in found
    ]
    return sorted(doubts, key=lambda one: (-one.doubt, one.files.id))


def _alone(home: Home, plan: Plan, title: str, seed: int) -> Iterator[tuple[Asked, bool]]:
    """The cases of a configuration's runs, and whether their files are as they were."""
    cases = {case.id: case for case in dataset_of(home, plan.task)[0].cases}
    content = partial(casework.content_hash, home.task_folder(plan.task))
    folds = home.folds(plan.task)
    for fold in range(len(folds.folds) if folds is not None else 0):
        folder = home.run_folder(plan.task, plan.name, title, fold, seed)
        run, known = folder.run(), folder.certainty() if complete(folder) else None
        for case, certainty in known.cases.items() if known and run else ():
            if run is not None and case in cases:
                asked = Asked(cases[case], fold, label_file(folder, cases[case], plan.question), certainty)
                yield asked, not lacking(folder, [(cases[case], content(cases[case]))], run.question)


def _together(home: Home, plan: Plan, titles: Sequence[str], seed: int) -> Iterator[tuple[Asked, bool]]:
    """As `_alone`, of an ensemble that was compared. Raises: BadUsage for one that was not, BadFile."""
    choice = standing(home, plan, Silent())
    known = [*choice.runs] if choice is not None and choice.seed == seed else []
    way = tuple(title for title in known if title in titles)
    if len(way) != len(titles) or way not in models_of(known):
        what, remedy = f"{' + '.join(titles)} was not compared", f"compare it: autoseg choose -t {plan.task}"
        raise BadUsage(what, where=f"{plan.task}, plan {plan.name}, seed {seed}", remedy=remedy)
    place = home.ensembles(plan.task, plan.name)
    for one, stands in _alone(home, plan, way[0], seed):
        label = place / "+".join(way) / one.label.name
        yield replace(one, label=label, certainty=load_record(CaseCertainty, certainty_beside(label))), stands


def draw(home: Home, plan: Plan, title: str, found: Sequence[Suspect], voice: Voice) -> Path:
    """Writes the page of the cases, each at the place that is doubted most."""
    places = sorted(
        ((doubt.weight, one, doubt) for one in found for doubt in one.certainty.doubts), key=lambda row: -row[0]
    )  # fmt: skip
    rows = [
        (one.files.id, doubt.said, doubt.label, doubt.voxels, weight, _listed(doubt.at),
         " × ".join(f"{first}–{last}" for first, last in doubt.box))
        for weight, one, doubt in places
    ]  # fmt: skip
    by_case = [(one.files.id, one.fold, one.doubt, len(one.certainty.doubts)) for one in found]
    blocks: list[Block] = [Layers(frames.names(plan.question))]
    for one in voice.track(found, len(found), "drawing suspects"):
        try:
            blocks.append(_case(home, plan, one))
        except BadInput as problem:
            voice.say(str(problem))
    header = ("case", "the networks say", "the label says", "voxels", "weight", "at", "box")
    sections = [
        Section("list", "The list", [
            Text(SAID), table("suspects", "The most doubted first.", ("case", "fold", "doubt", "places"), by_case),
            table("places", "Their places, by weight.", header, rows),
        ]),
        Section("cases", "Cases", blocks),
    ]  # fmt: skip
    file = home.report_file(plan.task, plan.name, "suspects")
    save_text(file, page(f"Suspects of {plan.task}", f"Plan {plan.name}, {title}.", sections))
    return file


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _case(home: Home, plan: Plan, one: Suspect) -> Case:
    place, files = home.task_folder(plan.task), one.files
    images = tuple(place / name for name in files.images)
    pair = out_of_fold.Pair(one.label, place / str(files.label), images)
    prediction, reference, _ = out_of_fold.read(pair, plan.question)
    image = casework.read_image([*images], plan.question)
    focus = one.certainty.doubts[0].at if one.certainty.doubts else None
    made = frames.planes(image, prediction, reference, plan.question, focus, FEW)
    return Case(files.id, f"Fold {one.fold}, doubt {one.doubt:.4f}.", made)
