"""The command line on real images: what must work as it stands, and what must be refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.readers.nifti import Nifti
from autoseg.readers.raster import Raster

# sets with a dataset.json -> (cases, configurations, cases that cannot be used)
SETS = {
    "Task04_Hippocampus": (200, ["2d", "3d"], set()),
    "MnMs_SAX_subset": (16, ["2d", "3d"], set()),
    "CT_Spleen_crop": (1, ["2d", "3d"], set()),
    "EPFL_Roads": (40, ["2d"], set()),
    "Dubai_Aerial": (45, ["2d"], set()),
    "Amazon_Forest_GeoTIFF": (29, ["2d"], set()),
    "Sen1Floods11_sample": (6, ["2d"], {"Paraguay_34417_S1Hand", "Ghana_83483_S1Hand"}),
    "Water_12band": (50, ["2d"], set()),
    "CHASE_DB1": (20, ["2d"], set()),
    "BUSI_subset": (30, ["2d"], set()),
    "ISBI2012_EM": (18, ["2d"], set()),
}
CUDA = ("--device", "cuda", "--memory", "8GB")  # nothing is timed then


def say(home: Path, *words: str, ends: int = 0) -> Result:
    result = CliRunner().invoke(main, ["--home", str(home), *words], catch_exceptions=False)
    assert result.exit_code == ends, result.output
    return result


@pytest.mark.parametrize("name", SETS)
def test_every_set_works_as_it_stands(real: Path, home: Path, name: str) -> None:
    cases, configurations, bad = SETS[name]
    (home / "datasets" / name).symlink_to(real / name)
    checked = say(home, "check", name, "--json", ends=2 if bad else 0)
    faults = json.loads(checked.stdout)
    assert {fault["case"] for fault in faults if fault["fatal"]} == bad
    plan = json.loads(say(home, "plan", name, *CUDA, "--json").stdout)
    assert list(plan["configurations"]) == configurations
    folds = json.loads((home / "plans" / f"{name}.folds.json").read_text())["folds"]
    assert sum(map(len, folds)) == cases


@pytest.mark.parametrize(
    ("name", "configuration", "more"),
    [
        ("MnMs_SAX_subset", "3d", ()),
        ("MnMs_SAX_subset", "2d", ()),
        ("Water_12band", "2d", ()),
        ("Sen1Floods11_sample", "2d", ("--skip-bad",)),
    ],
)
def test_a_few_steps_and_a_score(real: Path, home: Path, name: str, configuration: str, more) -> None:
    (home / "datasets" / name).symlink_to(real / name)
    small = {"2d": "[64,64]", "3d": "[8,64,64]"}[configuration]
    stages = [1, 2, 2] if configuration == "2d" else [1, 2]
    dims = int(configuration[0])
    here = f"configurations.{configuration}"
    strides = [[1] * dims if s == 1 else ([1] * (dims - 2) + [2, 2]) for s in stages]
    network = {"features": [4, 8, 8][: len(stages)], "strides": strides, "kernels": [[3] * dims] * len(stages),
               "depths": [1] * len(stages), "decoder_depths": [1] * (len(stages) - 1)}  # fmt: skip
    changes = [f"{here}.network.{field}={json.dumps(value)}" for field, value in network.items()]
    # all fields of a network change together: the record is checked whole
    fields = [w for c in (*changes, f"{here}.patch={small}", f"{here}.batch=2") for w in ("--set", c)]
    say(home, "plan", name, *CUDA, *fields)
    trained = say(home, "train", configuration, "0", "--steps", "3", *more)
    assert "mean" in trained.stdout or "rule" in trained.stdout


def test_the_mismatched_pair_is_refused(real: Path, home: Path) -> None:
    pair = real / "Amazon_Forest_GeoTIFF" / "mismatched_pair"
    words = ("add", "Task01_Pair", "--images", f"{pair}/*.tif", "--labels", f"{pair}/*.png")
    say(home, *words, "--labels-map", "0=none,1=forest,2=other")
    checked = say(home, "check", "Task01", ends=2)
    assert "geometry" in checked.stdout and "515" in checked.stdout
    refused = say(home, "plan", "Task01", ends=2)
    assert "no case can be used" in refused.stderr and not (home / "plans" / "Task01_Pair.json").exists()


def test_radar_of_nothing_but_nan_and_a_label_of_nothing_but_ignore(real: Path, home: Path) -> None:
    (home / "datasets" / "Task02_Floods").symlink_to(real / "Sen1Floods11_sample")
    told = say(home, "check", "Task02", ends=2).stdout
    assert "NaN or inf" in told and "ignored label" in told and "2 cannot be used" in told


def test_anti_aliased_ground_truth_is_told(real: Path, home: Path) -> None:
    roads = real / "EPFL_Roads"
    words = ("add", "Task03_Grey", "--images", f"{roads}/imagesTr/*", "--labels", f"{roads}/groundtruth_original/*")
    assert "values" in say(home, *words, ends=2).stderr
    assert not (home / "datasets" / "Task03_Grey").exists()
    say(home, *words, "--labels-map", "0=background,255=road")
    assert "anti-aliased" in say(home, "check", "Task03", ends=2).stdout


def test_float_labels_and_mixed_types_simply_work(real: Path, home: Path) -> None:
    (home / "labels").mkdir()
    source = real / "Task04_Hippocampus"
    images = sorted((source / "imagesTr").glob("*.nii.gz"))
    assert {nibabel.load(file).get_data_dtype().kind for file in images} == {"u", "f"}
    for image in images[:6]:
        label = nibabel.load(source / "labelsTr" / image.name)
        values = np.asanyarray(label.dataobj).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, label.affine), home / "labels" / image.name)
    words = ("add", "Task05_Float", "--images", f"{source}/imagesTr/*.nii.gz", "--labels", f"{home}/labels/*.nii.gz")
    told = say(home, *words, ends=0)
    assert "6 cases" in told.stderr
    assert "0 cannot be used" in say(home, "check", "Task05").stdout


def test_a_georeferenced_label_lies_on_its_image(real: Path, tmp_path: Path) -> None:
    file = real / "Amazon_Forest_GeoTIFF" / "imagesTr" / "Amazon_122_33.tif"
    image = Raster().read([file])
    Raster().write_label(tmp_path / "a.tif", np.ones(image.shape, np.uint8), image)
    with rasterio.open(file) as before, rasterio.open(tmp_path / "a.tif") as after:
        assert before.crs == after.crs and before.transform == after.transform and before.shape == after.shape


def test_near_infrared_is_a_channel(real: Path) -> None:
    files = sorted((real / "GeoTIFF_samples" / "naip_rgbn").glob("*.tif"))
    assert [Raster().read([file]).channels for file in files] == [4] * len(files)


def test_any_orientation_comes_back(real: Path, tmp_path: Path) -> None:
    file = next((real / "SCT_spinalcord_mri").rglob("t2.nii.gz"))
    image = Nifti().read([file])
    label = (image.array[0] > image.array[0].mean()).astype(np.uint8)
    Nifti().write_label(tmp_path / "t2.nii.gz", label, image)
    before, after = nibabel.load(file), nibabel.load(tmp_path / "t2.nii.gz")
    assert nibabel.aff2axcodes(after.affine) == nibabel.aff2axcodes(before.affine) == ("P", "S", "R")
    assert np.array_equal(before.affine, after.affine) and before.shape == after.shape
    values = np.asanyarray(before.dataobj)
    assert np.array_equal(np.asanyarray(after.dataobj) > 0, values > image.array[0].mean())
