"""Commands that several processes run together: the run of one process, and an end for all where one fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.records import Checkpoint
from autoseg.store import Home, RunFolder, load_tensors

SETTINGS = {"network.features": "[4,8]", "network.strides": "[[1,1,1],[2,2,2]]", "network.depths": "[1,1]",
            "network.kernels": "[[3,3,3],[3,3,3]]", "network.decoder_depths": "[1]", "batch": 3, "patch": "[8,16,16]",
            "train.optimiser.name": "sgd", "train.precision": "float32"}  # fmt: skip
PLAN = [word for field, value in SETTINGS.items() for word in ("--set", f"3d.{field}={value}")]
OFTEN = "import autoseg.pipeline.recording as r; from autoseg.cli import main; r.SAVE_SECONDS = 0; main()"  # saves


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


def folder_of(home: Path, fold: int = 0) -> RunFolder:
    return Home(home).run_folder("Task01_Balls", "default", "3d", fold, 0)


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    said = [one.communicate(timeout=120)[1] for one in processes]
    return [(one.returncode, text) for one, text in zip(processes, said, strict=True)]


@pytest.fixture
def planned(balls_3d: Path) -> Path:
    """A home with a plan of batches of three, preprocessed."""
    told = run(balls_3d, "plan", "Task01", "--device", "cuda", "--memory", "8GB", *PLAN, "--set", "2d.batch=1")
    assert told.exit_code == 0, told.output
    assert run(balls_3d, "preprocess", "3d").exit_code == 0
    return balls_3d


def assert_same_state(one: RunFolder, other: RunFolder, atol: float) -> None:
    (first, tensors), (second, others) = (load_tensors(Checkpoint, folder.checkpoint_file) for folder in (one, other))
    assert first.run == second.run and first.step == second.step
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.allclose(value, others[name], atol=atol, rtol=1e-4), name


def losses(folder: RunFolder) -> list[float]:
    return [entry["loss"] for entry in folder.logged()]


def test_two_processes_of_torchrun_train_the_run_of_one(
    planned: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone = tmp_path_factory.mktemp("alone") / "home"
    shutil.copytree(planned, alone)
    words = ("train", "3d", "0", "--steps", "4", "--device", "cpu", "--json")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "autoseg")
    told = subprocess.run(
        [sys.executable, *torchrun, "--home", str(planned), *words], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["mean"]["ball"]["cases"] == 2  # once, and nothing beside it
    assert told.stderr.count("this run trains on cpu") == told.stderr.count("task Task01_Balls") == 1
    assert run(alone, *words).exit_code == 0
    assert_same_state(folder_of(planned), folder_of(alone), 1e-5)
    assert losses(folder_of(planned)) == pytest.approx(losses(folder_of(alone)), abs=2e-6)
    header = folder_of(planned).checkpoint()
    assert header is not None and header.processes == 2
    scored = [folder.scores() for folder in (folder_of(planned), folder_of(alone))]
    assert scored[0] is not None and scored[1] is not None
    assert scored[0].dice == pytest.approx(scored[1].dice, abs=0.01)


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_goes_on_with_two_or_one(
    planned: Path, tmp_path_factory: pytest.TempPathFactory, launch
) -> None:
    alone = tmp_path_factory.mktemp("alone") / "home"
    shutil.copytree(planned, alone)
    words = ("train", "3d", "0", "--steps", "30", "--device", "cpu")
    first, second = launch(2, "-c", OFTEN, "--home", str(planned), *words)
    until = time.monotonic() + 60
    while len(losses(folder_of(planned))) < 6 and time.monotonic() < until:
        time.sleep(0.02)
    second.kill()
    (code, said), _ = ends([first, second])
    assert code == 1 and "process 0 of 2 has lost the others" in said and "goes on" in said
    header = folder_of(planned).checkpoint()
    assert header is not None and 5 <= header.step < 30
    (code, said), other = ends(launch(2, "-c", OFTEN, "--home", str(planned), *words))
    assert code == 0 and f"resuming at step {header.step} of 30" in said and "so far" not in said
    assert other == (0, "")
    folder_of(planned).checkpoint_file.unlink()
    told = run(planned, *words)
    assert told.exit_code == 0 and "resuming at step 29 of 30" in told.stderr
    assert "trained with 2 processes so far, goes on with 1: equal to rounding, not to the bit" in told.stderr
    assert run(alone, *words).exit_code == 0
    assert_same_state(folder_of(planned), folder_of(alone), 1e-4)
    assert losses(folder_of(planned)) == pytest.approx(losses(folder_of(alone)), abs=1e-5)


@pytest.mark.slow
def test_two_processes_measure_a_budget_together(planned: Path, launch) -> None:
    told = ends(launch(2, "-m", "autoseg", "--home", str(planned), "train", "3d", "1", "--budget", "1s"))
    assert [code for code, _ in told] == [0, 0], told
    assert "measuring 12 steps" in told[0][1] and told[1][1] == ""
    folder = folder_of(planned, 1)
    record, header = folder.run(), folder.checkpoint()
    assert record is not None and record.budget == 1 and record.threads == 1
    assert header is not None and header.step == record.settings.train.steps == len(losses(folder))


@pytest.mark.parametrize(
    ("words", "message"),
    [(("2d", "0"), "2 processes cannot share a batch of 1"), (("3d", "0", "-p", "absent"), "absent")],
)
def test_what_is_refused_ends_all_with_one_message(planned: Path, words: tuple[str, ...], message: str, launch) -> None:
    told = ends(launch(2, "-m", "autoseg", "--home", str(planned), "train", *words, "--device", "cpu"))
    assert [code for code, _ in told] == [2, 2]
    assert message in told[0][1] and told[1][1] == ""
