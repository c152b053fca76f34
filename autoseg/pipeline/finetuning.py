"""Beginning a run with the weights of another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.errors import BadUsage
from autoseg.pipeline.voice import Voice
from autoseg.records import Checkpoint, Run
from autoseg.store import RunFolder, load_tensors

if TYPE_CHECKING:
    from autoseg.steps.learner import Learner


def begin_with(model: Path, learner: Learner, run: Run, voice: Voice) -> None:
    """Gives the learner the weights of another run. Raises: BadUsage where none fits; BadFile for a damaged model."""
    from autoseg.steps.finetune import transfer
    from autoseg.steps.preprocess import inputs
    from autoseg.steps.weights import weights_of

    file = checkpoint_in(model)
    header, tensors = load_tensors(Checkpoint, file, wanted=lambda name: name.startswith(("network.", "average.")))
    both = header.run, run
    channels = [inputs(one.settings.normalise, one.question, one.settings.previous) for one in both]
    channels.append(inputs(run.settings.normalise, run.question))
    outputs, raters = [one.question.outputs for one in both], [one.question.raters for one in both]
    found = transfer(learner.network, weights_of(tensors), channels, outputs, raters)
    if content_of(model) != run.pretrained:
        raise BadUsage("changed while it was read", where=str(file), remedy="copy the model, or wait for its training")
    learner.begin_average()
    voice.say(f"beginning with {file}: {found.told}")


def content_of(model: Path) -> str:
    """A hash of the model's checkpoint. Raises: BadUsage where there is none."""
    with checkpoint_in(model).open("rb") as opened:
        total = hashlib.sha256()
        while block := opened.read(1 << 20):
            total.update(block)
    return total.hexdigest()[:16]


def require_same(run: Run, model: Path | None, folder: RunFolder) -> None:
    """Raises: BadUsage where a run that goes on began otherwise, or has still to begin with another model."""
    where, remedy = str(folder.folder), "--fresh starts anew and keeps the old run beside it"
    begun = folder.checkpoint_file.exists() or folder.checkpoint_before.exists()
    if begun and model is not None and run.pretrained is None:
        raise BadUsage("this run did not begin with a model", where=where, remedy=remedy)
    if not begun and run.pretrained != (None if model is None else content_of(model)):
        raise BadUsage("this run has no checkpoint yet and was to begin with another model", where=where, remedy=remedy)


def checkpoint_in(model: Path) -> Path:
    """The checkpoint of a run's folder, or the file itself. Raises: BadUsage where there is none."""
    folder = RunFolder(model)
    files = (folder.checkpoint_file, folder.checkpoint_before) if model.is_dir() else (model,)
    if not (found := [file for file in files if file.is_file()]):
        raise BadUsage("is no run", where=f"--pretrained {model}", expected="the folder of a run, or its checkpoint")
    return found[0]
