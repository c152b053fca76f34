"""Training a run from its plan to the scores of its fold."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoseg import __version__
from autoseg.errors import BadData, BadFile, BadUsage
from autoseg.pipeline import finetuning, prediction, tasks
from autoseg.pipeline.voice import Voice
from autoseg.plugins import used
from autoseg.records import Checkpoint, Configuration, Fingerprint, Folds, Plan, Run, digest
from autoseg.steps import design
from autoseg.steps import plan as planning
from autoseg.steps.preprocess import channels
from autoseg.store import Home, Preprocessed, RunFolder, load_tensors, lock, save_record, save_text

if TYPE_CHECKING:
    import torch

    from autoseg.steps.batches import Batches
    from autoseg.steps.train import Learner, Progress

SAVE_SECONDS = 60.0  # between checkpoints
PROBE_STEPS = 12  # from whose speed a budget becomes steps


@dataclass(frozen=True)
class Wish:
    """What the user asked of a run beyond its plan."""

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


@dataclass(frozen=True)
class FoldCases:
    """The cases of a run: where their arrays lie, which train, which are held out, which are left out."""

    arrays: Preprocessed
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    skipped: tuple[str, ...]
    folds: str

    def batches(
        self, ids: Sequence[str], settings: Configuration, device: torch.device, augmented: bool = True
    ) -> Batches:
        """The batches that a run draws from some of the cases."""
        from autoseg.steps.batches import Batches

        opened = [self.arrays.open(id) for id in ids]
        return Batches(opened, settings, channels(settings.normalise), settings.train.seed, device, augmented)


def train(home: Home, plan: Plan, wish: Wish, voice: Voice) -> RunFolder:
    """Preprocesses what is due, trains or resumes the run, predicts and scores its validation cases."""
    configuration = planning.configuration_of(plan, wish.configuration)
    if configuration.previous is not None:
        raise BadUsage(
            f"{wish.configuration} cannot be trained yet: it needs the predictions of {configuration.previous}",
            remedy=f"train {configuration.previous}, or a configuration that goes on from none",
        )
    folds = folds_for(home, plan, wish)
    if digest(folds) != plan.folds:
        voice.say(f"the folds are not those that plan {plan.name} was made with; those that are there now are used")
    folder = home.run_folder(plan.task, plan.name, wish.configuration, wish.fold, wish.seed)
    with lock(folder.folder.parent / f".{folder.folder.name}"):
        model = None if wish.pretrained is None else finetuning.checkpoint_in(wish.pretrained)
        cases = cases_of(home, plan, wish, folds, voice)
        if wish.fresh and (aside := folder.set_aside()):
            voice.say(f"the earlier run was moved to {aside}")
            if model is not None and not model.exists():  # it was that run's
                wish = replace(wish, pretrained=aside / model.name)
        _optimise(plan, wish, folder, cases, voice)
        if cases.held_out:
            prediction.validate(home, folder, cases.held_out, wish.device, wish.plugins, voice)
        else:
            voice.say("no validation case in this fold: the model is trained but not scored")
    return folder


def cases_of(home: Home, plan: Plan, wish: Wish, folds: Folds, voice: Voice) -> FoldCases:
    """Preprocesses what is due; answers the cases of the wish's fold. Raises: BadData when none is left to train on."""
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
    return FoldCases(folders[wish.configuration], training, held_out, skipped, digest(folds))


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


