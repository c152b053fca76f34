"""A task whose cases have the labels of two raters, from its files to the scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from skimage.io import imread, imsave

from autoseg.cli import main
from autoseg.store import Home


def run(home: Path, *words: str):
    return CliRunner().invoke(main, ["--home", str(home), *words])


@pytest.fixture
def rated(balls_2d: Path) -> Path:
    """Task02_Discs, with labels of a second rater for all cases but two."""
    folder = balls_2d / "datasets" / "Task02_Discs"
    training = []
    for number in range(10):
        name = f"disc_{number:02d}.png"
        label: object = f"labelsTr/{name}"
        if number > 1:
            drawn = imread(folder / "labelsTr" / name)
            (folder / "labels2").mkdir(exist_ok=True)
            imsave(folder / "labels2" / name, np.roll(drawn, 2, 0), check_contrast=False)
            label = {"first": label, "second": f"labels2/{name}"}
        else:
            label = {"first": label}
        training.append({"image": f"imagesTr/disc_{number:02d}_0000.png", "label": label})
    task = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "disc": 255}, "training": training}
    (folder / "dataset.json").write_text(json.dumps(task))
    return balls_2d


def test_two_raters_from_plan_to_prediction(rated: Path) -> None:
    planned = run(rated, "plan", "Task02", "--memory", "200MB")
    assert planned.exit_code == 0, planned.output
    plan = Home(rated).plan("Task02_Discs", "default")
    assert plan.question.raters == ("first", "second")
    assert [one.text for one in plan.configurations["2d"].network.inserts] == ["rater(raters=2)@head"]
    trained = run(rated, "train", "2d", "0", "--steps", "3", "--json")
    assert trained.exit_code == 0, trained.output
    assert run(rated, "batch", "2d", "0", "--step", "1").exit_code == 0
    assert (
        run(
            rated, "train", "2d", "1", "--steps", "2", "--pretrained", str(next(rated.rglob("fold_0/seed_0")))
        ).exit_code
        == 0
    )
    source = rated / "datasets" / "Task02_Discs" / "imagesTr" / "disc_00_0000.png"
    told = run(rated, "predict", "-i", str(source), "-o", str(rated / "out"))
    assert told.exit_code == 0 and imread(rated / "out" / "disc_00.png").shape == (32, 32)


def test_a_second_raters_label_that_does_not_fit_is_a_fault_of_its_case(rated: Path) -> None:
    folder = rated / "datasets" / "Task02_Discs" / "labels2"
    imsave(folder / "disc_04.png", np.zeros((16, 16), np.uint8), check_contrast=False)
    imsave(folder / "disc_05.png", np.full((32, 32), 77, np.uint8), check_contrast=False)
    (folder / "disc_06.png").write_bytes(b"no picture")
    told = run(rated, "check", "Task02", "--json")
    assert told.exit_code == 2
    faults = {one["case"]: one for one in json.loads(told.stdout) if one["fatal"]}
    assert set(faults) == {"disc_04", "disc_05", "disc_06"}
    assert faults["disc_05"]["detail"].startswith("label of second:") and "77" in faults["disc_05"]["detail"]
