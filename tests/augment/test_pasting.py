"""Copy-paste: which object is taken, and where it may go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.augment.pasting import CopyPaste, object_at, paste
from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Part


def lesion(shape=(10, 12), at=(slice(4, 6), slice(5, 8)), index=2) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[at] = index
    return label


def test_the_object_is_the_component_of_the_voxel_in_its_class_alone() -> None:
    label = lesion()
    label[4, 8] = 1  # another class that touches
    label[8, 2] = 2  # the same class apart
    assert np.array_equal(object_at(label, (5, 6), ((True, True),) * 2), lesion() == 2)


@pytest.mark.parametrize("at", [(slice(0, 2), slice(5, 8)), (slice(4, 6), slice(9, 12))])
def test_an_object_that_the_border_cuts_is_none(at) -> None:
    label, voxel = lesion(at=at), (at[0].start, at[1].start)
    assert object_at(label, voxel, ((True, True),) * 2) is None
    assert np.array_equal(object_at(label, voxel, ((False, False),) * 2), label == 2)  # the case ends there itself


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3))
def test_what_is_pasted_is_the_object_whole_within_the_patch_and_nothing_else(place) -> None:
    label = lesion((8, 9, 10), (slice(2, 4), slice(3, 6), slice(4, 5)), index=3)
    donor = np.arange(2 * label.size, dtype=np.float32).reshape(2, *label.shape) + 1
    image, onto = np.zeros((2, 12, 13, 14), np.float32), np.zeros((12, 13, 14), np.uint8)
    mask = label == 3
    assert paste(image, onto, donor, 3, mask, place, (8, 9, 10))
    assert (onto == 3).sum() == mask.sum() and set(np.unique(onto)) == {0, 3}
    assert np.array_equal(image[:, onto == 3], donor[:, mask])  # same voxels in the same order: same shape
    assert not image[:, onto == 0].any()
    assert (onto[2:10, 2:11, 2:12] == 3).sum() == mask.sum()  # the patch in the middle of what was read


@pytest.mark.parametrize("there", [1, IGNORE])
def test_nothing_is_pasted_over_a_class_or_outside_the_case(there) -> None:
    image, onto = np.zeros((1, 10, 12)), np.full((10, 12), there, np.uint8)
    label = lesion()
    assert not paste(image, onto, np.ones((1, 10, 12)), 2, label == 2, (0.5, 0.5), (10, 12))
    assert (onto == there).all() and not image.any()


def test_an_object_larger_than_the_patch_finds_no_room() -> None:
    image, onto = np.zeros((1, 10, 12)), np.zeros((10, 12), np.uint8)
    assert not paste(image, onto, np.ones((1, 10, 12)), 2, lesion() == 2, (0, 0), (1, 12))


@pytest.mark.parametrize("options", [{"probability": 2.0}, {"largest": 0.0}, {"largest": 1.5}, {"classes": [0]}])
def test_options_that_make_no_sense_are_refused(options) -> None:
    with pytest.raises(BadPlan):
        AUGMENTATIONS.build(Part(name="copy_paste", options=options), dims=2)


def test_the_share_of_samples_is_the_probability() -> None:
    part, rng = CopyPaste(probability=0.3), np.random.default_rng(0)
    found = [part.pasted(rng, 2) for _ in range(4000)]
    assert 0.27 < sum(drawn is not None for drawn in found) / 4000 < 0.33
