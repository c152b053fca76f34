"""Faults of cases, each found and told with the case that has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.image import Case, Image
from autoseg.records import CaseFacts, CaseFiles, Channel, Question
from autoseg.steps.fingerprint import examine, measure

QUESTION = Question(
    reader="nifti",
    channels=(Channel(name="MRI", kind="mr"),),
    labels={"background": 0, "ball": 1},
    ignore=9,
)


def facts(image: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> CaseFacts:
    case = Case("x", Image(image[None], (1.0,) * image.ndim, valid), label)
    return measure(case, QUESTION, "hash", [])


def told(found: CaseFacts) -> list[tuple[str, bool]]:
    return [(fault.fault, fault.fatal) for fault in found.faults]


@pytest.fixture
def cube() -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((8, 9, 10), np.float32)
    image[2:6, 2:7, 2:8] = np.random.default_rng(0).normal(5, 1, (4, 5, 6))
    label = np.zeros(image.shape, np.uint8)
    label[3:5, 3:5, 3:5] = 1
    return image, label


def test_a_sound_case_is_measured(cube) -> None:
    found = facts(*cube)
    assert told(found) == [] and found.usable
    assert found.shape == (8, 9, 10) and found.cropped == (4, 5, 6)
    assert found.voxels == {"background": 120 - 8, "ball": 8} and found.components == {"ball": 1}
    inside = cube[0][3:5, 3:5, 3:5]
    assert found.foreground[0].mean == pytest.approx(float(inside.mean()), rel=1e-5)
    assert found.foreground[0].quantiles[0] == pytest.approx(float(inside.min()), rel=1e-6)


def test_regions_are_measured_by_their_plain_values(cube) -> None:
    image, label = cube
    label[3, 3, 3] = 2
    labels = {"background": 0, "ball": 1, "core": 2}
    plain = QUESTION.model_copy(update={"labels": labels})
    regions = Question(**(dict(plain) | {"regions": {"all": (1, 2), "core": (2,)}, "written": (1, 2)}))
    case = Case("x", Image(image[None], (1.0,) * 3), label)
    found = measure(case, regions, "hash", [])
    assert found == measure(case, plain, "hash", []) and found.voxels == {"background": 112, "ball": 7, "core": 1}
    label[0, 0, 0] = 5
    assert told(measure(case, regions, "hash", [])) == [("undeclared label", True)]
    label[:] = 0
    assert told(measure(case, regions, "hash", [])) == [("empty label", False)]


def test_undeclared_values_come_with_their_counts(cube) -> None:
    image, label = cube
    label[0, 0, :3] = 4
    found = facts(image, label)
    assert told(found) == [("undeclared label", True)] and "4 (3 voxels)" in found.faults[0].detail


def test_anti_aliased_borders_are_suspected(cube) -> None:
    image, label = cube
    label = label.astype(np.float32)
    label.reshape(-1)[:40] = np.linspace(0.01, 0.99, 40)
    assert "anti-aliased" in facts(image, label).faults[0].detail


def test_empty_label_is_a_remark_and_an_ignored_one_is_not_usable(cube) -> None:
    image, label = cube
    assert told(facts(image, label * 0)) == [("empty label", False)]
    assert told(facts(image, label * 0 + 9)) == [("ignored label", True)]


def test_some_nan_is_a_remark_and_all_nan_is_not_usable(cube) -> None:
    image, label = cube
    image[0, 0, 0] = np.inf
    assert told(facts(image, label, np.isfinite(image))) == [("NaN or inf", False)]
    image[:] = np.nan
    assert told(facts(image, label, np.isfinite(image))) == [("NaN or inf", True)]


def test_a_constant_image_is_not_usable(cube) -> None:
    image, label = cube
    assert told(facts(image * 0 + 3, label)) == [("constant image", True)]


def test_a_constant_channel_among_others_is_a_remark(cube) -> None:
    image, label = cube
    case = Case("x", Image(np.stack([image, image * 0]), (1.0, 1.0, 1.0)), label)
    question = QUESTION.model_copy(update={"channels": QUESTION.channels * 2})
    assert told(measure(case, question, "hash", [])) == [("constant image", False)]


def test_one_voxel_objects_and_single_pixels_are_measured(cube) -> None:
    image, label = cube
    label[:] = 0
    label[4, 4, 4] = 1
    found = facts(image, label)
    assert found.usable and found.components == {"ball": 1} and found.foreground[0].sd == 0
    assert told(facts(np.ones((1, 1), np.float32), np.ones((1, 1), np.uint8))) == [("constant image", True)]


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_files_that_cannot_be_read_are_faults_and_no_errors(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.nii.gz").write_bytes(content)
        (tmp_path / "l.nii.gz").write_bytes(content)
    found = examine(tmp_path, CaseFiles(id="a", images=("a.nii.gz",), labels={"r": "l.nii.gz"}), QUESTION)
    assert told(found) == [("missing" if content is None else "unreadable", True)]
    assert "a.nii.gz" in found.faults[0].detail
