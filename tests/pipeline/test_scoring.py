"""Folders of labels: everything that does not fit is told together, and nothing is written then."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.arrays.pairs import Measure
from autoseg.errors import BadData, BadUsage
from autoseg.pipeline.scoring import Asked, evaluate_folders
from autoseg.pipeline.voice import Silent
from autoseg.records import Channel, Question, Scores, parse
from autoseg.steps import evaluate


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
    scores = evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent()).scores
    assert scores.dice == 1 and scores.unit == "mm³" and set(scores.mean) == {"class_1", "class_5"}
    assert scores.mean["class_1"].cases == 1  # empty in b, prediction and reference: not counted
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.json"]


def test_predictions_without_reference_are_said(tmp_path: Path) -> None:
    for folder, name in (("r", "a"), ("p", "a"), ("p", "b")):
        save(tmp_path / folder / f"{name}.nii.gz", 1)
    voice = Listening()
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", voice).scores
    assert voice.heard == ["1 predictions have no reference and are not scored: b"]
    assert scores.unreferenced == ("b",) and scores.confusion == ((56, 0), (0, 8))


def test_what_cannot_be_scored_is_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    for name in "abcde":
        save(tmp_path / "r" / f"{name}.nii.gz", 1)
    save(tmp_path / "p" / "a.nii.gz", 1)
    save(tmp_path / "p" / "b.nii.gz", 1, shift=30.0)
    save(tmp_path / "p" / "c.nii.gz", 1, shape=(4, 4, 5))
    save(tmp_path / "p" / "d.nii.gz", 9)
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent()).scores
    assert list(scores.cases) == ["a"] and list(scores.faults) == ["b", "c", "d", "e"]
    said = " ".join(scores.faults.values())
    assert all(word in said for word in ("b.nii.gz", "c.nii.gz", "not declared", "no prediction of it"))
    assert parse(Scores, (tmp_path / "out" / "scores.json").read_text(), "x") == scores


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measure_that_answers_no_number_costs_its_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:  # fmt: skip
    for folder, name, label in (("r", "a", 1), ("p", "a", 1), ("r", "b", 1), ("p", "b", 0)):
        save(tmp_path / folder / f"{name}.nii.gz", label)

    def made(*_: object, **__: object) -> dict[str, Measure]:
        return {"odd": Measure(lambda pair: 0.5, lambda pair: value, "odd")}  # the latter where one side is empty

    monkeypatch.setattr(evaluate, "measures_named", made)
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent()).scores
    assert list(scores.cases) == ["a"] and scores.mean["class_1"].more == {"odd": 0.5}
    assert "odd: cannot be measured" in scores.faults["b"] and str(value) in scores.faults["b"]


def test_a_reference_that_cannot_be_read_is_named_with_the_rest(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / "r" / f"{name}.nii.gz", 1)
        save(tmp_path / "p" / f"{name}.nii.gz", 1)
    (tmp_path / "r" / "b.nii.gz").write_bytes((tmp_path / "r" / "b.nii.gz").read_bytes()[:50])
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent()).scores
    assert scores.dice == 1 and list(scores.faults) == ["b"] and "b.nii.gz" in scores.faults["b"]


def test_where_nothing_can_be_scored_nothing_is_written(tmp_path: Path) -> None:
    save(tmp_path / "r" / "a.nii.gz", 1)
    save(tmp_path / "p" / "a.nii.gz", 9)
    with pytest.raises(BadData, match=r"none of 1 cases can be scored.*not declared.*-t TASK"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_distances_are_in_millimetres_and_the_tolerance_is_a_voxel(tmp_path: Path) -> None:
    for folder, first in (("r", 2), ("p", 3)):
        (tmp_path / folder).mkdir()
        label = np.zeros((12, 12, 12), np.uint8)
        label[first : first + 5, 2:7, 2:7] = 1
        nibabel.save(nibabel.Nifti1Image(label, np.diag([0.5, 2.0, 1.0, 1.0])), tmp_path / folder / "a.nii.gz")
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent()).scores
    assert scores.cases["a"]["class_1"].more["hd95"] == 0.5
    assert scores.measures["nsd"] == "share of both surfaces within 2 of the other"


def test_many_cases_are_scored_by_several_processes_each_under_its_name(tmp_path: Path) -> None:
    for number in range(14):
        name = f"c{number:02d}"
        save(tmp_path / "r" / f"{name}.nii.gz", 1)
        save(tmp_path / "p" / f"{name}.nii.gz", np.arange(8).reshape(2, 2, 2) < (number % 8) + 1)
    save(tmp_path / "p" / "c05.nii.gz", 9)
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), workers=3).scores
    assert list(scores.faults) == ["c05"] and list(scores.cases) == [f"c{n:02d}" for n in range(14) if n != 5]
    for name, row in scores.cases.items():
        assert row["class_1"].true_positives == int(name[1:]) % 8 + 1


def test_masks_borders_and_groups(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        save(tmp_path / "r" / f"{name}.nii.gz", 1)
        save(tmp_path / "p" / f"{name}.nii.gz", 1 if name == "p1_a" else 0)
        save(tmp_path / "m" / f"{name}.nii.gz", 0 if name == "p1_b" else 1)
    asked = Asked(measures=(), masks=tmp_path / "m", group=r"(p\d)_")
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), asked).scores
    assert [scores.cases[name]["class_1"].dice for name in ("p1_a", "p1_b", "p2_a")] == [1, None, 0]
    assert scores.groups["p1"]["class_1"].dice == 1 and scores.measures == {}
    eroded = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), Asked(erode=1)).scores
    assert eroded.cases["p2_a"]["class_1"].dice is None  # all of the object lies near its border
    known = Asked(measures=(), group=r"(p\d)_", groups={"p1_a": "x", "p2_a": "x"})  # what a task knows stands
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), known).scores
    assert list(scores.groups) == ["x"]
    (tmp_path / "m" / "p2_a.nii.gz").unlink()
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), asked).scores
    assert "holds no mask of this case" in scores.faults["p2_a"]
    with pytest.raises(BadUsage, match="matches no case"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), Asked(group="z"))


def test_a_class_that_never_occurs_is_said(tmp_path: Path) -> None:
    save(tmp_path / "r" / "a.nii.gz", 1)
    question = Question(
        reader="nifti", channels=(Channel(name="a", kind="other"),), labels={"background": 0, "one": 1, "two": 2}
    )
    voice = Listening()
    scores = evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", voice, Asked(question)).scores
    assert voice.heard == ["two occurs in no case, neither predicted nor there: it is not counted"]
    assert scores.dice == 1


def test_two_labels_of_one_case_are_named(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        save(tmp_path / "r" / name, 1)
    with pytest.raises(BadData, match="two labels of one case"):
        evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())
    save(tmp_path / "r" / "b.nii.gz", 1)
    scores = evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent()).scores
    assert list(scores.cases) == ["b"] and "a.nii and a.nii.gz" in scores.faults["a"]


def test_dicom_seg_beside_a_label_is_its_copy(tmp_path: Path) -> None:
    save(tmp_path / "r" / "a.nii.gz", 1)
    (tmp_path / "r" / "a.dcm").write_bytes(b"not looked at")
    assert evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent()).scores.dice == 1


@pytest.mark.parametrize("nodata", [255, 200])
@pytest.mark.parametrize("background", [True, False])
def test_pixels_without_measurement_do_not_count(tmp_path: Path, nodata: int, background: bool) -> None:
    import rasterio

    truth = np.full((6, 8), 1, np.uint8)
    truth[:, 4:] = 0 if background else 2
    guess = truth.copy()
    guess[:3] = nodata
    for folder, array, extra in (("r", truth, {}), ("p", guess, {"nodata": nodata})):
        (tmp_path / folder).mkdir()
        options = {"driver": "GTiff", "height": 6, "width": 8, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
        with rasterio.open(
            tmp_path / folder / "a.tif", "w", transform=rasterio.Affine(2, 0, 0, 0, -2, 0), **options, **extra
        ) as opened:
            opened.write(array, 1)
    labels = {"land": 0, "road": 1} if background else {"land": 2, "road": 1}
    question = Question(reader="raster", channels=(Channel(name="a", kind="other"),), labels=labels)
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", tmp_path / "out", Silent(), Asked(question)).scores
    road = scores.cases["a"]["road"]
    assert (road.dice, road.true_positives, road.true_negatives) == (1, 12, 12)


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
