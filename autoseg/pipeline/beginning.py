"""How a run begins, and how one that was stopped goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoseg import __version__
from autoseg.errors import BadFile, BadUsage
from autoseg.pipeline import finetuning, prediction
from autoseg.pipeline.fold_cases import FoldCases, Wish
from autoseg.pipeline.together import led
from autoseg.pipeline.voice import Voice
from autoseg.plugins import used
from autoseg.records import Checkpoint, Configuration, Plan, Run
from autoseg.steps import plan as planning
from autoseg.steps.world import World
from autoseg.store import RunFolder, load_tensors

if TYPE_CHECKING:
    import torch

    from autoseg.steps.learner import Learner

LOOKED = 50  # the fewest steps between two looks at validation patches
PROBE_STEPS = 12  # from whose speed a budget becomes steps
FRESH = "--fresh starts anew and keeps the old run beside it"


def begun(plan: Plan, wish: Wish, cases: FoldCases, device: torch.device, voice: Voice, world: World) -> Run:
    """What a new run is started with; a budget becomes steps here, at the speed of the run's own first steps.

    All processes of the world measure it together; that of the first one counts.
    """
    import torch

    from autoseg.steps import device as devices
    from autoseg.steps.learner import build
    from autoseg.steps.speed import measure_speed

    settings = settings_of(plan, wish)
    precision = devices.precision(device, settings.train.precision)
    if wish.budget is not None:
        voice.say(f"measuring {PROBE_STEPS} steps")
        learner = build(settings, plan.question, wish.seed, device, precision)
        learner.world = world
        batches = cases.batches(cases.training, settings, device, share=world.share)
        speed = float(world.send(str(measure_speed(learner, batches, PROBE_STEPS)).encode()))
        settings = with_steps(settings, planning.steps_in(wish.budget, speed))
        voice.say(f"{wish.budget / 60:.4g} minutes at {speed:.3f} s per step: {settings.train.steps} steps")
        if settings.train.steps < LOOKED:
            voice.say(f"that is too short to look at validation cases on the way: {LOOKED} steps are between two looks")
    return led(world, Run, lambda: Run(
        task=plan.task, plan=plan.name, configuration=wish.configuration, fold=wish.fold, seed=wish.seed,
        settings=settings, question=plan.question, folds=cases.folds, device=device.type, precision=precision,
        threads=torch.get_num_threads(), budget=wish.budget, plugins={**wish.plugins, **used(settings, plan.question)},
        skipped=cases.skipped, version=__version__, freeze=wish.freeze, freeze_steps=wish.freeze_steps,
        pretrained=None if wish.pretrained is None else finetuning.content_of(wish.pretrained),
        earlier={} if cases.earlier is None else dict(cases.earlier.contents),
    ))  # fmt: skip


def settings_of(plan: Plan, wish: Wish) -> Configuration:
    """The plan's configuration with the seed and the steps of this run."""
    configuration = plan.configurations[wish.configuration]
    train = configuration.train.model_copy(update={"seed": wish.seed})
    seeded = configuration.model_copy(update={"train": train})
    return seeded if wish.steps is None else with_steps(seeded, wish.steps)


def with_steps(configuration: Configuration, steps: int) -> Configuration:
    return configuration.model_copy(update={"train": configuration.train.model_copy(update={"steps": steps})})


def require_same(run: Run, plan: Plan, wish: Wish, folder: RunFolder, cases: FoldCases) -> None:
    """Refuses to go on with a run that was started with something else."""
    prediction.require_plugins(run, wish.plugins)
    if (run.folds, run.skipped) != (cases.folds, cases.skipped):
        raise BadUsage(
            "the cases of this fold have changed since the run was started",
            where=str(folder.folder),
            remedy=FRESH,
        )
    if run.earlier != ({} if cases.earlier is None else cases.earlier.contents):
        what = f"what {run.settings.previous} predicts has changed since this run was started with it"
        raise BadUsage(what, where=str(folder.folder), remedy=FRESH)
    finetuning.require_same(run, wish.pretrained, folder)
    if wish.freeze is not None and (wish.freeze, wish.freeze_steps) != (run.freeze, run.freeze_steps):
        raise BadUsage(
            "this run was started with another --freeze or --freeze-steps", where=str(folder.folder),
            remedy=FRESH,
        )  # fmt: skip
    asked = with_steps(settings_of(plan, wish), run.settings.train.steps)
    steps_differ = wish.steps is not None and wish.steps != run.settings.train.steps
    budget_differs = wish.budget is not None and wish.budget != run.budget
    if asked != run.settings or run.question != plan.question or steps_differ or budget_differs:
        budget = f", budget {run.budget / 60:g} minutes" if run.budget else ""
        raise BadUsage(
            f"this run was started with another plan, --steps or --budget ({run.settings.train.steps} steps{budget})",
            where=str(folder.folder),
            remedy=FRESH,
        )


def restore(learner: Learner, run: Run, folder: RunFolder, voice: Voice) -> int:
    """Continues from the last checkpoint that is whole, if there is one; the step from which the run goes on."""
    files = [file for file in (folder.checkpoint_file, folder.checkpoint_before) if file.exists()]
    step, before = 0, 1
    for file in files:
        try:
            step, before = _loaded(learner, run, file)
            break
        except BadFile as problem:
            if file == files[-1]:
                raise
            aside = file.rename(file.with_suffix(".damaged"))  # else the next save would put it in the good one's place
            voice.say(f"{problem.where} {problem.what}; it is now {aside.name}, going on from the one before it")
    folder.rewind_log(step)
    if files and step < run.settings.train.steps:
        voice.say(f"resuming at step {step} of {run.settings.train.steps}")
        if before != learner.world.size:
            goes_on = f"this run was trained with {before} processes so far, goes on with {learner.world.size}"
            voice.say(f"{goes_on}: equal to rounding, not to the bit")
    return step


def _loaded(learner: Learner, run: Run, file: Path) -> tuple[int, int]:
    """The step of the checkpoint, from which the learner goes on, and how many processes trained together until then.

    Raises: BadFile where it cannot.
    """
    try:
        header, tensors = load_tensors(Checkpoint, file)
        if header.run != run or header.step > run.settings.train.steps:
            raise BadFile("is of another run", where=str(file))
        learner.load(tensors, header.step, header.skipped_steps, header.skipped_last, header.pieces)
    except BadFile as problem:
        raise BadFile(problem.what, where=str(file), expected=problem.expected, remedy=FRESH) from None
    except (ValueError, KeyError) as problem:  # how torch tells of the state of another optimiser
        raise BadFile(f"is of another optimiser: {problem}", where=str(file), remedy=FRESH) from None
    return header.step, header.processes
