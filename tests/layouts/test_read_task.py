"""Folders to datasets: every layout, every rule on channels and labels, and malformed descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import BadTask
from autoseg.layouts import native, read_task
from autoseg.layouts.common import kind_of, kinds_of

LABELS = {"background": 0, "organ": 1}


def task(folder: Path, description: dict[str, Any] | str, *files: str) -> Path:
    """A folder with that dataset.json and empty files."""
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    text = description if isinstance(description, str) else json.dumps(description)
    (folder / "dataset.json").write_text(text)
    return folder


def listed(*names: str, **fields: Any) -> dict[str, Any]:
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    return {"modality": {"0": "CT"}, "labels": LABELS, "training": training, **fields}


def pair(*names: str) -> list[str]:
    return [f"{folder}/{name}.nii.gz" for name in names for folder in ("imagesTr", "labelsTr")]


def test_decathlon_with_litter(tmp_path: Path) -> None:
    description = listed("a", "._a", "b", labels={"0": "background", "1": "organ"}, test=["./imagesTs/c.nii.gz"])
    files = [*pair("a", "b", "._a", "._b"), "imagesTr/.DS_Store", "imagesTs/c.nii.gz"]
    dataset, faults = read_task(task(tmp_path, description, *files))
    assert dataset.name == tmp_path.name and dataset.reader == "nifti" and faults == ()
    assert dataset.channels[0].kind == "ct" and dataset.labels == LABELS
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].images == ("imagesTr/a.nii.gz",) and dataset.cases[0].label == "labelsTr/a.nii.gz"


def test_orphans_and_missing_files(tmp_path: Path) -> None:
    files = ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "imagesTr/c.nii.gz", "labelsTr/d.nii.gz"]
    dataset, faults = read_task(task(tmp_path, listed("a", "b"), *files))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    told = {(fault.case, fault.fault, fault.fatal) for fault in faults}
    assert told == {("a", "missing file", True), ("c", "orphan image", False), ("d", "orphan label", False)}


def test_a_list_of_images_and_of_suffixed_files(tmp_path: Path) -> None:
    description = listed("v1", modality=["T1", "FLAIR"])
    several = {"image": ["./x/p_t1.nii.gz", "x/p_fl.nii.gz"], "label": "x/p_seg.nii.gz", "group": 7, "site": "A"}
    description["training"].append(several)
    files = ["imagesTr/v1_0000.nii.gz", "imagesTr/v1_0001.nii.gz", "labelsTr/v1.nii.gz"]
    files += ["x/p_t1.nii.gz", "x/p_fl.nii.gz", "x/p_seg.nii.gz"]
    dataset, faults = read_task(task(tmp_path, description, *files))
    assert faults == ()
    assert dataset.case("v1").images == ("imagesTr/v1_0000.nii.gz", "imagesTr/v1_0001.nii.gz")
    assert dataset.case("p_t1").images == ("x/p_t1.nii.gz", "x/p_fl.nii.gz")
    assert (dataset.case("p_t1").group, dataset.case("p_t1").site) == ("7", "A")


def test_a_missing_channel_is_a_fault_of_its_case(tmp_path: Path) -> None:
    description = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS, "file_ending": ".nii.gz"}
    files = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0001.nii.gz"]
    dataset, faults = read_task(task(tmp_path, description, *files, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz"))
    assert dataset.case("b").images == ("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz")
    assert [(fault.case, fault.fatal, fault.detail) for fault in faults] == [
        ("b", True, "imagesTr/b_0000.nii.gz does not exist")
    ]
    files = ["imagesTr/a_0000.nii.gz", "imagesTr/._a_0001.nii.gz", "imagesTr/z_0000.nii.gz", "labelsTr/y.nii.gz"]
    _, faults = read_task(task(tmp_path / "other", description, *files, "labelsTr/a.nii.gz"))
    assert [(fault.case, fault.fault) for fault in faults] == [("z", "orphan image"), ("y", "orphan label")]


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    description = {"channel_names": ["R", "G", "B"], "labels": LABELS, "file_ending_labels": ".png"}
    files = [f"{folder}/tile_{n:04d}.{e}" for n in range(3) for folder, e in (("imagesTr", "jpg"), ("labelsTr", "png"))]
    dataset, faults = read_task(task(tmp_path, description, *files))
    assert [case.id for case in dataset.cases] == ["tile_0000", "tile_0001", "tile_0002"] and faults == ()
    assert dataset.reader == "raster" and dataset.cases[2].label == "labelsTr/tile_0002.png"


def test_the_dataset_field_names_cases(tmp_path: Path) -> None:
    entry = {"images": ["./im/1.png"], "label": "/elsewhere/1.png"}
    description = {"channel_names": {"0": "R"}, "labels": LABELS, "dataset": {"one": entry}}
    dataset, faults = read_task(task(tmp_path, description, "im/1.png"))
    assert dataset.case("one").images == ("im/1.png",) and dataset.case("one").label == "/elsewhere/1.png"
    assert [fault.fatal for fault in faults] == [True]


def test_numbered_names_are_no_channels(tmp_path: Path) -> None:
    dataset, _ = read_task(task(tmp_path, listed("s_0001", "s_0002"), *pair("s_0001", "s_0002")))
    assert [case.id for case in dataset.cases] == ["s_0001", "s_0002"]


@pytest.mark.parametrize(
    ("labels", "expected", "ignore"),
    [
        ({"0": "background", "255": "road"}, {"background": 0, "road": 255}, None),
        ({"background": "0", "road": "1"}, {"background": 0, "road": 1}, None),
        ({"background": 0, "road": [1], "ignore": 2}, {"background": 0, "road": 1}, 2),
        ({"dry": 0, "wet": 1, "ignore": -1}, {"dry": 0, "wet": 1}, -1),
        ({"0": "a", "1": "b", "255": "ignore"}, {"a": 0, "b": 1}, 255),
    ],
)
def test_labels_in_either_direction(
    tmp_path: Path, labels: dict[str, Any], expected: dict[str, int], ignore: int | None
) -> None:
    dataset, _ = read_task(task(tmp_path, listed("a", labels=labels), *pair("a")))
    assert dataset.labels == expected and dataset.ignore == ignore


TUMOUR = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


@pytest.mark.parametrize(
    ("labels", "order", "expected", "written"),
    [
        (TUMOUR, None, {"background": 0, "value 1": 1, "value 2": 2, "enhancing": 3}, (1, 2, 3)),
        (TUMOUR | {"ignore": 4}, [1, 2, 3], {"background": 0, "value 1": 1, "value 2": 2, "enhancing": 3}, (1, 2, 3)),
        ({"none": 0, "both": [7, 5], "left": 5, "right": "7"}, None, {"none": 0, "left": 5, "right": 7}, (7, 5, 7)),
        ({"none": 0, "both": [7, 5], "right": 7}, None, {"none": 0, "value 5": 5, "right": 7}, (5, 7)),
        ({"none": 0, "both": [7, 5], "far": [9]}, None, {"none": 0, "value 5": 5, "value 7": 7, "far": 9}, (7, 9)),
        ({"none": 0, "both": [7, 5], "far": [9]}, [5, 9], {"none": 0, "value 5": 5, "value 7": 7, "far": 9}, (5, 9)),
    ],
)
def test_an_entry_of_several_values_makes_regions(
    tmp_path: Path, labels: dict[str, Any], order: list[int] | None, expected: dict[str, int], written: tuple[int, ...]
) -> None:
    fields = {} if order is None else {"regions_class_order": order}
    dataset, _ = read_task(task(tmp_path, listed("a", labels=labels, **fields), *pair("a")))
    assert dataset.labels == expected and dataset.written == written
    assert list(dataset.regions) == [name for name in labels if name not in ("background", "none", "ignore")]
    assert dataset.regions.get("whole", (1, 2, 3)) == (1, 2, 3) and dataset.regions.get("both", (7, 5)) == (7, 5)
    assert dataset.ignore == labels.get("ignore")
    (tmp_path / "dataset.json").write_text(native.dump(dataset))
    again, _ = read_task(tmp_path)
    assert again == dataset and again.outputs == dataset.outputs


def test_groups_by_a_pattern(tmp_path: Path) -> None:
    description = listed("p1_ED", "p1_ES", "p2_ED", "odd", group=r"^(p\d+)_")
    description["training"][2]["group"] = "own"
    dataset, faults = read_task(task(tmp_path, description, *pair("p1_ED", "p1_ES", "p2_ED", "odd")))
    assert [case.group for case in dataset.cases] == ["p1", "p1", "own", None]
    assert [(fault.case, fault.fault, fault.fatal) for fault in faults] == [("odd", "no group", False)]


BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "not text": ("\x00\x01", "not valid JSON"),
    "a list": ("[]", "holds a list"),
    "NaN": ('{"training": NaN}', "NaN is no number"),
    "nothing": ({}, "no field 'training'"),
    "no labels": ({"modality": {"0": "CT"}, "training": [{"image": "a.png", "label": "b.png"}]}, "'labels' is missing"),
    "no channels": (
        {"labels": LABELS, "training": [{"image": "a.png", "label": "b.png"}]},
        "'channel_names' is missing",
    ),
    "channel numbers": (listed("a", modality={"1": "CT"}), "keys"),
    "channel types": (listed("a", modality={"0": 3}), "modality is"),
    "empty": (listed(), "no training cases"),
    "a number": (listed("a", training=3), "training is 3"),
    "an entry": (listed("a", training=["a.png"]), r"training\[0\]"),
    "no label": (listed("a", training=[{"image": "a.png"}]), "has no 'label'"),
    "no path": (listed("a", training=[{"image": 3, "label": "b.png"}]), r"training\[0\].image: 3 is no path"),
    "no images": (listed("a", training=[{"image": [], "label": "b.png"}]), "names no image"),
    "twice": (listed("a", "a"), "two cases are named 'a'"),
    "ignored values": (listed("a", labels={"background": 0, "x": 1, "ignore": [2, 3]}), r"'ignore' is \[2, 3\]"),
    "no value": (listed("a", labels={"background": 0, "x": []}), r"'x' is \[\]"),
    "regions without background": (listed("a", labels={"x": [1, 2], "y": 2}), "class of the value 0"),
    "background in a region": (listed("a", labels={"background": 0, "x": [0, 1]}), "'x' of the values .0, 1."),
    "small before large": (
        listed("a", labels={"background": 0, "core": 2, "whole": [1, 2]}),
        "value 2 would be written as 1.*'core'.*before the smaller",
    ),
    "an order of another length": (
        listed("a", labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1]),
        r"regions_class_order is \[1\].*2 values, one for each of whole, core",
    ),
    "an order of no numbers": (
        listed("a", labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=["one", 2]),
        "regions_class_order: label 'whole' is \"one\"",
    ),
    "a foreign value": (
        listed("a", labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[3, 2]),
        "'whole' is written as 3",
    ),
    "label types": (listed("a", labels={"background": 0, "x": 1.5}), "'x' is 1.5"),
    "a true label": (listed("a", labels={"background": 0, "x": True}), "'x' is true"),
    "one name": (listed("a", labels={"0": "x", "1": "x"}), "two labels are named 'x'"),
    "one value": (listed("a", labels={"x": 1, "y": 1, "z": 0}), "one value to two classes"),
    "one class": (listed("a", labels={"background": 0}), "fewer than two classes"),
    "a bad regex": (listed("a", group="("), "no regular expression"),
    "a useless regex": (listed("a", group="zzz"), "matches no case"),
    "a group of a wrong type": (listed("a", group=3), "group: 3 is no text"),
    "unknown files": (listed("a", training=[{"image": "a.xyz", "label": "a.xyz"}]), r"a.xyz: no reader"),
    "two readers": (listed("a", training=[{"image": "a.png", "label": "a.nii"}]), "different readers"),
    "a version": ({"autoseg": 2, "dataset": {}}, "autoseg is 2"),
    "a record": ({"autoseg": 1, "dataset": {"nam": "x"}}, "did you mean name"),
    "no folders": ({"channel_names": {"0": "CT"}, "labels": LABELS}, "no folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_descriptions_are_told(tmp_path: Path, name: str) -> None:
    description, message = BAD[name]
    with pytest.raises(BadTask, match=message) as caught:
        read_task(task(tmp_path, description))
    assert "dataset.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_description(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match=r"dataset.json: no such file"):
        read_task(tmp_path)


def test_endings_that_do_not_fit(tmp_path: Path) -> None:
    description = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii"}
    with pytest.raises(BadTask, match=r"no .nii files .*a_0000.nii.gz is there"):
        read_task(task(tmp_path, description, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"))
    description["file_ending"] = ".nii.gz"
    with pytest.raises(BadTask, match="2 channels"):
        read_task(task(tmp_path, description, "imagesTr/a_0001.nii.gz"))


def test_what_autoseg_writes_it_reads(tmp_path: Path) -> None:
    dataset, _ = read_task(task(tmp_path, listed("a", "b", group="."), *pair("a", "b")))
    again, faults = read_task(task(tmp_path, native.dump(dataset)))
    assert again == dataset and faults == ()
    (tmp_path / "imagesTr/a.nii.gz").unlink()
    assert [(fault.case, fault.fatal) for fault in read_task(tmp_path)[1]] == [("a", True)]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ct", "CT,CT venous,ct"),
        ("mr", "MRI,T1,T1gd,T1w,FLAIR,T2,T2-weighted,cineMRI,ADC,DWI"),
        ("pet", "PET,FDG-PET"),
        ("us", "US,US_R,US_B,ultrasound"),
        ("rgb", "R,G,B,red,green,blue,Red,rgb_to_0_1"),
        ("db", "VV,VH,VV_dB,S1_VH"),
        ("reflectance", "B1,B02,B8A,B12,NIR,SWIR1,coastal_aerosol"),
        ("categorical", "landcover,ESA_WorldCover,class,QA,land_cover"),
        ("categorical", "flow_direction,fdir"),
        ("angle", "aspect,Aspect,slope_aspect,azimuth,wind direction,slope_direction,insar_phase,orientation"),
        ("ct", "CT arterial phase"),
        ("mr", "DWI direction 3,T1 venous phase"),
        ("other", "EM,elevation,MERIT_DEM,zscore,channel0,water_occurrence"),
    ],
)
def test_kinds_by_name(kind: str, names: str) -> None:
    assert {name: kind_of(name) for name in names.split(",")} == dict.fromkeys(names.split(","), kind)


def test_colours_beside_other_bands_are_reflectance() -> None:
    assert kinds_of(["red", "green", "blue", "NIR", "QA"]) == ["reflectance"] * 4 + ["categorical"]
    assert kinds_of(["red", "green", "blue", "elevation"]) == ["rgb"] * 3 + ["other"]


@pytest.mark.real
def test_every_real_set_loads_as_it_stands(real: Path) -> None:
    files = sorted(real.glob("*/dataset.json"))
    assert files
    for file in files:
        dataset, faults = read_task(file.parent)
        assert len(dataset.cases) == json.loads(file.read_text())["numTraining"]
        assert not any(fault.fatal for fault in faults), file


def test_an_entry_may_have_the_labels_of_several_raters(tmp_path: Path) -> None:
    description = listed("a", "b")
    description["training"][1]["label"] = {"ann": "./labelsTr/b.nii.gz", "bo": "./labels_bo/b.nii.gz"}
    dataset, faults = read_task(task(tmp_path, description, *pair("a", "b"), "labels_bo/b.nii.gz"))
    assert faults == () and dataset.cases[1].labels == {"ann": "labelsTr/b.nii.gz", "bo": "labels_bo/b.nii.gz"}
    assert dataset.question().raters == ("ann", "bo", "reference")  # whatever the order of the cases
    description["training"][0]["label"] = {" ": "./labelsTr/a.png"}
    with pytest.raises(BadTask, match=r"training\[0\]\.label: names a rater without a name"):
        read_task(task(tmp_path, description))
    description["training"][0]["label"] = {"ann": 7}
    with pytest.raises(BadTask, match=r"training\[0\]\.label: 7 is no path"):
        read_task(task(tmp_path, description))
