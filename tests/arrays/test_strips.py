"""What is joined strip by strip is what is connected as a whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autoseg.arrays import cleaning, components, strips

few = settings(max_examples=150, deadline=None)
CLASSES = {"liver": 1, "tumour": 2}
LABELS = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2]))
)
SPACING = (0.5, 2.0, 3.0)
ACTS = [
    cleaning.keep_largest(CLASSES), cleaning.keep_largest(CLASSES, "tumour"), cleaning.remove_small(CLASSES, 6.5),
    cleaning.remove_small(CLASSES, 3.5, "liver"), cleaning.fill_holes(CLASSES, "liver"),
]  # fmt: skip


@few
@given(LABELS, st.integers(1, 5), st.sampled_from(ACTS))
def test_a_step_in_strips_does_what_it_does_to_the_whole(labels, each, act):
    spacing = SPACING[: labels.ndim]
    wanted, found = act(labels, spacing), labels.copy()
    act.in_strips(found, each, spacing)
    np.testing.assert_array_equal(found, wanted)


@few
@given(LABELS, st.integers(1, 5), st.booleans())
def test_objects_are_those_of_the_whole(labels, each, corners):
    mask = (labels > 0).astype(np.uint8)
    whole, count = components.numbered(mask, corners)
    found = strips.joined(mask, each, lambda strip: strip, corners=corners)
    assert sorted(found.sizes.tolist()) == sorted(np.bincount(whole.ravel(), minlength=count + 1)[1:].tolist())
    pairs = set()  # of an object there and here: one to one
    for rows, objects in zip(strips.parts(mask, each), found.objects, strict=True):
        local, _ = components.numbered(mask[rows], corners)
        inside = local > 0
        pairs |= {*zip(whole[rows][inside].tolist(), objects[local[inside].astype(int) - 1].tolist(), strict=True)}
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs}) == count
