"""The demo goes through every stage, and says so when the network has not learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from autoseg.cli import main
from autoseg.store import Home


def demo(home: Path, kind: str, budget: str):
    return CliRunner().invoke(main, ["--home", str(home), "demo", kind, "--budget", budget], catch_exceptions=False)


def test_too_little_training_goes_through_every_stage_and_fails_at_the_end(home: Path) -> None:
    told = demo(home, "aerial", "1s")
    assert told.exit_code == 1 and "mean Dice on images the network never saw" in told.stderr
    commands = [line.split()[2] for line in told.stderr.splitlines() if line.startswith("$ autoseg ")]
    assert commands == ["check", "plan", "preprocess", "train", "predict", "evaluate"]
    assert len(list((home / "work" / "Task91_DemoAerial" / "demo" / "predictions").glob("*.tif"))) == 3
    (trained,) = Home(home).runs("Task91_DemoAerial", "default")
    assert trained.ended()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["medical", "aerial"])
def test_the_demo_passes(home: Path, kind: str) -> None:
    assert demo(home, kind, "100s").exit_code == 0
