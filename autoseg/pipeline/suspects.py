"""Labels that may be wrong: where networks that had not seen them are sure of something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import BadUsage
from autoseg.pipeline import out_of_fold
from autoseg.pipeline.choosing import complete
from autoseg.pipeline.ensembles import Held
from autoseg.pipeline.predicted import label_file
from autoseg.pipeline.tasks import dataset_of
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseCertainty, Dataset, Plan
from autoseg.steps import cases as casework
from autoseg.steps import frames
from autoseg.steps.report import Block, Case, Layers, Section, Text, page, table
from autoseg.store import Home, RunFolder, save_text

SAID = (
    "Cases whose labels networks that had not seen them doubt most: the sum, over the places where they are at least "
    "half surer of another class than of the label's, of how much surer they are, by the size of what is labelled or "
    "predicted. A doubt is a reason to look, not a verdict: what is rare or hard is doubted too."
)


@dataclass(frozen=True)
class Suspect:
    """A case, in which fold it was held out, and what is doubted of it."""

    case: str
    fold: int
    certainty: CaseCertainty


def suspects(home: Home, plan: Plan, title: str, seed: int) -> list[Suspect]:
    """All cases that were held out by finished runs of a configuration, the most doubted first.

    Raises: BadUsage where there are none.
    """
    found = [
        Suspect(case, fold, certainty)
        for fold, folder in enumerate(_runs(home, plan, title, seed))
        if complete(folder) and (known := folder.certainty()) is not None
        for case, certainty in known.cases.items()
    ]
    if not found:
        remedy = f"train its folds: autoseg crossval {title} -t {plan.task}"
        raise BadUsage(
            f"no finished run of {title} held cases out", where=f"{plan.task}, plan {plan.name}", remedy=remedy
        )
    return sorted(found, key=lambda one: (-one.certainty.doubt, one.case))


def _runs(home: Home, plan: Plan, title: str, seed: int) -> list[RunFolder]:
    folds = home.folds(plan.task)
    count = len(folds.folds) if folds is not None else 0
    return [home.run_folder(plan.task, plan.name, title, fold, seed) for fold in range(count)]


def draw(home: Home, plan: Plan, title: str, seed: int, found: Sequence[Suspect], voice: Voice) -> Path:
    """Writes the page of the cases, each at the place that is doubted most."""
    dataset, _ = dataset_of(home, plan.task)
    header = ("case", "fold", "doubt", "the networks say", "the label says", "voxels", "at")
    rows = [
        (one.case, one.fold, one.certainty.doubt, doubt.said, doubt.label, doubt.voxels, _middle(doubt.box))
        for one in found for doubt in one.certainty.doubts[:1]
    ]  # fmt: skip
    blocks: list[Block] = [Layers(frames.names(plan.question.classes))]
    for one in voice.track(found, len(found), "drawing suspects"):
        blocks.append(_case(home, plan, title, seed, dataset, one))
    sections = [
        Section("list", "The list", [Text(SAID), table("suspects", "The most doubted first.", header, rows)]),
        Section("cases", "Cases", blocks),
    ]
    file = home.report_file(plan.task, plan.name, "suspects")
    save_text(file, page(f"Suspects of {plan.task}", f"Plan {plan.name}, configuration {title}.", sections))
    return file


def _middle(box: Sequence[tuple[int, int]]) -> str:
    return ", ".join(str((first + last) // 2) for first, last in box)


def _case(home: Home, plan: Plan, title: str, seed: int, dataset: Dataset, one: Suspect) -> Case:
    place, files = home.task_folder(plan.task), dataset.case(one.case)
    folder = home.run_folder(plan.task, plan.name, title, one.fold, seed)
    held = Held(files, one.fold, {(title,): label_file(folder, files, plan.question)})
    prediction, reference, _ = out_of_fold.read(out_of_fold.pair_of(held, (title,), place), plan.question)
    image = casework.read_image([place / name for name in files.images], plan.question)
    focus = [(first + last) // 2 for first, last in one.certainty.doubts[0].box] if one.certainty.doubts else None
    said = f"Fold {one.fold}, doubt {one.certainty.doubt:.4f}."
    return Case(one.case, said, frames.planes(image, prediction, reference, focus))
