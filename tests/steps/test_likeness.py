"""What is seen by comparing cases, and that ordinary tasks are left in peace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg import layouts
from autoseg.records import CaseFacts, CaseFiles, Channel, Dataset, Fault, Intensity, Question
from autoseg.steps import cases
from autoseg.steps.fingerprint import examine, measure
from autoseg.steps.likeness import MISSING_CLASS, compare, groups
from autoseg.steps.look import whole

QUESTION = Question(reader="nifti", channels=(Channel(name="T1", kind="mr"),), labels={"background": 0, "ball": 1})


def facts(number: int, **fields: object) -> CaseFacts:
    """An ordinary case among others: sizes and intensities vary by some percent."""
    rng = np.random.default_rng(number)
    vary = rng.normal(1, 0.05, 4)
    made = {
        "sha256": str(number), "shape": (40, 50, 60), "cropped": tuple(int(40 * v) for v in vary[:3]),
        "spacing": (1.0, 1.0, 1.0), "pixels": f"p{number}", "thumb": rng.bytes(32).hex(),
        "valid": (Intensity(mean=100 * vary[0], sd=20 * vary[1], quantiles=(0.0,) * 15),),
        "voxels": {"background": 10**5, "ball": int(1000 * vary[3])},
    } | fields  # fmt: skip
    return CaseFacts(**made)


def found(changed: dict[int, dict[str, object]], count: int = 20, group: dict[int, str] | None = None) -> list[Fault]:
    task = {f"c{n:02d}": facts(n, **changed.get(n, {})) for n in range(count)}
    files = [CaseFiles(id=id, images=("a",), group=(group or {}).get(n)) for n, id in enumerate(task)]
    return [*compare(task, files, QUESTION)]


def near(thumb: str, bits: int) -> str:
    values = np.unpackbits(np.array([*bytes.fromhex(thumb)], np.uint8))
    values[:bits] ^= 1
    return np.packbits(values).tobytes().hex()


def test_ordinary_cases_are_left_in_peace() -> None:
    assert found({}) == [] and found({}, count=1) == [] and found({}, count=0) == []


def test_a_class_that_no_label_holds_is_told_once() -> None:
    none = {n: {"voxels": {"background": 10**5}} for n in range(20)}
    told = [fault for fault in found(none) if fault.fault == MISSING_CLASS]
    assert len(told) == 1 and "ball is in no label of 20 cases" in told[0].detail and not told[0].fatal
    assert all(fault.fault != MISSING_CLASS for fault in found({n: none[n] for n in range(19)}))


def test_copies_name_what_they_are_copies_of() -> None:
    told = found({7: {"pixels": "p3"}, 9: {"pixels": "p3", "voxels": {"ball": 999}}})
    assert [(fault.case, fault.fault, fault.fatal) for fault in told] == [
        ("c07", "duplicate", False), ("c09", "duplicate", False),
    ]  # fmt: skip
    assert all("c03" in fault.detail for fault in told)
    assert found({3: {"pixels": ""}, 7: {"pixels": ""}}) == []


def test_near_copies_are_told_unless_a_group_holds_them() -> None:
    thumb = facts(3).thumb
    close, far = {8: {"thumb": near(thumb, 32)}}, {8: {"thumb": near(thumb, 33)}}
    (told,) = found(close)
    assert told.case == "c08" and told.fault == "near duplicate" and "c03" in told.detail and not told.fatal
    assert found(far) == [] and found(close, group={3: "p", 8: "p"}) == []
    assert len(found(close, group={3: "p", 8: "q"})) == 1
    assert [fault.fault for fault in found({8: {"thumb": thumb, "pixels": "p3"}})] == ["duplicate"]
    many = {n: {"thumb": thumb} for n in range(4, 9)}
    assert "c03, c04, c05 and 2 more" in found(many)[-1].detail


def shifted(
    far: dict[int, tuple[int, int, int]], usual: tuple[int, int, int], gain: float
) -> dict[int, dict[str, object]]:
    everywhere = {n: {"shift": usual, "gain": gain} for n in range(20)}
    return everywhere | {n: {"shift": shift, "gain": 2.5} for n, shift in far.items()}


def test_labels_that_agree_on_another_place_are_told_once() -> None:
    (told,) = found(shifted({1: (0, 0, 0)}, (0, -3, 4), 2.0))
    assert (told.case, told.fault, told.fatal) == ("", "shifted labels", False)
    assert "19 of 20" in told.detail and "-3 along y, +4 along x" in told.detail
    assert found(shifted({}, (0, -3, 4), 0.9)) == []  # hardly better there
    assert found(shifted({}, (0, -1, 1), 2.0)) == []  # a voxel is no shift


def test_a_label_that_lies_elsewhere_than_the_others_is_told() -> None:
    (told,) = found(shifted({6: (0, 5, 0)}, (0, 0, 0), 0.0))
    assert (told.case, told.fault) == ("c06", "shifted label") and "+5 along y" in told.detail
    assert found(shifted({n: (0, 5 - n, n) for n in range(8)}, (0, 0, 0), 0.0)) == []  # who knows
    assert found({n: {"shift": (0, 5, 0), "gain": 3.0} for n in range(4)}) == []  # too few can be told


@pytest.mark.parametrize(
    ("fields", "figure"),
    [
        ({"cropped": (40, 400, 40)}, "size along y"),
        ({"spacing": (5.0, 1.0, 1.0)}, "spacing along z"),
        ({"valid": (Intensity(mean=1e5, sd=20, quantiles=(0.0,) * 15),)}, "mean of T1"),
        ({"valid": (Intensity(mean=100, sd=0.1, quantiles=(0.0,) * 15),)}, "standard deviation of T1"),
        ({"voxels": {"background": 10**5, "ball": 3}}, "size of ball"),
    ],
)
def test_a_case_unlike_the_others_is_told_with_its_figure(fields: dict[str, object], figure: str) -> None:
    (told,) = found({5: fields})
    assert (told.case, told.fault, told.fatal) == ("c05", "unlike the others", False) and figure in told.detail
    assert "above" in told.detail or "below" in told.detail
    assert found(dict.fromkeys(range(3), fields)) == []  # that varied is the task
    assert found({5: fields}, count=9) == []


def test_empty_classes_and_unusable_cases_are_not_compared() -> None:
    bad = Fault(case="c05", fault="x", detail="", fatal=True)
    assert found({5: {"voxels": {"background": 9, "ball": 0}}}) == []
    assert found({5: {"cropped": (1, 4000, 1), "faults": (bad,)}, 6: {"valid": (None,)}}) == []


def test_all_colours_of_a_task_are_told_together() -> None:
    bad = Fault(case="c", fault="coloured label", detail="", fatal=True)
    one, other = {"#000001": 5, "#000002": 1}, {"#000003": 9}
    (told,) = found({1: {"colours": one, "faults": (bad,)}, 2: {"colours": other, "faults": (bad,)}})
    assert "--labels-map '#000003=class_1,#000001=class_2,#000002=class_3'" in told.detail


def test_groups_are_those_of_several_cases() -> None:
    named = {"a": "p", "b": "q", "c": "p", "d": None}
    files = [CaseFiles(id=id, images=("x",), group=group) for id, group in named.items()]
    assert groups(files) == {"p": ("a", "c")}


def measured(folder: Path, count: int, shift: int = 0) -> tuple[Dataset, dict[str, CaseFacts]]:
    dataset, _ = layouts.read_task(folder)
    dataset = dataset.model_copy(update={"cases": dataset.cases[:count]})
    made = {}
    for files in dataset.cases:
        case = cases.load(folder, files, dataset)
        assert case.label is not None
        moved = np.roll(case.label, shift, axis=(-2, -1))
        case = type(case)(case.id, case.image, moved)
        made[files.id] = measure(whole(case), dataset, "", [])
    return dataset, made


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Task04_Hippocampus", []), ("Dubai_Aerial", []), ("ISBI2012_EM", []), ("CHASE_DB1", []), ("BUSI_subset", []),
        ("EPFL_Roads", ["unlike the others"]), ("Amazon_Forest_GeoTIFF", []), ("Sen1Floods11_sample", []),
        ("MnMs_SAX_subset", ["near duplicate"] * 5),  # two moments of one heart each
        ("Water_12band", ["near duplicate"] * 2),  # one place each, twice
    ],
)  # fmt: skip
def test_real_tasks_raise_no_flood(real: Path, name: str, told: list[str]) -> None:
    dataset, _ = layouts.read_task(real / name)
    made = {files.id: examine(real / name, files, dataset) for files in dataset.cases}
    assert [fault.fault for fault in compare(made, dataset.cases, dataset)] == told
    assert max(len(one.model_dump_json()) for one in made.values()) < 6000


@pytest.mark.real
def test_hippocampus_labels_moved_by_three_voxels_are_told(real: Path) -> None:
    dataset, made = measured(real / "Task04_Hippocampus", 40, shift=3)
    (told,) = (fault for fault in compare(made, dataset.cases, dataset) if "shifted" in fault.fault)
    assert told.fault == "shifted labels" and "along y" in told.detail and "along x" in told.detail
