"""A run records the plug-ins that it needs, and asks for them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autoseg import parts
from autoseg.cli import main
from autoseg.plugins import LOADED
from autoseg.store import Home

TOPOLOGY = {"features": "[4,8]", "strides": "[[1,1],[2,2]]", "kernels": "[[3,3],[3,3]]",
            "depths": "[1,1]", "decoder_depths": "[1]"}  # fmt: skip
SMALL = [word for field, value in TOPOLOGY.items() for word in ("--set", f"configurations.2d.network.{field}={value}")]
PLAN = ["plan", "Task02", "--device", "cuda", "--memory", "8GB", *SMALL, "--set", "configurations.2d.batch=2"]
LOSS = '''
from autoseg.losses import cross_entropy
from autoseg.parts import LOSSES

@LOSSES.add("NAME")
def mine(first):
    """Cross-entropy of my own."""
    return cross_entropy(first)
'''


def run(home: Path, *words: str) -> Result:
    """As a process of its own would run it: what earlier ones loaded is forgotten."""
    for table in parts.TABLES.values():
        for name in table.added:
            table.take_back(name)
    LOADED.clear()
    for module in ("of_package", "of_another"):
        sys.modules.pop(module, None)
    return CliRunner().invoke(main, ["--home", str(home), *words], catch_exceptions=False)


def test_a_run_asks_for_the_file_and_the_package_that_it_was_trained_with(
    balls_2d: Path, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("my-package", {"of_package.py": LOSS.replace("NAME", "packed")}, "of_package", version="3.4")
    install("another", {"of_another.py": LOSS.replace("NAME", "unused")}, "of_another")
    file = balls_2d / "my_file.py"
    file.write_text(LOSS.replace("NAME", "filed"))
    plugin = ("--plugin", str(file))
    assert run(balls_2d, *plugin, *PLAN, "--loss", "packed+0.5*filed").exit_code == 0
    train = ("train", "2d", "0", "--steps", "2")
    assert run(balls_2d, *plugin, *train).exit_code == 0
    record = Home(balls_2d).run_folder("Task02_Discs", "default", "2d", 0, 0).run()
    assert record is not None and set(record.plugins) == {"my_file.py", "my-package==3.4"}

    predict = ("predict", "-i", str(balls_2d / "datasets" / "Task02_Discs" / "imagesTr"), "-o", str(balls_2d / "out"))
    for words in (train, predict):
        assert run(balls_2d, *plugin, *words).exit_code == 0
        told = run(balls_2d, *words)
        assert told.exit_code == 2 and "--plugin my_file.py" in told.stderr
    source = folder / "of_package.py"
    source.write_text(source.read_text() + "# changed\n")
    for words in (train, predict):
        told = run(balls_2d, *plugin, *words)
        assert told.exit_code == 2 and "my-package==3.4 has other contents" in told.stderr
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(folder)])
    for words in (train, predict):
        told = run(balls_2d, *plugin, *words)
        assert told.exit_code == 2 and "pip install my-package==3.4" in told.stderr
