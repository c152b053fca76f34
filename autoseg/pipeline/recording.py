"""What a run leaves behind while it trains: its log, its curves, its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from autoseg.pipeline.voice import Voice
from autoseg.records import Checkpoint, Run
from autoseg.store import RunFolder, save_text

if TYPE_CHECKING:
    from autoseg.steps.learner import Learner
    from autoseg.steps.train import Progress

SAVE_SECONDS = 60.0  # between checkpoints
MOST = 3  # classes whose pseudo-Dice is told one by one


def recorded(
    progress: Iterator[Progress], learner: Learner, run: Run, folder: RunFolder, voice: Voice
) -> Iterator[Progress]:
    """Passes the progress on; logs every step, saves a checkpoint and draws the curves every minute and at the end."""
    from autoseg.steps.curves import curves
    from autoseg.steps.train import as_log

    title = f"{run.task} · {run.plan} · {run.configuration} · fold {run.fold} · seed {run.seed}"
    saved, live, pieces = time.monotonic(), Live(), learner.pieces
    for one in progress:
        folder.log(as_log(one, run.question.foreground))
        if one.pieces > pieces:
            pieces = one.pieces
            voice.say(f"step {one.step}: memory ran out; batches go through in {pieces} pieces, which is slower")
        voice.status(*live.parts(one, run.question.foreground))
        if one.step == run.settings.train.steps or time.monotonic() - saved > SAVE_SECONDS:
            save_checkpoint(learner, run, folder)
            save_text(folder.progress_file, curves(folder.logged(), title))
            saved = time.monotonic()
        yield one


@dataclass
class Live:
    """What is told of a run while it trains: the loss and the speed smoothed, the last pseudo-Dice."""

    loss: float | None = None
    seconds: float | None = None
    dice: Sequence[float | None] = ()

    def parts(self, one: Progress, foreground: Sequence[str]) -> list[str]:
        """The parts of the live line after a step, the most important first."""
        if isfinite(one.loss):
            self.loss = one.loss if self.loss is None else 0.98 * self.loss + 0.02 * one.loss
        self.seconds = one.seconds if self.seconds is None else 0.95 * self.seconds + 0.05 * one.seconds
        self.dice = self.dice if one.dice is None else one.dice
        parts = ["loss –" if self.loss is None else f"loss {self.loss:.3f}"]
        parts += [f"{one.skipped} skipped"] if one.skipped else []
        known = [dice for dice in self.dice if dice is not None]
        parts += [f"Dice {sum(known) / len(known):.3f}"] if known else []
        parts += [f"{1 / self.seconds:.1f} steps/s" if self.seconds < 1 else f"{self.seconds:.1f} s/step"]
        parts += [f"{one.memory / 1e9:.1f} GB"] if one.memory else []
        if 1 < len(self.dice) <= MOST:
            found = zip(foreground, self.dice, strict=True)
            parts += [" ".join(f"{name} {'–' if dice is None else f'{dice:.2f}'}" for name, dice in found)]
        return parts


def save_checkpoint(learner: Learner, run: Run, folder: RunFolder) -> None:
    """Writes the run's state as one file."""
    header = Checkpoint(
        run=run, step=learner.step, skipped_steps=learner.skipped, skipped_last=learner.skipped_last,
        pieces=learner.pieces, processes=learner.world.size,
    )  # fmt: skip
    folder.save_checkpoint(learner.tensors(), header)
