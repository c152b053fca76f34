"""Sites left out, beside the task's own folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoseg.pipeline.sites import _row, compared
from autoseg.records import Measures
from autoseg.store import Home
from tests.test_story import teller

TASK = "Task06_Sites"


@pytest.fixture
def sited(balls_3d: Path) -> Path:
    """A home with ten volumes of two sites, and a plan with two folds that mix them."""
    say, images = teller(balls_3d), balls_3d / "datasets" / "Task01_Balls"
    rows = "".join(f"ball_{number:02d},{'north' if number < 4 else 'south'}\n" for number in range(10))
    (balls_3d / "sites.csv").write_text(f"case,site\n{rows}")
    say("add", TASK, "--images", f"{images}/imagesTr/*.nii.gz", "--labels", f"{images}/labelsTr/*.nii.gz",
        "--sites", f"{balls_3d}/sites.csv:site")  # fmt: skip
    say("plan", TASK, "--folds", "2")
    return balls_3d


def test_networks_that_had_seen_nothing_of_a_site_stand_beside_the_others(sited: Path) -> None:
    say, home = teller(sited), Home(sited)
    told = say("crossval", "3d", "--leave-site-out", "--steps", "6", "--device", "cpu", "--json")
    alone = json.loads(told.stdout)
    assert "folds are not those" not in told.stderr  # they are meant to be others
    assert [(one["site"], one["cases"], one["seen"]) for one in alone] == [("north", 4, None), ("south", 6, None)]
    before = home.folds(TASK)
    say("crossval", "3d", "--steps", "6", "--device", "cpu")
    assert home.folds(TASK) == before and before is not None and len(before.folds) == 2
    both = say("crossval", "3d", "--leave-site-out", "--steps", "6", "--device", "cpu")
    assert "Dice, site left out" in both.stdout and "–" not in both.stdout
    for one in compared(home, home.plan(TASK, "default"), 0):
        assert one.unseen is not None and one.seen is not None and one.apart == pytest.approx(one.unseen - one.seen)
        assert one.within is not None and one.within[0] <= one.unseen <= one.within[1]
        assert one.apart_within is not None and one.apart_within[0] <= one.apart <= one.apart_within[1]
    run = Home(sited, "sites").run_folder(TASK, "default", "3d", 0, 0)
    scores = run.scores()
    assert scores is not None and set(scores.cases) == {f"ball_{number:02d}" for number in range(4)}
    assert len(home.runs(TASK, "default")) == 2  # predict takes none of the site's
    say("report")
    assert "Sites left out" in home.report_file(TASK, "default").read_text("utf-8")


def test_a_class_that_one_side_alone_invents_counts_in_the_difference() -> None:
    def rows(values: Sequence[float | None]) -> list[dict[str, Measures]]:
        counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives", "true_negatives"), 1)
        empty = dict.fromkeys(("iou", "precision", "recall", "specificity", "accuracy"))
        volumes = {"volume_prediction": 1.0, "volume_reference": 1.0}
        return [{"a": Measures(dice=value, **empty, **counts, **volumes)} for value in values]

    row = _row("2d", "x", rows([0.8, 0.7, 0, 0]), rows([0.8, 0.7, None, None]), "abcd")
    assert (row.unseen, row.seen, row.apart) == (0.375, 0.75, -0.375)
    assert row.apart_within is not None and row.apart_within[0] < -0.375 < row.apart_within[1]
    alone = _row("2d", "x", rows([0.8, 0.7]), rows([0.8, 0.6]), "aa")
    assert alone.within is alone.apart_within is None and alone.apart == pytest.approx(0.05)


def test_a_task_without_sites_is_told_so(balls_3d: Path) -> None:
    say = teller(balls_3d)
    say("plan", "Task01")
    assert "have no site" in say("crossval", "3d", "--leave-site-out", "--steps", "2", ends=2).stderr
