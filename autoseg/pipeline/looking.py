"""Looking at what a run's network is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.errors import BadUsage
from autoseg.pipeline import prediction
from autoseg.pipeline.beginning import settings_of
from autoseg.pipeline.fold_cases import FoldCases, Wish, cases_of, folds_for
from autoseg.pipeline.voice import Voice
from autoseg.records import Configuration, Plan, Run
from autoseg.steps import plan as planning
from autoseg.store import Home, RunFolder, whole

if TYPE_CHECKING:
    import torch

    from autoseg.steps.batches import Batches
    from autoseg.steps.sheet import Row


def draw_batch(home: Home, plan: Plan, wish: Wish, step: int, out: Path | None, voice: Voice) -> Path:
    """Draws the batch that the wish's run is given at a step, 0 the first; answers the PNG.

    A run that was started keeps its own settings; one that was not has the plan's.

    Raises: BadUsage for a step, fold or configuration that there is not, and when the run's cases have changed.
    """
    from autoseg.steps import sheet, words

    planning.configuration_of(plan, wish.configuration)
    folds = folds_for(home, plan, wish)
    folder = home.run_folder(plan.task, plan.name, wish.configuration, wish.fold, wish.seed)
    run = folder.run()
    if run is not None:
        prediction.require_plugins(run, wish.plugins)
    settings = run.settings if run is not None else settings_of(plan, wish)
    question = run.question if run is not None else plan.question
    _require(settings, step, out)
    made = {"configurations": {**plan.configurations, wish.configuration: settings}, "question": question}
    cases = cases_of(home, plan.model_copy(update=made), replace(wish, skip_bad=True), folds, voice)
    if run is not None:
        _require_same(run, cases, folder)
    batches = cases.batches(cases.training, settings, _device(run, wish, voice))
    _follow(batches, step, folder)
    rows = _rows(batches, cases.training, settings, step)
    title = f"{plan.task} · {plan.name} · {wish.configuration} · fold {wish.fold} · seed {wish.seed} · step {step}"
    file = out or folder.batch_file(step)
    with whole(file) as temporary, temporary.open("wb") as opened:
        sheet.draw(opened, title, rows, question.classes, words.axes_of(settings), settings.spacing)
    return file


def _require(settings: Configuration, step: int, out: Path | None) -> None:
    """Raises: BadUsage for what cannot be drawn."""
    steps = settings.train.steps
    if not 0 <= step < steps:
        raise BadUsage(f"there is no step {step}", where="--step", expected=f"0 to {steps - 1}")
    if out is not None and out.suffix.lower() != ".png":
        raise BadUsage(f"{out.name!r} is no name of a PNG", where="--output", expected="a name that ends in .png")


def _require_same(run: Run, cases: FoldCases, folder: RunFolder) -> None:
    """Raises: BadUsage when the run was given other cases than are there now."""
    earlier = {} if cases.earlier is None else cases.earlier.contents
    if (run.folds, run.skipped, run.earlier) != (cases.folds, cases.skipped, earlier):
        what = "the cases of this fold" if run.earlier == earlier else f"what {run.settings.previous} predicts of them"
        raise BadUsage(
            f"{what} have changed since the run was started: its batches cannot be drawn again",
            where=str(folder.folder),
            remedy="draw those of a run that is not started yet: --seed N",
        )


def _device(run: Run | None, wish: Wish, voice: Voice) -> torch.device:
    """Where the batch is made: noise has other grains on another kind of device."""
    from autoseg.steps import device as devices

    device = devices.choose(wish.device)
    if run is not None and run.device != device.type:
        voice.say(f"the run trains on {run.device}, this is drawn on {device.type}: noise has other grains here")
    return device


def _follow(batches: Batches, step: int, folder: RunFolder) -> None:
    """Where cases are drawn by their losses: takes those of the run's log. Raises: BadUsage when they are not there."""
    if not 0 < batches.chooser.every <= step:
        return
    logged = {entry.get("step"): entry.get("loss") for entry in folder.logged()}
    if missing := [number for number in range(step) if number + 1 not in logged]:
        what = f"the cases of step {step} follow the losses before it, and that of step {missing[0]} is not in the log"
        raise BadUsage(what, where=str(folder.log_file), remedy="train the run up to that step")
    batches.replay([nan if (loss := logged[number + 1]) is None else loss for number in range(step)])


def _rows(batches: Batches, ids: Sequence[str], settings: Configuration, step: int) -> list[Row]:
    """The batch as the network is given it, with what its samples are."""
    from autoseg.steps import words
    from autoseg.steps.sheet import Row

    samples = batches.draw(step)
    images, labels = (tensor.cpu().numpy() for tensor in batches.augment(samples, batches.read(samples)))
    rows = []
    for sample, image, label in zip(samples, images, labels, strict=True):
        cut = words.where_cut(sample, batches.cases[sample.case].shape, settings)
        image = image[: batches.channels]  # without those of an earlier stage
        low, high = (f"{value:.3g}".replace("-", "−") for value in (image.min(), image.max()))
        told = f"{words.what_done(sample, settings)} · values {low} to {high}"
        rows.append(Row(f"{ids[sample.case]}: {cut}", told, image, label))
    return rows
