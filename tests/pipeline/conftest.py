"""A task that was cross-validated, for what comes after that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import write_balls
from tests.test_story import teller

TASK, PLAN = "Task01_Balls", "default"


@pytest.fixture(scope="session")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two folds of two configurations trained for a few steps, and a choice."""
    home = write_balls(tmp_path_factory.mktemp("home"))
    torch.set_num_threads(1)
    cases = [f"ball_{number:02d}" for number in range(10)]
    parts = [{"train": cases[5:], "val": cases[:5]}, {"train": cases[:5], "val": cases[5:]}]
    (home / "splits.json").write_text(json.dumps(parts))
    say = teller(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoseg.pipeline.clock.Clock._measured", lambda *_: 0.1)
        say("plan", "Task01", "--splits", str(home / "splits.json"))
        told = say("crossval", "--steps", "12", "--device", "cpu", "--json")
    (home / "told").write_text(told.stderr)
    (home / "choice.json").write_text(told.stdout)
    return home


@pytest.fixture
def copy(crossed: Path, tmp_path: Path) -> Iterator[Path]:
    """A home like it, to be changed."""
    shutil.copytree(crossed, tmp_path / "copy")
    yield tmp_path / "copy"
