"""Training a run from its plan to the scores of its fold."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from autoseg.pipeline import cascade, finetuning, prediction
from autoseg.pipeline.beginning import LOOKED, begun, require_same, restore
from autoseg.pipeline.fold_cases import FoldCases, Wish, cases_of, folds_for
from autoseg.pipeline.recording import recorded
from autoseg.pipeline.together import led, share_state
from autoseg.pipeline.tracking import Trackers, drawn, require
from autoseg.pipeline.voice import Voice
from autoseg.records import Folds, Plan, Run, Scores, digest
from autoseg.steps import plan as planning
from autoseg.steps import promise, suited
from autoseg.steps.world import ALONE, World
from autoseg.store import Home, RunFolder, lock, save_record

if TYPE_CHECKING:
    from autoseg.steps.learner import Learner


def train(home: Home, plan: Plan, wish: Wish, voice: Voice, world: World = ALONE, *, parting: bool = True) -> RunFolder:
    """Preprocesses what is due, trains or resumes the run, predicts and scores its validation cases.

    Of a cascade the missing runs of the earlier stage are trained first. Where several processes train together the
    first one does all but the training; `parting`: they go on alone after that.
    """
    folder = home.run_folder(plan.task, plan.name, wish.configuration, wish.fold, wish.seed)
    wanted = led(world, tuple[Folds, list[Wish]], partial(_wanted, home, plan, wish, voice, world))
    world = world.sharing(plan.configurations[wish.configuration].batch)
    folds, due = wanted
    for before in due:
        train(home, plan, before, voice, world, parting=False)
    with ExitStack() as held:
        begin = partial(_ready, home, plan, wish, folds, folder, voice, held)
        cases, wish, run = led(world, tuple[FoldCases, Wish, Run | None], begin)
        trackers = held.enter_context(Trackers(wish, voice))
        _optimise(plan, wish, folder, cases, run, trackers, voice, world)
        if parting:
            world.part()
        if world.rank > 0:
            return folder
        if cases.held_out:
            known = None if cases.earlier is None else cases.earlier.files
            scores = prediction.validate(home, folder, cases.held_out, wish.device, wish.plugins, voice, known)
            _promise(folder, scores, voice)
        else:
            voice.say("no validation case in this fold: the model is trained but not scored")
        trackers.finish(folder)
    return folder


def _wanted(home: Home, plan: Plan, wish: Wish, voice: Voice, world: World) -> tuple[Folds, list[Wish]]:
    """The folds, and the runs that have to be trained first. Raises: BadUsage for what cannot be trained."""
    require(wish)
    configuration = planning.configuration_of(plan, wish.configuration)
    world.sharing(configuration.batch)
    world.device(wish.device)
    folds = folds_for(home, plan, wish)
    if digest(folds) != plan.folds and not home.corner:  # those of a corner are others by design
        voice.say(f"the folds are not those that plan {plan.name} was made with; those that are there now are used")
    return folds, cascade.missing(home, plan, wish, folds, voice)


def _ready(
    home: Home, plan: Plan, wish: Wish, folds: Folds, folder: RunFolder, voice: Voice, held: ExitStack
) -> tuple[FoldCases, Wish, Run | None]:
    """Locks the run; answers its cases, the wish (its model may have been moved) and the run, if it was begun."""
    held.enter_context(lock(folder.folder.parent / f".{folder.folder.name}"))
    model = None if wish.pretrained is None else finetuning.checkpoint_in(wish.pretrained)
    cases = cases_of(home, plan, wish, folds, voice, to_train=True)
    if wish.fresh and (aside := folder.set_aside()):
        voice.say(f"the earlier run was moved to {aside}")
        if model is not None and not model.exists():  # it was that run's
            wish = replace(wish, pretrained=aside / model.name)
    run = folder.run()
    if run is None:
        suited.require_one(plan, wish.configuration)
    return cases, wish, run


def _optimise(
    plan: Plan, wish: Wish, folder: RunFolder, cases: FoldCases, before: Run | None, trackers: Trackers, voice: Voice,
    world: World,
) -> None:  # fmt: skip
    """From wherever the run stands to its last step."""
    import torch

    from autoseg.steps import device as devices
    from autoseg.steps import train as step
    from autoseg.steps.early import looks
    from autoseg.steps.finetune import encoder_of
    from autoseg.steps.learner import build

    device = devices.choose(world.device(wish.device))
    if device.type != plan.target.device:
        voice.say(f"the plan was made for {plan.target.device}, this run trains on {device.type}")
    run = begun(plan, wish, cases, device, voice, world) if before is None else before
    led(world, None, partial(require_same, run, plan, wish, folder, cases))
    torch.set_num_threads(run.threads if world.size == 1 else min(run.threads, torch.get_num_threads()))
    learner = build(run.settings, run.question, run.seed, device, run.precision)
    learner.world = world
    batches = cases.batches(cases.training, run.settings, device, share=world.share)
    learner.chooser = batches.chooser
    if run.freeze is not None:
        learner.frozen, learner.frozen_until = encoder_of(learner.network), run.freeze_steps
    led(world, None, partial(_set_going, learner, run, wish, folder, trackers, voice))
    share_state(learner)
    last = run.settings.train.steps
    if world.rank > 0:
        deque(step.train(learner, batches, last), maxlen=0)
        return
    validation = cases.batches(cases.held_out, run.settings, device, augmented=False) if cases.held_out else None
    found = None if validation is None else looks(validation, run.settings, len(run.question.outputs), world.size)
    progress = step.train(learner, batches, last, validation, max(LOOKED, last // 100), found)
    shown = partial(cases.batches, cases.held_out or cases.training, run.settings, device, augmented=False)
    kept = recorded(progress, learner, run, folder, voice)
    followed = trackers.followed(kept, run, partial(drawn, learner, shown, run))
    for _ in voice.track(followed, last, f"{wish.configuration} fold {wish.fold}", learner.step):
        pass


def _promise(folder: RunFolder, scores: Scores, voice: Voice) -> None:
    """Says what the curve promises for twice the time, where that can be said."""
    run = folder.run()
    if run is None or scores.dice is None:
        return
    if (gained := promise.promised(folder.logged(), run.settings.train.steps, scores.dice)) is not None:
        voice.say(promise.sentence(scores.dice, gained))


def _set_going(learner: Learner, run: Run, wish: Wish, folder: RunFolder, trackers: Trackers, voice: Voice) -> None:
    """Gives the learner the state from which the run goes on, and writes down what a new one was started with."""
    if restore(learner, run, folder, voice) == 0 and wish.pretrained is not None:
        finetuning.begin_with(wish.pretrained, learner, run, voice)
    trackers.begin(run, folder, learner.step)
    if not folder.run_file.exists():
        save_record(folder.run_file, run)
