"""Which labels are doubted, by whom, and how that is shown."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from autoseg.errors import BadUsage
from autoseg.pipeline.suspects import draw, suspects
from autoseg.pipeline.voice import Silent
from autoseg.store import Home
from tests.pipeline.conftest import PLAN, TASK
from tests.pipeline.test_reporting import read
from tests.pipeline.test_scoring import Listening
from tests.test_story import teller

pytestmark = pytest.mark.xdist_group("crossed")  # one worker trains what all of these look at


@pytest.mark.parametrize("titles", [("2d",), ("3d",), ("2d", "3d"), ("3d", "2d")])
def test_every_case_is_ranked_by_the_doubt_of_what_predicted_it(crossed: Path, titles: tuple[str, ...]) -> None:
    home = Home(crossed)
    found = suspects(home, home.plan(TASK, PLAN), titles, 0, Silent())
    assert len(found) == 10 and sorted(one.fold for one in found) == [0] * 5 + [1] * 5
    usual = statistics.median(one.certainty.above for one in found)
    for one in found:
        assert one.doubt == one.certainty.weight / max(one.certainty.above, usual)
        place = one.label.relative_to(crossed / "work" / TASK).parts
        assert place[:3] == (("ensembles", PLAN, "2d+3d") if len(titles) == 2 else ("runs", PLAN, *titles))
    assert [one.doubt for one in found] == sorted((one.doubt for one in found), reverse=True)


def test_the_model_that_was_chosen_is_asked(copy: Path) -> None:
    home = Home(copy)
    file = home.choice_file(TASK, PLAN)
    choice = json.loads(file.read_text())
    file.write_text(json.dumps({**choice, "configurations": ["2d", "3d"]}))
    told = teller(copy)("suspects", "-t", "Task01", "--json")
    wanted = suspects(home, home.plan(TASK, PLAN), ("2d", "3d"), 0, Silent())
    assert [one["case"] for one in json.loads(told.stdout)] == [one.files.id for one in wanted]
    file.unlink()
    told = teller(copy)("suspects", "-t", "Task01", "--count", "3")
    assert "validation Dice" in told.stderr and "2d + 3d" not in told.stdout


@pytest.mark.parametrize("titles", [("2d",), ("2d", "3d")])
def test_cases_that_have_changed_are_left_out_and_the_others_are_drawn(copy: Path, titles: tuple[str, ...]) -> None:
    home, voice = Home(copy), Listening()
    label = copy / "datasets" / TASK / "labelsTr" / "ball_03.nii.gz"
    label.write_bytes((label.parent / "ball_04.nii.gz").read_bytes())
    teller(copy)("check", "Task01")  # who corrects a label measures it again
    found = suspects(home, home.plan(TASK, PLAN), titles, 0, voice)
    assert len(found) == 9 and any("1 cases have changed" in line and "ball_03" in line for line in voice.heard)
    text, page = read(draw(home, home.plan(TASK, PLAN), " + ".join(titles), found, Silent()))
    assert page.faults == [] and text.count('class="case"') == 9


def test_what_was_not_trained_or_not_compared_is_told(copy: Path) -> None:
    home = Home(copy)
    with pytest.raises(BadUsage, match="no finished run of 4d"):
        suspects(home, home.plan(TASK, PLAN), ("4d",), 0, Silent())
    with pytest.raises(BadUsage, match=r"2d \+ 4d was not compared.*autoseg choose"):
        suspects(home, home.plan(TASK, PLAN), ("2d", "4d"), 0, Silent())
    with pytest.raises(BadUsage, match="was not compared"):
        suspects(home, home.plan(TASK, PLAN), ("2d", "3d"), 5, Silent())
    told = teller(copy)("suspects", "-t", "Task01", "--config", " 3d, 3d,", "--json")
    assert len(json.loads(told.stdout)) == 10
    home.choice_file(TASK, PLAN).unlink()
    with pytest.raises(BadUsage, match="was not compared"):
        suspects(home, home.plan(TASK, PLAN), ("2d", "3d"), 0, Silent())
