from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio

from autoseg.errors import BadUsage
from autoseg.steps import synthetic
from autoseg.steps.synthetic import aerial_case, medical_case


def files(folder: Path, sub: str) -> list[str]:
    return sorted(path.name for path in (folder / sub).iterdir())


def test_medical_cases_differ_and_hold_every_class() -> None:
    cases = [medical_case(np.random.default_rng([0, i])) for i in range(16)]
    for image, label, spacing in cases:
        assert image.shape == (1, *label.shape)
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert spacing[0] > 2 * spacing[1] == 2 * spacing[2]
        assert {0, 1, 3} <= set(np.unique(label)) <= {0, 1, 2, 3}
    lesions = [bool((label == 2).any()) for _, label, _ in cases]
    assert any(lesions)
    assert not all(lesions)
    assert len({label.shape for _, label, _ in cases}) > 8
    ranges = [np.ptp(image) for image, _, _ in cases]
    assert max(ranges) > 100 * min(ranges)


def test_aerial_cases_hold_roads_and_roofs() -> None:
    for i in range(8):
        image, label = aerial_case(np.random.default_rng([0, i]))
        assert image.shape == (3, *label.shape)
        assert image.dtype == label.dtype == np.uint8
        shares = np.bincount(label.ravel(), minlength=3) / label.size
        assert 0.02 < shares[1] < 0.5
        assert 0.01 < shares[2] < 0.5


def test_no_threshold_finds_the_lesion_or_the_vessel() -> None:
    """The best band of intensities, with the truth at hand, still misses most."""
    for i in range(4):
        image, label, _ = medical_case(np.random.default_rng([0, i]))
        for value in {2, 3} & set(label.flat):
            truth = label == value
            cuts = np.quantile(image[0][truth], [0.05, 0.25, 0.75, 0.95])
            bands = [(image[0] >= low) & (image[0] <= high) for low in cuts[:2] for high in cuts[2:]]
            dice = [2 * (band & truth).sum() / (band.sum() + truth.sum()) for band in bands]
            assert max(dice) < 0.8


@pytest.mark.parametrize("case", [medical_case, aerial_case])
def test_a_seed_gives_one_case(case: Callable[[np.random.Generator], tuple[np.ndarray, ...]]) -> None:
    first, again, other = (case(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


def test_medical_task_on_disk(tmp_path: Path) -> None:
    task = tmp_path / "datasets" / "Task90_Synthetic"
    synthetic.medical(task, seed=3, cases=2)
    told = json.loads((task / "dataset.json").read_text())
    assert [pair["image"] for pair in told["training"]] == [
        "./imagesTr/case_000.nii.gz",
        "./imagesTr/case_001.nii.gz",
    ]
    assert told["labels"] == {"0": "background", "1": "organ", "2": "lesion", "3": "vessel"}
    assert files(task, "imagesTr") == files(task, "labelsTr") == ["case_000.nii.gz", "case_001.nii.gz"]
    assert [f"./imagesTs/{name}" for name in files(task, "imagesTs")] == told["test"]
    image, label, spacing = medical_case(np.random.default_rng([3, 1]))
    volume = nibabel.load(task / "imagesTr" / "case_001.nii.gz")
    truth = nibabel.load(task / "labelsTr" / "case_001.nii.gz")
    assert np.array_equal(np.asarray(volume.dataobj), image[0].transpose(2, 1, 0))
    assert np.array_equal(np.asarray(truth.dataobj), label.transpose(2, 1, 0))
    assert volume.header.get_zooms() == pytest.approx(spacing[::-1])
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")


def test_aerial_task_on_disk(tmp_path: Path) -> None:
    task = tmp_path / "Task91_Aerial"
    synthetic.aerial(task, seed=3, cases=2)
    told = json.loads((task / "dataset.json").read_text())
    assert told["labels"] == {"background": 0, "road": 1, "roof": 2}
    assert (told["file_ending"], told["numTraining"]) == (".tif", 2)
    assert files(task, "imagesTr") == ["tile_000_0000.tif", "tile_001_0000.tif"]
    assert files(task, "labelsTr") == ["tile_000.tif", "tile_001.tif"]
    assert len(files(task, "imagesTs")) == 3
    image, label = aerial_case(np.random.default_rng([3, 1]))
    with rasterio.open(task / "imagesTr" / "tile_001_0000.tif") as raster:
        assert np.array_equal(raster.read(), image)
        assert raster.crs.to_epsg() == 32633
        assert raster.res == (0.5, 0.5)
        place = raster.transform
    with rasterio.open(task / "labelsTr" / "tile_001.tif") as raster:
        assert np.array_equal(raster.read(1), label)
        assert raster.transform == place


def test_a_task_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(synthetic, "_write_raster", full)
    with pytest.raises(OSError, match="no space"):
        synthetic.aerial(tmp_path / "Task91", cases=1)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "Task90").mkdir()
    with pytest.raises(BadUsage, match="exists already"):
        synthetic.medical(tmp_path / "Task90")
