"""What a run is asked for, and the cases that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoseg.errors import BadData, BadFile, BadUsage
from autoseg.pipeline import cascade, tasks
from autoseg.pipeline.cascade import Earlier
from autoseg.pipeline.voice import Voice
from autoseg.records import Configuration, Fingerprint, Folds, Plan, Question, digest
from autoseg.steps.preprocess import channels
from autoseg.store import Home, Preprocessed

if TYPE_CHECKING:
    import torch

    from autoseg.steps.batches import Batches


@dataclass(frozen=True)
class Wish:
    """What the user asked of a run beyond its plan; `track` and `mlflow` say where else it is written down."""

    configuration: str
    fold: int | Literal["all"] = 0
    steps: int | None = None
    budget: float | None = None
    seed: int = 0
    fresh: bool = False
    skip_bad: bool = False
    device: str = "auto"
    workers: int | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    pretrained: Path | None = None
    freeze: Literal["encoder"] | None = None
    freeze_steps: int = 0
    track: bool = False
    mlflow: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FoldCases:
    """The cases of a run: where their arrays lie, which train, which are held out, which are left out.

    `earlier` is what an earlier stage predicted of them, where the run goes on from one.
    """

    arrays: Preprocessed
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    skipped: tuple[str, ...]
    folds: str
    question: Question
    earlier: Earlier | None = None

    def batches(
        self, ids: Sequence[str], settings: Configuration, device: torch.device, augmented: bool = True,
        share: slice | None = None,
    ) -> Batches:  # fmt: skip
        """The batches that a run draws from some of the cases; `share`: what this process has of each."""
        from autoseg.steps.batches import Batches

        given = {} if self.earlier is None else self.earlier.stored
        opened = [self.arrays.open(id, given.get(id)) for id in ids]
        number = channels(settings.normalise)
        return Batches(opened, settings, number, settings.train.seed, device, augmented, self.question, share)


def cases_of(
    home: Home, plan: Plan, wish: Wish, folds: Folds, voice: Voice, *, to_train: bool = False
) -> FoldCases:  # fmt: skip
    """Preprocesses what is due; answers the cases of the wish's fold. Raises: BadData when none is left to train on.

    Args:
        to_train: only to train the run, where it is not finished: nothing of an earlier stage is read where it is.
    """
    done = to_train and cascade.done(home, plan, wish, folds)
    if not done:
        cascade.require_finished(home, plan, wish, folds)
    folders, measured = tasks.prepare(home, plan, [wish.configuration], voice, wish.workers)
    skipped = _left_out(plan.task, measured, folds, wish, voice)
    usable = set(measured.usable)
    training, held_out = (tuple(c for c in ids if c in usable) for ids in folds.split(wish.fold))
    if not training:
        raise BadData(
            f"fold {wish.fold} has no usable case to train on",
            where=plan.task,
            remedy=f"fold all trains on every case: autoseg train {wish.configuration} all",
        )
    arrays = folders[wish.configuration]
    if done:
        earlier = cascade.remembered(home, plan, wish, voice)
    else:
        earlier = cascade.predicted(home, plan, wish, folds, (*training, *held_out), arrays, measured, voice)
    return FoldCases(arrays, training, held_out, skipped, digest(folds), plan.question, earlier)


def folds_for(home: Home, plan: Plan, wish: Wish) -> Folds:
    """The folds of the plan's task. Raises: BadUsage when the wish's fold is not among them."""
    folds = home.folds(plan.task)
    if folds is None:
        raise BadFile(
            "is missing",
            where=str(home.folds_file(plan.task)),
            remedy=f"plan again: autoseg plan {plan.task}",
        )
    if wish.fold != "all" and not 0 <= wish.fold < len(folds.folds):
        raise BadUsage(f"there is no fold {wish.fold}", expected=f"0 to {len(folds.folds) - 1}, or all")
    return folds


def _left_out(task: str, measured: Fingerprint, folds: Folds, wish: Wish, voice: Voice) -> tuple[str, ...]:
    """The cases of the folds that are not trained with. Raises: BadData when they are bad and may not be skipped."""
    listed = {case for ids in folds.folds for case in ids}
    known = sorted({fault.case for fault in measured.all_faults if fault.fatal} & listed)
    gone = sorted(listed - set(measured.cases))
    if known and not wish.skip_bad:
        shown = ", ".join(known[:3]) + (" …" if len(known) > 3 else "")
        raise BadData(
            f"{len(known)} cases cannot be used ({shown})",
            where=task,
            remedy=f"see autoseg check {task}; --skip-bad trains without them",
        )
    if known:
        voice.say(f"training without {len(known)} cases that cannot be used: {', '.join(known)}")
    if gone:
        voice.say(f"training without {len(gone)} cases that the task no longer has: {', '.join(gone)}")
    return (*known, *gone)
