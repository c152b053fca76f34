"""What ways of predicting cost and bring is measured on the cases that were held out, and on no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import BadUsage
from autoseg.pipeline import pricing
from autoseg.pipeline.voice import Silent
from autoseg.store import Home
from tests.test_story import teller


def test_every_way_is_measured_on_the_cases_that_were_held_out(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    say("train", "2d", "0", "--steps", "3")
    home = Home(balls_2d)
    (run,) = home.runs("Task02_Discs", "default")
    rows = pricing.price(home, home.plan("Task02_Discs", "default"), "cpu", {}, Silent())
    assert [row.way for row in rows][:2] == ["--step 0.5", "--step 0.5 --no-mirror"] and len(rows) == len(pricing.WAYS)
    scores = run.scores()
    assert scores is not None and rows[0].cases == len(scores.cases) and all(row.seconds > 0 for row in rows)
    assert rows[0].dice == pytest.approx(scores.dice)  # the way in which a run's validation cases are predicted
    told = say("predict", "--price")
    assert "held-out cases" in told.stdout and "--scales 0.75,1,1.25" in told.stdout


def test_a_run_that_held_nothing_out_has_no_price(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    say("train", "2d", "all", "--steps", "1")
    home = Home(balls_2d)
    with pytest.raises(BadUsage, match="no finished run held cases out"):
        pricing.price(home, home.plan("Task02_Discs", "default"), "cpu", {}, Silent())


def test_every_depth_of_a_nested_network_is_measured(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02", "--network", "unetpp")
    say("train", "2d", "0", "--steps", "3")
    home = Home(balls_2d)
    (run,) = home.runs("Task02_Discs", "default")
    rows = pricing.of_depths(home, [run], "cpu", {}, Silent())
    deepest = len(home.plan("Task02_Discs", "default").configurations["2d"].network.features) - 1
    assert [row.depth for row in rows] == [*range(1, deepest + 1), None] and all(row.seconds > 0 for row in rows)
    scores = run.scores()
    assert scores is not None and rows[-1].dice == pytest.approx(scores.dice)


def test_a_plain_network_has_no_depths(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    say("train", "2d", "0", "--steps", "1")
    home = Home(balls_2d)
    assert pricing.of_depths(home, home.runs("Task02_Discs", "default"), "cpu", {}, Silent()) == []
