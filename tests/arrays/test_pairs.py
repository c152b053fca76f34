"""Pairs: cut to what they hold, with distances that an exhaustive search gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from autoseg.arrays import pairs as pairing
from autoseg.arrays.pairs import pairs, surface

few = settings(max_examples=40, deadline=None)
SHAPES = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
LABELS = SHAPES.flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.integers(0, 3)),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255])),
    )
)
SPACING = (2.0, 0.5, 1.25)


@few
@given(LABELS, st.sets(st.integers(0, 3), min_size=1))
def test_a_pair_holds_what_a_mask_of_the_whole_image_holds(labels, group):
    prediction, reference = labels
    spacing = SPACING[: reference.ndim]
    (pair,) = pairs(prediction, reference, [sorted(group)], spacing)
    counts = reference != 255
    for mask, label in ((pair.prediction, prediction), (pair.reference, reference)):
        whole = np.zeros(reference.shape, bool)
        whole[tuple(slice(a, a + n) for a, n in zip(pair.starts, mask.shape, strict=True))] = mask
        np.testing.assert_array_equal(whole, np.isin(label, [*group]) & counts)
    assert pair.voxels == counts.sum()
    assert pair.shape == reference.shape
    assert pair.diagonal == pytest.approx(np.linalg.norm(np.multiply(reference.shape, spacing)))


@few
@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)))
def test_the_surface_is_what_an_erosion_takes_away(mask):
    assert (surface(mask, range(mask.ndim)) == (mask & ~binary_erosion(mask))).all()


@pytest.mark.parametrize("dense", [0.0, 1e9], ids=["map", "tree"])
@few
@given(labels=LABELS)
def test_distances_are_those_of_an_exhaustive_search(dense, labels):
    prediction, reference = labels
    spacing = SPACING[: reference.ndim]
    (pair,) = pairs(prediction, reference, [(1,)], spacing)
    if not (pair.prediction.any() and pair.reference.any()):
        return
    ours, theirs = (np.argwhere(surface(mask, pair.axes)) * spacing for mask in (pair.prediction, pair.reference))
    all_of_them = cdist(ours, theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "DENSE", dense)
        found = pair.distances
    for side, wanted in zip(found, (all_of_them.min(1), all_of_them.min(0)), strict=True):
        np.testing.assert_allclose(np.sort(side), np.sort(wanted))


def test_a_flat_volume_has_the_surface_of_a_picture():
    picture = np.zeros((9, 9), np.uint8)
    picture[2:7, 2:7] = 1
    (flat,) = pairs(picture[None], picture[None], [(1,)], (5.0, 1.0, 1.0))
    (plain,) = pairs(picture, picture, [(1,)], (1.0, 1.0))
    assert len(flat.distances[0]) == len(plain.distances[0]) == 16


def test_a_class_that_is_nowhere_is_a_pair_of_nothing():
    label = np.zeros((3, 3), np.uint8)
    (pair,) = pairs(label, label, [(2,)], (1.0, 1.0))
    assert pair.prediction.size == pair.reference.size == 0
