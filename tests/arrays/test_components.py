import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from autoseg.arrays.components import count, keep_largest, label_components, sizes, touching

few = settings(max_examples=40, deadline=None)
shapes = arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7)
masks = shapes.flatmap(lambda s: arrays.arrays(bool, s))
labels = shapes.flatmap(lambda s: arrays.arrays(np.uint8, s, elements=st.sampled_from([0, 0, 1, 2, 255])))


def by_scipy(mask):
    return ndimage.label(mask, np.ones((3,) * mask.ndim))


@few
@given(masks)
def test_masks_agree_with_scipy(mask):
    numbers, found = by_scipy(mask)
    assert count(mask) == found
    assert sorted(sizes(mask)) == sorted(np.bincount(numbers.ravel())[1:])
    assert sizes(mask).dtype == np.int64


@few
@given(labels)
def test_every_class_agrees_with_scipy(label):
    found = label_components(label)
    assert len(found.classes) == len(found.sizes) == found.numbers.max(initial=0)
    for value in (1, 2, 255):
        numbers, n = by_scipy(label == value)
        assert (found.classes == value).sum() == n
        assert sorted(found.sizes[found.classes == value]) == sorted(np.bincount(numbers.ravel())[1:])
    assert np.array_equal(np.concatenate([[0], found.classes])[found.numbers], label)


@few
@given(masks)
def test_keep_largest_keeps_one_whole_component(mask):
    kept = keep_largest(mask)
    assert kept.dtype == bool
    assert not (kept & ~mask).any()
    assert kept.sum() == sizes(mask).max(initial=0)
    assert count(kept) == min(1, count(mask))
    assert np.array_equal(keep_largest(kept), kept)


def test_corners_touch():
    assert count(np.eye(3, dtype=bool)) == 1
    cube = np.zeros((2, 2, 2), bool)
    cube[0, 0, 0] = cube[1, 1, 1] = True
    assert count(cube) == 1


def test_the_first_of_equals_is_kept_in_any_memory_order():
    mask = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], bool)
    for same in (mask, np.asfortranarray(mask), mask[:, ::-1][:, ::-1]):
        assert np.argwhere(keep_largest(same)).tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", [(1, 51, 51), (51, 1, 51), (51, 51, 1), (1, 1, 51), (5, 51, 51)])
def test_single_voxels_in_thin_volumes(shape):
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    assert count(mask) == mask.sum()


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 4), (0, 3), (0, 2, 2)])
def test_empty(shape):
    mask = np.zeros(shape, bool)
    assert count(mask) == 0
    assert sizes(mask).shape == (0,)
    assert keep_largest(mask).shape == shape
    found = label_components(mask.astype(np.uint8))
    assert found.numbers.shape == shape
    assert found.classes.size == found.sizes.size == 0


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="1 axes"):
        count(np.ones(3, bool))


@few
@given(labels, st.integers(0, 2**32 - 1))
def test_what_touches_a_mask_is_what_has_a_voxel_in_it(label, seed):
    where = np.random.default_rng(seed).random(label.shape) < 0.3
    found = label_components(label)
    inside = set(np.unique(found.numbers[where])) - {0}
    assert touching(found, where).tolist() == [number in inside for number in range(1, len(found.sizes) + 1)]