def _optimise(plan: Plan, wish: Wish, folder: RunFolder, cases: FoldCases, voice: Voice) -> None:
    """From wherever the run stands to its last step."""
    import torch

    from autoseg.steps import device as devices
    from autoseg.steps import train as step
    from autoseg.steps.finetune import encoder_of

    device = devices.choose(wish.device)
    if device.type != plan.target.device:
        voice.say(f"the plan was made for {plan.target.device}, this run trains on {device.type}")
    before = folder.run()
    run = _begun(plan, wish, cases, device, voice) if before is None else before
    _same(run, plan, wish, folder, cases)
    torch.set_num_threads(run.threads)
    learner = step.build(run.settings, run.question, run.seed, device, run.precision)
    if run.freeze is not None:
        learner.frozen, learner.frozen_until = encoder_of(learner.network), run.freeze_steps
    if _restore(learner, run, folder, voice) == 0 and wish.pretrained is not None:
        finetuning.begin_with(wish.pretrained, learner, run, voice)
    if before is None:
        save_record(folder.run_file, run)
    last = run.settings.train.steps
    validation = cases.batches(cases.held_out, run.settings, device, augmented=False) if cases.held_out else None
    batches = cases.batches(cases.training, run.settings, device)
    progress = step.train(learner, batches, last, validation, every=max(50, last // 100))
    label = f"training {wish.configuration} fold {wish.fold}"
    for _ in voice.track(_recorded(progress, learner, run, folder, voice), last, label, learner.step):
        pass


def _begun(plan: Plan, wish: Wish, cases: FoldCases, device: torch.device, voice: Voice) -> Run:
    """What a new run is started with; a budget becomes steps here, at the speed of the run's own first steps."""
    import torch

    from autoseg.steps import device as devices
    from autoseg.steps import train as step
    from autoseg.steps.speed import measure_speed

    settings = settings_of(plan, wish)
    design.require_one(plan, wish.configuration)
    precision = devices.precision(device, settings.train.precision)
    if wish.budget is not None:
        voice.say(f"measuring {PROBE_STEPS} steps")
        learner = step.build(settings, plan.question, wish.seed, device, precision)
        speed = measure_speed(learner, cases.batches(cases.training, settings, device), PROBE_STEPS)
        settings = _with_steps(settings, planning.steps_in(wish.budget, speed))
        voice.say(f"{wish.budget / 60:.4g} minutes at {speed:.3f} s per step: {settings.train.steps} steps")
    return Run(
        task=plan.task, plan=plan.name, configuration=wish.configuration, fold=wish.fold, seed=wish.seed,
        settings=settings, question=plan.question, folds=cases.folds, device=device.type, precision=precision,
        threads=torch.get_num_threads(), budget=wish.budget, plugins={**wish.plugins, **used(settings, plan.question)},
        skipped=cases.skipped, version=__version__, freeze=wish.freeze, freeze_steps=wish.freeze_steps,
        pretrained=None if wish.pretrained is None else finetuning.content_of(wish.pretrained),
    )  # fmt: skip


def settings_of(plan: Plan, wish: Wish) -> Configuration:
    """The plan's configuration with the seed and the steps of this run."""
    configuration = plan.configurations[wish.configuration]
    train = configuration.train.model_copy(update={"seed": wish.seed})
    seeded = configuration.model_copy(update={"train": train})
    return seeded if wish.steps is None else _with_steps(seeded, wish.steps)


def _with_steps(configuration: Configuration, steps: int) -> Configuration:
    return configuration.model_copy(update={"train": configuration.train.model_copy(update={"steps": steps})})


def _same(run: Run, plan: Plan, wish: Wish, folder: RunFolder, cases: FoldCases) -> None:
    """Refuses to go on with a run that was started with something else."""
    prediction.require_plugins(run, wish.plugins)
    if (run.folds, run.skipped) != (cases.folds, cases.skipped):
        raise BadUsage(
            "the cases of this fold have changed since the run was started",
            where=str(folder.folder),
            remedy="--fresh starts anew and keeps the old run beside it",
        )
    finetuning.require_same(run, wish.pretrained, folder)
    if wish.freeze is not None and (wish.freeze, wish.freeze_steps) != (run.freeze, run.freeze_steps):
        raise BadUsage(
            "this run was started with another --freeze or --freeze-steps", where=str(folder.folder),
            remedy="--fresh starts anew and keeps the old run beside it",
        )  # fmt: skip
    asked = _with_steps(settings_of(plan, wish), run.settings.train.steps)
    steps_differ = wish.steps is not None and wish.steps != run.settings.train.steps
    budget_differs = wish.budget is not None and wish.budget != run.budget
    if asked != run.settings or run.question != plan.question or steps_differ or budget_differs:
        budget = f", budget {run.budget / 60:g} minutes" if run.budget else ""
        raise BadUsage(
            f"this run was started with another plan, --steps or --budget ({run.settings.train.steps} steps{budget})",
            where=str(folder.folder),
            remedy="--fresh starts anew and keeps the old run beside it",
        )


def _restore(learner: Learner, run: Run, folder: RunFolder, voice: Voice) -> int:
    """Continues from the last checkpoint that is whole, if there is one; the step from which the run goes on."""
    files = [file for file in (folder.checkpoint_file, folder.checkpoint_before) if file.exists()]
    step = 0
    for file in files:
        try:
            step = _loaded(learner, run, file)
            break
        except BadFile as problem:
            if file == files[-1]:
                raise
            aside = file.rename(file.with_suffix(".damaged"))  # else the next save would put it in the good one's place
            voice.say(f"{problem.where} {problem.what}; it is now {aside.name}, going on from the one before it")
    folder.rewind_log(step)
    if files and step < run.settings.train.steps:
        voice.say(f"resuming at step {step} of {run.settings.train.steps}")
    return step


def _loaded(learner: Learner, run: Run, file: Path) -> int:
    """The step of the checkpoint, from which the learner goes on. Raises: BadFile where it cannot."""
    remedy = "--fresh starts anew and keeps the old run beside it"
    try:
        header, tensors = load_tensors(Checkpoint, file)
        if header.run != run or header.step > run.settings.train.steps:
            raise BadFile("is of another run", where=str(file))
        learner.load(tensors, header.step, header.skipped_steps, header.skipped_last, header.pieces)
    except BadFile as problem:
        raise BadFile(problem.what, where=str(file), expected=problem.expected, remedy=remedy) from None
    except (ValueError, KeyError) as problem:  # how torch tells of the state of another optimiser
        raise BadFile(f"is of another optimiser: {problem}", where=str(file), remedy=remedy) from None
    return header.step


def _recorded(
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
