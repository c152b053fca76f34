"""Label values and class indices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.errors import BadData
from autoseg.image import IGNORE
from autoseg.records import CaseFiles, Channel, Question
from autoseg.steps.cases import content_hash, counted, index_of, to_indices, to_values, undeclared

QUESTION = Question(
    reader="raster",
    channels=(Channel(name="a", kind="other"),),
    labels={"background": 0, "road": 255, "roof": 7},
    merged={8: 7},
    ignore=-1,
)


@given(arrays(np.int16, (3, 4), elements=st.sampled_from([0, 7, 255])))
def test_values_to_indices_and_back_is_identity(label: np.ndarray) -> None:
    assert np.array_equal(to_values(to_indices(label, QUESTION), QUESTION), label)


def test_background_is_index_0_and_the_others_follow_by_value() -> None:
    assert QUESTION.classes == ("background", "roof", "road")
    assert to_indices(np.array([0, 7, 8, 255, -1]), QUESTION).tolist() == [0, 1, 1, 2, IGNORE]


def test_every_value_that_a_label_may_hold_has_an_index() -> None:
    assert index_of(QUESTION) == {0: 0, 7: 1, 8: 1, 255: 2}


@given(arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 7, 8, 255])), st.sampled_from([9, 255, -1]))
def test_indices_do_not_depend_on_the_dtype(label: np.ndarray, ignore: int) -> None:
    question = QUESTION.model_copy(update={"ignore": ignore, "labels": {"background": 0, "roof": 7}})
    wide = np.where(label == 255, ignore, label.astype(np.int32))
    expected = to_indices(wide, question)
    assert np.array_equal(to_indices(wide.astype(np.float32), question), expected)
    if ignore > 0:
        assert np.array_equal(to_indices(wide.astype(np.uint8), question), expected)
        assert np.array_equal(to_indices(wide.astype(np.uint16), question), expected)


@given(arrays(np.uint8, (3, 4), elements=st.integers(0, 255)))
def test_values_are_counted_whatever_the_dtype(label: np.ndarray) -> None:
    met = counted(label)
    assert met == counted(label.astype(np.float32)) == counted(label.astype(np.int64)) and sum(met.values()) == 12
    assert undeclared(met, QUESTION).keys() == set(label.ravel().tolist()) - {0, 7, 8, 255}


def test_invalid_voxels_are_ignored() -> None:
    valid = np.array([True, False])
    assert to_indices(np.array([7, 7]), QUESTION, valid).tolist() == [1, IGNORE]


def test_float_labels_that_hold_integers_simply_work() -> None:
    assert to_indices(np.array([0.0, 255.0, 7.0]), QUESTION).tolist() == [0, 2, 1]


def test_undeclared_values_are_counted_and_refused() -> None:
    label = np.array([0, 3, 3, 9, 255])
    assert undeclared(counted(label), QUESTION) == {3.0: 2, 9.0: 1}
    with pytest.raises(BadData, match="not declared: \\[3, 9\\]"):
        to_indices(label, QUESTION)


@pytest.mark.parametrize(("highest", "kind"), [(255, np.uint8), (300, np.int16), (60_000, np.uint16)])
def test_written_in_the_smallest_type_that_holds_all_values(highest: int, kind: type) -> None:
    question = QUESTION.model_copy(update={"labels": {"background": 0, "x": highest}, "merged": {}})
    assert to_values(np.array([0, 1], np.uint8), question).dtype == kind


def test_the_hash_follows_the_contents(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    case = CaseFiles(id="x", images=("a",), labels={"reference": "b"})
    first = content_hash(tmp_path, case)
    assert content_hash(tmp_path, case) == first
    (tmp_path / "b").write_bytes(b"3")
    assert content_hash(tmp_path, case) != first
