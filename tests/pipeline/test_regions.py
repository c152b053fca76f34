"""Regions that overlap, from the label files through training to the scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.io import imread, imsave

from autoseg.arrays.resample import resample_regions
from autoseg.cli import main
from autoseg.records import Channel, Fingerprint, Question, Scores, parse
from autoseg.steps.cases import index_of, to_indices, to_values
from autoseg.store import Home

CHANGES = {
    "network.features": "[8,16]",
    "network.strides": "[[1,1],[2,2]]",
    "network.kernels": "[[3,3],[3,3]]",
    "network.depths": "[1,1]",
    "network.decoder_depths": "[1]",
    "batch": "4",
    "train.augment": "[]",
    "train.optimiser": '{"name":"adamw","options":{"rate":0.02}}',
}
SMALL = [word for field, value in CHANGES.items() for word in ("--set", f"configurations.2d.{field}={value}")]
PLAN = ["plan", "Task03", "--device", "cuda", "--memory", "8GB", *SMALL]
LABELS = {"background": 0, "whole": [1, 2, 4], "core": [2, 4], "enhancing": 4, "ignore": 9}
VALUES = [0, 1, 2, 4]


def run(home: Path, *words: str) -> Result:
    done = CliRunner().invoke(main, ["--home", str(home), *words])
    assert done.exit_code == 0, done.output
    return done


def scores_in(file: Path) -> Scores:
    return parse(Scores, file.read_text(), str(file))


@pytest.fixture
def rings(home: Path) -> Path:
    """A home with the task Task03_Rings: ten PNGs of 32×32 pixels, discs in discs in discs, a corner to be ignored."""
    folder, rng = home / "datasets" / "Task03_Rings", np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(10):
        centre = rng.uniform(13, 19, 2)
        distance = np.hypot(*(axis - c for axis, c in zip(np.indices((32, 32)), centre, strict=True)))
        label = np.select([distance < 4, distance < 7, distance < 11], [4, 2, 1], 0).astype(np.uint8)
        image = 30 + 25 * label + rng.normal(0, 8, label.shape)
        label[:3, :3] = 9
        imsave(folder / f"imagesTr/r{number}_0000.png", image.clip(0, 255).astype(np.uint8), check_contrast=False)
        imsave(folder / f"labelsTr/r{number}.png", label, check_contrast=False)
    task = {"channel_names": {"0": "grey"}, "labels": LABELS, "regions_class_order": [1, 2, 4], "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(task))
    return home


def test_nested_regions_are_trained_predicted_and_scored(rings: Path) -> None:
    run(rings, "check", "Task03")
    run(rings, *PLAN)
    run(rings, "train", "2d", "0", "--steps", "60")
    folder = Home(rings).run_folder("Task03_Rings", "default", "2d", 0, 0)
    scores = folder.scores()
    assert scores is not None and list(scores.mean) == ["whole", "core", "enhancing"]
    assert all(mean.dice is not None and mean.dice > 0.8 for mean in scores.mean.values())
    last = json.loads((folder.folder / "log.jsonl").read_text().splitlines()[-1])
    assert list(last["pseudo_dice"]) == ["whole", "core", "enhancing"] and min(last["pseudo_dice"].values()) > 0.8
    measured = parse(Fingerprint, Home(rings).fingerprint_file("Task03_Rings").read_text(), "fingerprint")
    assert list(measured.cases["r0"].voxels) == ["background", "value 1", "value 2", "enhancing"]

    task, out = rings / "datasets" / "Task03_Rings", rings / "out"
    run(rings, "predict", "-i", str(task / "imagesTr"), "-o", str(out))
    for file in folder.predictions.iterdir():
        label = imread(file)
        assert set(np.unique(label)) == set(VALUES) and np.array_equal(imread(out / file.name), label)
        (rings / "references").mkdir(exist_ok=True)
        (rings / "references" / file.name).write_bytes((task / "labelsTr" / file.name).read_bytes())
    words = ("-p", str(folder.predictions), "-r", str(rings / "references"), "-o", str(rings / "again"), "-t", "Task03")
    run(rings, "evaluate", *words, "-m", "none")
    again = scores_in(rings / "again" / "scores.json")
    assert again.mean == scores.mean and again.dice == scores.dice


QUESTION = Question(
    reader="raster", channels=(Channel(name="grey", kind="other"),),
    labels={"background": 0, "value 1": 1, "value 2": 2, "enhancing": 4},
    regions={"whole": (1, 2, 4), "core": (2, 4), "enhancing": (4,)}, written=(1, 2, 4),
)  # fmt: skip


@given(arrays(np.uint8, (2, 3, 4), elements=st.sampled_from(VALUES)))
def test_values_to_members_and_back_is_identity(label: np.ndarray) -> None:
    members = np.moveaxis(np.array(QUESTION.members)[to_indices(label, QUESTION)], -1, 0)
    for region, values in zip(members, QUESTION.regions.values(), strict=True):
        assert np.array_equal(region, np.isin(label, values))
    written = [index_of(QUESTION)[value] for value in QUESTION.written]
    logits = members.astype(np.float32) - 0.5
    assert np.array_equal(to_values(resample_regions(logits, written, label.shape), QUESTION), label)
