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
    from autoseg.steps.train import Learner


def begin_with(model: Path, learner: Learner, run: Run, voice: Voice) -> None:
    """Gives the learner the weights of another run. Raises: BadUsage where none fits; BadFile for a damaged model."""
    from autoseg.steps.finetune import transfer
    from autoseg.steps.train import weights_of

    file = _checkpoint_in(model)
    header, tensors = load_tensors(Checkpoint, file, wanted=lambda name: name.startswith(("network.", "average.")))
    found = transfer(learner.network, weights_of(tensors), header.run.question.outputs, run.question.outputs)
    learner.begin_average()
    voice.say(f"beginning with {file}: {found.told}")


def content_of(model: Path) -> str:
    """A hash of the model's checkpoint. Raises: BadUsage where there is none."""
    with _checkpoint_in(model).open("rb") as opened:
        total = hashlib.sha256()
        while block := opened.read(1 << 20):
            total.update(block)
    return total.hexdigest()[:16]


def require_same(run: Run, model: Path | None, folder: RunFolder) -> None:
    """Raises: BadUsage where a run that goes on began with another model, or has still to begin with one."""
    where, remedy = str(folder.folder), "--fresh starts anew and keeps the old run beside it"
    if model is not None and content_of(model) != run.pretrained:
        raise BadUsage("this run did not begin with that model", where=where, remedy=remedy)
    unbegun = not (folder.checkpoint_file.exists() or folder.checkpoint_before.exists())
    if model is None and run.pretrained is not None and unbegun:
        raise BadUsage("this run has no checkpoint yet and begins with a model", where=where, remedy="name it again")


def _checkpoint_in(model: Path) -> Path:
    file = RunFolder(model).checkpoint_file if model.is_dir() else model
    if not file.is_file():
        raise BadUsage("is no run", where=f"--pretrained {model}", expected="the folder of a run, or its checkpoint")
    return file
