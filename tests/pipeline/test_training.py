"""Runs that meet damage, lost cases and changed plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.records import Checkpoint
from autoseg.steps.learner import build
from autoseg.store import Home, RunFolder, load_tensors, save_tensors

TOPOLOGY = {"features": "[4,8]", "strides": "[[1,1],[2,2]]", "kernels": "[[3,3],[3,3]]",
            "depths": "[1,1]", "decoder_depths": "[1]"}  # fmt: skip
SMALL = [word for field, value in TOPOLOGY.items() for word in ("--set", f"configurations.2d.network.{field}={value}")]
SMALL_PLAN = ["plan", "Task02", "--device", "cuda", "--memory", "8GB", *SMALL]
PLAN = [*SMALL_PLAN, "--set", "configurations.2d.batch=2"]


@pytest.fixture
def trained(balls_2d: Path) -> Path:
    """A home with fold 0 trained for two steps."""
    assert run(balls_2d, *PLAN).exit_code == 0
    assert run(balls_2d, "train", "2d", "0", "--steps", "2").exit_code == 0
    return balls_2d


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


def lose_a_case(home: Path) -> None:
    folder = home / "datasets" / "Task02_Discs"
    for file in (folder / "imagesTr" / "disc_03_0000.png", folder / "labelsTr" / "disc_03.png"):
        file.unlink()


def test_a_damaged_checkpoint_is_told_with_the_remedy(trained: Path) -> None:
    folder = Home(trained).run_folder("Task02_Discs", "default", "2d", 0, 0)
    file = folder.checkpoint_file
    folder.checkpoint_before.unlink(missing_ok=True)
    header, tensors = load_tensors(Checkpoint, file)
    whole = file.read_bytes()
    save_tensors(file, {**tensors, "optimiser.x": torch.ones(1)}, header)
    strange = file.read_bytes()
    for content in (whole[: len(whole) // 2], strange):
        file.write_bytes(content)
        told = run(trained, "train", "2d", "0", "--steps", "2")
        assert told.exit_code == 2 and "checkpoint.safetensors" in told.stderr and "--fresh" in told.stderr


@pytest.mark.parametrize("damage", ["cut short", "a changed byte", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(trained: Path, damage: str) -> None:
    folder = Home(trained).run_folder("Task02_Discs", "default", "2d", 0, 0)
    record = folder.run()
    header, tensors = load_tensors(Checkpoint, folder.checkpoint_file)
    tensors = {name: value.clone() for name, value in tensors.items()}  # they lie in the file, which is damaged below
    assert record is not None and header.step == 2
    learner = build(record.settings, record.question, 0, torch.device("cpu"), record.precision)
    save_tensors(folder.checkpoint_before, learner.tensors(), header.model_copy(update={"step": 0}))
    content = bytearray(folder.checkpoint_file.read_bytes())
    content[-5] ^= 1
    if damage == "gone":
        folder.checkpoint_file.unlink()
    else:
        folder.checkpoint_file.write_bytes(content if damage == "a changed byte" else content[:-100])
    told = run(trained, "train", "2d", "0", "--steps", "2")
    assert told.exit_code == 0 and "resuming at step 0 of 2" in told.stderr
    assert ("going on from the one before it" in told.stderr) == (damage != "gone")
    again = load_tensors(Checkpoint, folder.checkpoint_file)[1]
    assert all(torch.equal(again[name], value) for name, value in tensors.items())


def test_folds_of_different_plans_are_not_one_model(trained: Path) -> None:
    assert run(trained, *PLAN, "--set", "configurations.2d.spacing=[2,2]").exit_code == 0
    assert run(trained, "train", "2d", "1", "--steps", "2").exit_code == 0
    words = ("predict", "-i", str(trained / "datasets" / "Task02_Discs" / "imagesTr"), "-o", str(trained / "out"))
    told = run(trained, *words)
    assert told.exit_code == 2 and "folds 0 and 1 were trained with different plans" in told.stderr
    assert run(trained, *words, "--folds", "1").exit_code == 0


def test_a_run_whose_cases_are_gone_is_not_resumed(trained: Path) -> None:
    lose_a_case(trained)
    told = run(trained, "train", "2d", "0", "--steps", "2")
    assert told.exit_code == 2 and "cases of this fold have changed" in told.stderr and "disc_03" in told.stderr
    again = run(trained, "train", "2d", "0", "--steps", "2", "--fresh")
    assert again.exit_code == 0 and "the task no longer has: disc_03" in again.stderr
    record = Home(trained).run_folder("Task02_Discs", "default", "2d", 0, 0).run()
    assert record is not None and record.skipped == ("disc_03",)


def test_a_single_case_is_told_how_to_train(balls_2d: Path) -> None:
    file = balls_2d / "datasets" / "Task02_Discs" / "dataset.json"
    entry = {"images": ["imagesTr/disc_00_0000.png"], "label": "labelsTr/disc_00.png"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": {"only": entry}}))
    assert run(balls_2d, *PLAN).exit_code == 0
    told = run(balls_2d, "train", "2d", "0", "--steps", "2")
    assert told.exit_code == 2 and "autoseg train 2d all" in told.stderr


def test_a_run_begins_with_another_and_goes_on_from_its_own_checkpoint(trained: Path) -> None:
    model = Home(trained).run_folder("Task02_Discs", "default", "2d", 0, 0).folder
    words = ("train", "2d", "1", "--steps", "2", "--freeze", "encoder", "--freeze-steps", "2")
    told = run(trained, *words, "--pretrained", str(model))
    assert told.exit_code == 0 and "tensors taken" in told.stderr
    begun = Home(trained).run_folder("Task02_Discs", "default", "2d", 1, 0)
    first, second = (load_tensors(Checkpoint, folder.checkpoint_file)[1] for folder in (RunFolder(model), begun))
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("network.encoder."))
    assert not all(torch.equal(first[name], second[name]) for name in first if name.startswith("network.decoder."))
    record = begun.run()
    assert record is not None and (record.freeze, record.freeze_steps) == ("encoder", 2) and record.pretrained
    assert run(trained, "train", "2d", "1", "--steps", "2").exit_code == 0  # it needs the model no more
    frozen = run(trained, *words[:-1], "1")
    assert frozen.exit_code == 2 and "another --freeze" in frozen.stderr
    begun.checkpoint_file.unlink()
    begun.checkpoint_before.unlink(missing_ok=True)
    again = run(trained, "train", "2d", "1", "--steps", "2")
    assert again.exit_code == 2 and "was to begin with another model" in again.stderr
    assert run(trained, *words, "--pretrained", str(model)).exit_code == 0


def test_what_is_no_model_begins_no_run(trained: Path) -> None:
    nothing = trained / "nothing.safetensors"
    for content, said in ((None, "is no run"), (b"x" * 50, "cannot be read")):
        if content is not None:
            nothing.write_bytes(content)
        told = run(trained, "train", "2d", "1", "--steps", "2", "--pretrained", str(nothing))
        assert told.exit_code == 2 and said in told.stderr
    assert Home(trained).run_folder("Task02_Discs", "default", "2d", 1, 0).run() is None
    assert run(trained, "train", "2d", "1", "--freeze", "encoder").exit_code == 2


def test_a_run_begins_anew_with_itself_and_nothing_is_moved_for_a_model_that_is_not_there(trained: Path) -> None:
    folder = Home(trained).run_folder("Task02_Discs", "default", "2d", 0, 0)
    words = ("train", "2d", "0", "--steps", "2", "--fresh", "--pretrained")
    assert run(trained, *words, str(trained / "nothing")).exit_code == 2 and folder.checkpoint_file.exists()
    told = run(trained, *words, str(folder.folder))
    assert told.exit_code == 0 and "moved to" in told.stderr and "tensors taken" in told.stderr
    plain = run(trained, "train", "2d", "1", "--steps", "1")
    assert plain.exit_code == 0
    late = run(trained, "train", "2d", "1", "--steps", "1", "--pretrained", str(folder.folder))
    assert late.exit_code == 2 and "did not begin with a model" in late.stderr
