"""What a run leaves behind while it trains: its log, its curves, its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

from autoseg.pipeline.voice import Voice
from autoseg.records import Checkpoint, Run
from autoseg.store import RunFolder, save_text

if TYPE_CHECKING:
    from autoseg.steps.train import Learner, Progress

SAVE_SECONDS = 60.0  # between checkpoints


def recorded(
    progress: Iterator[Progress], learner: Learner, run: Run, folder: RunFolder, voice: Voice
) -> Iterator[Progress]:
    """Passes the progress on; logs every step, saves a checkpoint and draws the curves every minute and at the end."""
    from autoseg.steps.curves import curves
    from autoseg.steps.train import as_log

    title = f"{run.task} · {run.plan} · {run.configuration} · fold {run.fold} · seed {run.seed}"
    saved, smooth, speed, dice, pieces = time.monotonic(), None, 0.0, "", learner.pieces
    for one in progress:
        folder.log(as_log(one, run.question.foreground))
        if one.pieces > pieces:
            pieces = one.pieces
            voice.say(f"step {one.step}: memory ran out; batches go through in {pieces} pieces, which is slower")
        if isfinite(one.loss):
            smooth = one.loss if smooth is None else 0.98 * smooth + 0.02 * one.loss
        speed = one.seconds if not speed else 0.95 * speed + 0.05 * one.seconds
        if one.dice is not None:
            dice = "  pseudo-Dice " + " ".join("–" if d is None else f"{d:.3f}" for d in one.dice)
        bad = f"  {one.skipped} steps skipped" if one.skipped else ""
        voice.status(f"loss {smooth or 0:.3f}{dice}  {1 / speed:.1f} steps/s{bad}")
        if one.step == run.settings.train.steps or time.monotonic() - saved > SAVE_SECONDS:
            save_checkpoint(learner, run, folder)
            save_text(folder.progress_file, curves(folder.logged(), title))
            saved = time.monotonic()
        yield one


def save_checkpoint(learner: Learner, run: Run, folder: RunFolder) -> None:
    """Writes the run's state as one file."""
    header = Checkpoint(
        run=run, step=learner.step, skipped_steps=learner.skipped, skipped_last=learner.skipped_last,
        pieces=learner.pieces,
    )  # fmt: skip
    folder.save_checkpoint(learner.tensors(), header)
