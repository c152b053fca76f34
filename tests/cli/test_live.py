"""The live line of a training: what matters is there, and it is never wider than the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from autoseg.cli import session
from autoseg.cli.session import Terminal
from autoseg.pipeline.recording import Live
from autoseg.steps.train import Progress

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HEART = ("left", "myocardium", "right")


def step(number: int = 1, seconds: float = 0.1, names: tuple[str, ...] = HEART, **more: object) -> Progress:
    dice = tuple(0.8 + 0.05 * n for n, _ in enumerate(names))
    return Progress(number, 0.5, 0.1, seconds, **({"skipped": 0, "dice": dice, "memory": 5_300_000_000} | more))


def lines(width: int, names: tuple[str, ...] = HEART, terminal: bool = True, **more: object) -> list[str]:
    """What is written while steps 201 and 202 of 1000 are done."""
    file = io.StringIO()
    voice, live = Terminal(Console(file=file, force_terminal=terminal, width=width, color_system=None)), Live()

    def steps() -> Iterator[int]:
        for number in (201, 202):
            voice.status(*live.parts(step(number, names=names, **more), names))
            yield number

    for _ in voice.track(steps(), 1000, "3d fold 0", 200):
        pass
    return [line for line in re.split(r"[\r\n]+", CONTROL.sub("", file.getvalue())) if line.strip()]


def test_all_of_it_where_there_is_room() -> None:
    shown = lines(140)[-1]
    assert re.fullmatch(
        r"3d fold 0 [━╸╺ ]+ 202/1000  loss 0\.500  (left \S+  )?Dice 0\.850  10\.0 steps/s  5\.3 GB"
        r"  left 0\.80 myocardium 0\.85 right 0\.90",
        shown.rstrip(),
    )


@pytest.mark.parametrize("width", [20, 30, 40, 60, 69, 70, 80, 100, 120])
@pytest.mark.parametrize("skipped", [0, 7])
def test_never_wider_than_the_terminal_and_the_least_important_goes_first(width: int, skipped: int) -> None:
    shown = lines(width, skipped=skipped)
    assert max(map(len, shown)) <= width
    order = ["202/1000", "loss 0.500", *(["7 skipped"] if skipped else []), "Dice 0.850", "10.0 steps/s", "5.3 GB"]
    there = [part in shown[-1] for part in order]
    assert there == sorted(there, reverse=True)
    assert width < 22 or there[0]
    assert width < 80 or "Dice 0.850" in shown[-1]


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "QUIET_SECONDS", 0.0)
    first, second = lines(200, terminal=False)
    for number, line in ((201, first), (202, second)):
        assert line.startswith(f"3d fold 0: {number}/1000, ")
        assert line.endswith("loss 0.500  Dice 0.850  10.0 steps/s  5.3 GB  left 0.80 myocardium 0.85 right 0.90")


def test_many_classes_are_told_by_their_mean_and_one_once() -> None:
    assert Live().parts(step(names=("a",)), ("a",)) == ["loss 0.500", "Dice 0.800", "10.0 steps/s", "5.3 GB"]
    four = ("a", "b", "c", "d")
    assert Live().parts(step(names=four), four) == ["loss 0.500", "Dice 0.875", "10.0 steps/s", "5.3 GB"]


def test_what_is_not_known_is_not_told_and_the_last_dice_stays() -> None:
    live = Live()
    first = live.parts(Progress(1, float("nan"), 0.1, 2.0, 1), HEART)
    assert first == ["loss –", "1 skipped", "2.0 s/step"]
    live.parts(step(2, dice=(0.5, None, 0.7)), HEART)
    later = live.parts(Progress(3, 0.5, 0.1, 2.0, 1), HEART)
    assert "Dice 0.600" in later and later[-1] == "left 0.50 myocardium – right 0.70"
