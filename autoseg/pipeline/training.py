"""Training a run from its plan to the scores of its fold."""

from __future__ import annotations

from dataclasses import replace

from autoseg.errors import BadUsage
from autoseg.pipeline import finetuning, prediction
from autoseg.pipeline.beginning import begun, require_same, restore
from autoseg.pipeline.fold_cases import FoldCases, Wish, cases_of, folds_for
from autoseg.pipeline.recording import recorded
from autoseg.pipeline.voice import Voice
from autoseg.records import Plan, digest
from autoseg.steps import plan as planning
from autoseg.store import Home, RunFolder, lock, save_record


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
    run = begun(plan, wish, cases, device, voice) if before is None else before
    require_same(run, plan, wish, folder, cases)
    torch.set_num_threads(run.threads)
    learner = step.build(run.settings, run.question, run.seed, device, run.precision)
    if run.freeze is not None:
        learner.frozen, learner.frozen_until = encoder_of(learner.network), run.freeze_steps
    if restore(learner, run, folder, voice) == 0 and wish.pretrained is not None:
        finetuning.begin_with(wish.pretrained, learner, run, voice)
    if before is None:
        save_record(folder.run_file, run)
    last = run.settings.train.steps
    validation = cases.batches(cases.held_out, run.settings, device, augmented=False) if cases.held_out else None
    batches = cases.batches(cases.training, run.settings, device)
    progress = step.train(learner, batches, last, validation, every=max(50, last // 100))
    label = f"training {wish.configuration} fold {wish.fold}"
    for _ in voice.track(recorded(progress, learner, run, folder, voice), last, label, learner.step):
        pass
