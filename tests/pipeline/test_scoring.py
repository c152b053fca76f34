"""Folders of labels: everything that does not fit is told together, and nothing is written then."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import BadData
from autoseg.pipeline.scoring import evaluate_folders
from autoseg.pipeline.voice import Silent


class Listening(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def save(file: Path, values: object, shift: float = 0.0, shape: tuple[int, ...] = (4, 4, 4)) -> None:
    file.parent.mkdir(exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    label = np.zeros(shape, np.uint8)
    label[1:3, 1:3, 1:3] = values
    nibabel.save(nibabel.Nifti1Image(label, affine), file)


def test_a_folder_against_itself_is_perfect(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 5)):
        save(tmp_path / "r" / f"{name}.nii.gz", value)
    scores = evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())
    assert scores.dice == 1 and scores.unit == "mm³" and set(scores.mean) == {"class_1", "class_5"}
    assert scores.mean["class_1"].cases == 1  # empty in b, prediction and reference: not counted
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.json"]


def test_predictions_without_reference_are_said(tmp_path: Path) -> None:
    for folder, name in (("r", "a"), ("p", "a"), ("p", "b")):
        save(tmp_path / folder / f"{name}.nii.gz", 1)
    voice = Listening()
    evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", voice)
    assert voice.heard == ["1 predictions have no reference and are not scored"]


def test_all_faults_are_told_together_and_nothing_is_written(tmp_path: Path) -> None:
    for name in "abcd":
        save(tmp_path / "r" / f"{name}.nii.gz", 1)
    save(tmp_path / "p" / "a.nii.gz", 1)
    save(tmp_path / "p" / "b.nii.gz", 1, shift=30.0)
    save(tmp_path / "p" / "c.nii.gz", 1, shape=(4, 4, 5))
    save(tmp_path / "p" / "d.nii.gz", 9)
    with pytest.raises(BadData, match=r"3 cases cannot be scored.*b\.nii.*c\.nii.*not declared"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent())
    (tmp_path / "p" / "a.nii.gz").unlink()
    with pytest.raises(BadData, match=r"1 references have no prediction \(a\)"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_two_labels_of_one_case_are_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        save(tmp_path / "r" / name, 1)
    with pytest.raises(BadData, match="two labels of one case"):
        evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())


def test_an_image_is_no_reference(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    (tmp_path / "r").mkdir()
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "r" / "a.nii.gz")
    with pytest.raises(BadData, match="integers that name classes"):
        evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())


def test_more_values_than_classes_can_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    grey = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    nibabel.save(nibabel.Nifti1Image(grey, np.eye(4)), tmp_path / "r" / "a.nii.gz")
    with pytest.raises(BadData, match="256 values"):
        evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())


def test_a_value_that_only_the_prediction_has_is_told_with_its_file_and_the_remedy(tmp_path: Path) -> None:
    save(tmp_path / "r" / "a.nii.gz", 1)
    save(tmp_path / "p" / "a.nii.gz", 2)
    with pytest.raises(BadData, match=r"a\.nii\.gz: .*\[2\].*-t TASK"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent())
