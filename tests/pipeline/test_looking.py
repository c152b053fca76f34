"""What is drawn of a batch is what the network was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.steps import sheet, train
from autoseg.steps.learner import Learner
from autoseg.store import Home, RunFolder
from tests.conftest import stopped_at
from tests.pipeline.test_training import SMALL_PLAN

PLAN = [*SMALL_PLAN, "--set", "configurations.2d.batch=3"]


@pytest.fixture
def planned(balls_2d: Path) -> Path:
    """A home with a plan of a small network."""
    assert run(balls_2d, *PLAN).exit_code == 0
    return balls_2d


@pytest.fixture
def given_to_the_network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images and labels of every step that is trained from now on."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    learn = train.learn

    def watched(learner: Learner, images: torch.Tensor, labels: torch.Tensor, *more: Any) -> float:
        seen.append((images.numpy().copy(), labels.numpy().copy()))
        return learn(learner, images, labels, *more)

    monkeypatch.setattr(train, "learn", watched)
    return seen


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[list[sheet.Row]]:
    """The rows of every sheet that is drawn from now on."""
    seen: list[list[sheet.Row]] = []
    draw = sheet.draw

    def watched(file: Any, title: str, rows: list[sheet.Row], *more: Any) -> None:
        seen.append(rows)
        draw(file, title, rows, *more)

    monkeypatch.setattr(sheet, "draw", watched)
    return seen


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


def folder(home: Path, seed: int = 0) -> RunFolder:
    return Home(home).run_folder("Task02_Discs", "default", "2d", 0, seed)


def same(rows: list[sheet.Row], batch: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(
        np.array_equal(np.stack(part), whole)
        for part, whole in zip(([row.image for row in rows], [row.label for row in rows]), batch, strict=True)
    )


def test_what_is_drawn_is_what_the_network_was_given(
    planned: Path, given_to_the_network: list[tuple[np.ndarray, np.ndarray]], sheets: list[list[sheet.Row]]
) -> None:
    assert run(planned, "batch", "2d", "0", "--step", "1", "--seed", "4").exit_code == 0  # before there is a run
    assert not folder(planned, 4).folder.exists()
    assert run(planned, "train", "2d", "0", "--steps", "3", "--seed", "4").exit_code == 0
    assert len(given_to_the_network) == 3 and same(sheets[0], given_to_the_network[1])
    assert run(planned, *PLAN, "--set", "configurations.2d.spacing=[2,2]").exit_code == 0  # the run keeps its own
    told = run(planned, "batch", "2d", "0", "--step", "2", "--seed", "4")
    assert told.exit_code == 0 and same(sheets[1], given_to_the_network[2])
    assert not same(sheets[1], given_to_the_network[1])
    assert told.stdout.strip() == str(folder(planned, 4).batch_file(2))
    assert folder(planned, 4).batch_file(2).read_bytes().startswith(b"\x89PNG")
    assert [row.title.split(":")[0] in {f"disc_{n:02d}" for n in range(10)} for row in sheets[1]] == [True] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("2d", "0", "--step", "-1"), "there is no step -1; expected 0 to"),
        (("2d", "0", "--step", "99999999"), "there is no step 99999999; expected 0 to"),
        (("2d", "7", "--step", "0"), "there is no fold 7; expected 0 to 4, or all"),
        (("2d", "first", "--step", "0"), "'first' is no fold; expected 0 to 4, or all"),
        (("3d", "0", "--step", "0"), "there is no 3d configuration"),
        (("4d", "0", "--step", "0"), "no configuration '4d'"),
        (("2d", "0", "--step", "0", "-t", "Task99"), "no task begins with 'Task99'"),
        (("2d", "0", "--step", "0", "-p", "other"), "there is no such plan"),
        (("2d", "0", "--step", "0", "-o", "picture.jpg"), "expected a name that ends in .png"),
    ],
)
def test_what_cannot_be_drawn_is_told(planned: Path, words: tuple[str, ...], message: str) -> None:
    told = run(planned, "batch", *words)
    assert told.exit_code == 2 and message in told.stderr
    assert told.stderr.rstrip().splitlines()[-1].startswith("autoseg: ") and "Traceback" not in told.output
    assert not list((planned / "work").rglob("*.png")) and not (planned / "work" / "Task02_Discs" / "runs").exists()


def test_a_run_has_the_steps_that_it_was_started_with(planned: Path) -> None:
    assert run(planned, "train", "2d", "0", "--steps", "2").exit_code == 0
    told = run(planned, "batch", "2d", "0", "--step", "2")
    assert told.exit_code == 2 and "there is no step 2; expected 0 to 1" in told.stderr


def test_batches_of_a_run_whose_cases_are_gone_cannot_be_drawn(planned: Path) -> None:
    assert run(planned, "train", "2d", "0", "--steps", "2").exit_code == 0
    for file in (planned / "datasets" / "Task02_Discs").rglob("disc_03*"):
        file.unlink()
    told = run(planned, "batch", "2d", "0", "--step", "1")
    assert told.exit_code == 2 and "cases of this fold have changed" in told.stderr
    assert run(planned, "batch", "2d", "0", "--step", "1", "--seed", "1").exit_code == 0


def test_the_curves_of_a_run_are_drawn_and_go_on_when_it_does(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.pipeline import recording

    monkeypatch.setattr(recording, "SAVE_SECONDS", 0.0)
    with stopped_at(3):
        assert run(planned, "train", "2d", "0", "--steps", "5").exit_code == 130
    half = folder(planned).progress_file.read_text()
    assert "3 steps," in half
    assert run(planned, "train", "2d", "0", "--steps", "5").exit_code == 0
    whole = folder(planned).progress_file.read_text()
    assert "5 steps," in whole and "pseudo-Dice" in whole and "disc 0" in whole
    assert [entry["step"] for entry in folder(planned).logged()] == [1, 2, 3, 4, 5]


def test_where_cases_follow_the_losses_the_log_of_the_run_says_which_were_drawn(
    planned: Path, given_to_the_network: list[tuple[np.ndarray, np.ndarray]], sheets: list[list[sheet.Row]]
) -> None:
    hard = 'configurations.2d.train.sampling={"name": "hard", "options": {"every": 16, "ratio": 20.0}}'
    assert run(planned, *PLAN, "--set", hard).exit_code == 0
    told = run(planned, "batch", "2d", "0", "--step", "17")
    assert told.exit_code == 2 and "that of step 0 is not in the log" in told.stderr
    assert run(planned, "train", "2d", "0", "--steps", "40").exit_code == 0
    for step in (3, 16, 33):
        assert run(planned, "batch", "2d", "0", "--step", str(step)).exit_code == 0
        assert same(sheets[-1], given_to_the_network[step])
