import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.arrays.boxes import bounding_box, crop, nonzero_box, pad_to, uncrop, whole

few = settings(max_examples=40, deadline=None)
shapes = arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
masks = shapes.flatmap(lambda shape: arrays.arrays(bool, shape))
images = shapes.flatmap(lambda shape: arrays.arrays(np.int16, (2, *shape), elements=st.integers(-3, 3)))


@st.composite
def images_and_boxes(draw):
    image = draw(images)
    box = []
    for size in image.shape[1:]:
        start = draw(st.integers(0, size - 1))
        box.append(slice(start, draw(st.integers(start + 1, size))))
    return image, tuple(box)


@few
@given(masks)
def test_bounding_box_holds_all_and_is_tight(mask):
    box = bounding_box(mask)
    assert crop(mask, box).sum() == mask.sum()
    if mask.any():
        inside = crop(mask, box)
        for axis in range(mask.ndim):
            assert np.take(inside, 0, axis).any()
            assert np.take(inside, -1, axis).any()
    else:
        assert box == whole(mask.shape)


@few
@given(images_and_boxes())
def test_crop_then_uncrop_gives_back_the_inside_and_fills_the_rest(drawn):
    image, box = drawn
    back = uncrop(crop(image, box), box, image.shape[1:], -7)
    outside = np.ones(image.shape[1:], bool)
    outside[box] = False
    assert back.dtype == image.dtype
    assert np.array_equal(back[:, ~outside], image[:, ~outside])
    assert (back[:, outside] == -7).all()


@few
@given(images, st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_pad_then_cut_gives_back_the_array(image, wanted):
    wanted = wanted[: image.ndim - 1]
    padded, box = pad_to(image, wanted, 5)
    assert np.array_equal(crop(padded, box), image)
    assert padded.shape[1:] == tuple(np.maximum(image.shape[1:], wanted))
    assert (padded == 5).sum() == (image == 5).sum() + padded.size - image.size
    for cut, have, full in zip(box, image.shape[1:], padded.shape[1:], strict=True):
        assert 0 <= (full - cut.stop) - cut.start <= 1
        assert cut.stop - cut.start == have


@few
@given(images, st.booleans())
def test_nonzero_box_is_the_box_of_valid_voxels_where_a_channel_differs_from_zero(image, limited):
    valid = image[0] != 1 if limited else None
    mask = (image != 0).any(axis=0) & (valid if valid is not None else True)
    assert nonzero_box(image, valid) == bounding_box(mask)


def test_by_hand():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = mask[2, 4] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 5))
    padded, box = pad_to(np.array([1, 2]), (5,), 0)
    assert padded.tolist() == [0, 1, 2, 0, 0]
    assert box == (slice(1, 3),)


def test_nothing_missing_copies_nothing():
    array = np.zeros((3, 3))
    assert pad_to(array, (2, 3), 0)[0] is array


def test_uncrop_refuses_what_does_not_fill_the_box():
    with pytest.raises(ValueError, match="does not fill"):
        uncrop(np.zeros((1, 1)), (slice(0, 2), slice(0, 2)), (3, 3), 0)  # would broadcast
    with pytest.raises(ValueError, match="zip"):
        uncrop(np.zeros((2, 2)), (slice(0, 2), slice(0, 2)), (3,), 0)
