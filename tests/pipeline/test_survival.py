"""What a run survives: full disks, a second process, folders and files that are not what they should be."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.records import Checkpoint
from autoseg.store import Home, RunFolder, load_tensors, lock
from tests.conftest import stopped_at
from tests.pipeline.test_training import PLAN

TASK = "Task02_Discs"


@pytest.fixture
def planned(balls_2d: Path) -> Path:
    """A home with a small plan."""
    assert run(balls_2d, *PLAN).exit_code == 0
    return balls_2d


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


def train(home: Path, *words: str) -> Result:
    return run(home, "train", "2d", "0", *words)


def folder(home: Path, plan: str = "default", seed: int = 0) -> RunFolder:
    return Home(home).run_folder(TASK, plan, "2d", 0, seed)


def weights(of: RunFolder) -> dict[str, Any]:
    return load_tensors(Checkpoint, of.checkpoint_file)[1]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def refused(told: Result, *words: str, code: int = 2) -> None:
    assert told.exit_code == code and "Traceback" not in told.output
    line = told.stderr.rstrip().splitlines()[-1]
    assert line.startswith("autoseg: ") and all(word in line for word in words), line


@pytest.mark.parametrize("late", [False, True])
def test_a_disk_that_fills_during_a_checkpoint_loses_nothing(
    planned: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    from autoseg.pipeline import recording

    assert train(planned, "--steps", "6", "--seed", "1").exit_code == 0
    monkeypatch.setattr(recording, "SAVE_SECONDS", 0.0)
    flushed, count = os.fsync, 0

    def full(file: int) -> None:
        nonlocal count
        name = str(Path(f"/proc/self/fd/{file}").readlink())
        count += "checkpoint" in name
        if "checkpoint" in name and count > (3 if late else 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        flushed(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        told = train(planned, "--steps", "6", "--seed", "0")
    refused(told, "the disk is full", code=1)
    there = folder(planned)
    assert not list(there.folder.glob("*next*")) and not list(there.folder.glob("*.part*"))
    if late:
        assert load_tensors(Checkpoint, there.checkpoint_file)[0].step == 3
    again = train(planned, "--steps", "6", "--seed", "0")
    assert again.exit_code == 0 and ("resuming at step 3" in again.stderr) == late
    assert train(planned, "--steps", "6", "--seed", "0", "--fresh").exit_code == 0
    assert same(weights(there), weights(RunFolder(there.folder.with_name("seed_0.old1"))))


def test_a_second_process_on_the_run_is_refused(planned: Path) -> None:
    there = folder(planned)
    with lock(there.folder.parent / f".{there.folder.name}"):
        refused(train(planned, "--steps", "2"), "another process")
    assert train(planned, "--steps", "2").exit_code == 0


def test_the_folder_of_another_plans_run_is_not_gone_on_with(planned: Path) -> None:
    assert run(planned, *PLAN, "--as", "other", "--loss", "ce").exit_code == 0
    assert train(planned, "--steps", "2", "-p", "other").exit_code == 0
    shutil.copytree(folder(planned, "other").folder, folder(planned).folder)
    refused(train(planned, "--steps", "2", "-p", "default"), "another plan", "--fresh")
    refused(train(planned, "-p", "default"), "another plan", "--fresh")


def test_a_checkpoint_of_another_run_is_not_gone_on_with(planned: Path) -> None:
    for seed in ("0", "1"):
        assert train(planned, "--steps", "2", "--seed", seed).exit_code == 0
    shutil.copy(folder(planned, seed=1).checkpoint_file, folder(planned).checkpoint_file)
    folder(planned).checkpoint_before.unlink(missing_ok=True)
    folder(planned).scores_file.unlink()
    refused(train(planned, "--steps", "2"), "is of another run", "--fresh")


def test_a_run_file_that_is_damaged_is_named(planned: Path) -> None:
    assert train(planned, "--steps", "2").exit_code == 0
    file = folder(planned).run_file
    whole = json.loads(file.read_text())
    for content in ("{", json.dumps({**whole, "stepss": 1}), json.dumps({**whole, "seed": "x"}), ""):
        file.write_text(content)
        refused(train(planned, "--steps", "2"), "run.json")


def test_missing_folds_are_told_with_the_remedy(planned: Path) -> None:
    Home(planned).folds_file(TASK).unlink()
    refused(train(planned, "--steps", "2"), "folds", "is missing", "autoseg plan")


@pytest.mark.parametrize("device", ["cuda:9", "tpu", "cpu:x", "cuda"])
def test_a_device_that_is_not_there_is_told(planned: Path, device: str) -> None:
    refused(train(planned, "--steps", "2", "--device", device), device.split(":")[0])
    assert not folder(planned).folder.exists()


def test_a_budget_too_short_for_a_look_is_said_and_trained(planned: Path) -> None:
    told = train(planned, "--budget", "0.1s")
    assert told.exit_code == 0 and "too short to look at validation cases" in told.stderr
    assert folder(planned).scores() is not None


def test_a_preprocessed_case_that_is_cut_short_is_made_anew(planned: Path) -> None:
    assert train(planned, "--steps", "2").exit_code == 0
    for file in sorted((planned / "work").rglob("disc_0[0-4].*"))[:15]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert train(planned, "--steps", "2", "--fresh").exit_code == 0
    assert same(weights(folder(planned)), weights(RunFolder(folder(planned).folder.with_name("seed_0.old1"))))


def test_a_stop_by_the_keyboard_goes_on_where_it_was(planned: Path) -> None:
    assert train(planned, "--steps", "5", "--seed", "0").exit_code == 0
    whole = weights(folder(planned))
    with stopped_at(4):
        assert train(planned, "--steps", "5", "--fresh").exit_code == 130
    assert train(planned, "--steps", "5").exit_code == 0
    assert same(weights(folder(planned)), whole)
