"""What is taken away and filled in, against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from autoseg.arrays import cleaning

few = settings(max_examples=60, deadline=None)
CLASSES = {"liver": 1, "tumour": 2}
LABELS = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2]))
)
ONES = (1.0, 1.0, 1.0)


@few
@given(LABELS, st.sampled_from([None, "liver", "tumour"]))
def test_the_largest_object_is_kept_and_nothing_else_changes(labels, label):
    chosen = np.isin(labels, [1, 2] if label is None else [CLASSES[label]])
    numbers, count = ndimage.label(chosen, np.ones((3,) * labels.ndim))
    found = cleaning.keep_largest(CLASSES, label)(labels, ONES)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[~chosen], labels[~chosen])
    kept = (found > 0) & chosen
    sizes = np.bincount(numbers.ravel())[1:] if count else np.zeros(1, int)
    assert kept.sum() == sizes.max()
    np.testing.assert_array_equal(found[kept], labels[kept])
    assert ndimage.label(kept, np.ones((3,) * labels.ndim))[1] == min(count, 1)


@few
@given(LABELS, st.integers(1, 9))
def test_small_objects_go_by_their_size_in_the_world(labels, voxels):
    spacing = (2.0,) * labels.ndim
    found = cleaning.remove_small(CLASSES, voxels * 2.0**labels.ndim, "liver")(labels, spacing)
    numbers, count = ndimage.label(labels == 1, np.ones((3,) * labels.ndim))
    wanted = labels.copy()
    for number in range(1, count + 1):
        if (numbers == number).sum() < voxels:
            wanted[numbers == number] = 0
    np.testing.assert_array_equal(found, wanted)


@few
@given(LABELS)
def test_holes_are_filled_with_the_class_around_them_where_nothing_is(labels):
    found = cleaning.fill_holes(CLASSES, "liver")(labels, ONES)
    flat = np.squeeze(labels == 1)  # an axis of one voxel has no walls
    inside = (ndimage.binary_fill_holes(flat) if flat.ndim > 1 else np.zeros_like(flat)).reshape(labels.shape)
    wanted = np.where(inside & (labels == 0), 1, labels)
    np.testing.assert_array_equal(found, wanted)


def test_doing_it_twice_changes_nothing_more():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, (9, 20, 20), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    for act in (
        cleaning.keep_largest(CLASSES), cleaning.keep_largest(CLASSES, "liver"),
        cleaning.remove_small(CLASSES, 4.0, "tumour"), cleaning.fill_holes(CLASSES, "liver"),
    ):  # fmt: skip
        once = act(labels, ONES)
        np.testing.assert_array_equal(act(once, ONES), once)


def test_nothing_stays_nothing():
    empty = np.zeros((4, 5), np.uint8)
    for act in (
        cleaning.keep_largest(CLASSES),
        cleaning.remove_small(CLASSES, 5.0),
        cleaning.fill_holes(CLASSES, "liver"),
    ):
        assert not act(empty, (1.0, 1.0)).any()


def test_an_unknown_class_or_size_is_refused():
    with pytest.raises(ValueError, match="one of liver, tumour"):
        cleaning.keep_largest(CLASSES, "livre")
    with pytest.raises(ValueError, match="want above 0"):
        cleaning.remove_small(CLASSES, 0)
