"""Values, objects and thumbs: laws, and equality with plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from autoseg.arrays.statistics import (
    AFTER,
    BEFORE,
    IMAGE,
    alike,
    describe_values,
    distances,
    objects,
    outlyingness,
    rim,
    thumb,
)

few = settings(max_examples=40, deadline=None)
whole_numbers = arrays.arrays(np.int16, st.integers(1, 200), elements=st.integers(-300, 300))
labels = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 2))


@few
@given(whole_numbers, st.sampled_from([np.int16, np.float32, np.int64]))
def test_whole_numbers_are_listed_when_they_are_few(values, dtype):
    found = describe_values(values.astype(dtype))
    met = np.unique(values)
    assert found.whole and found.distinct == (tuple(met.tolist()) if len(met) <= 64 else None)
    assert found.saturated == pytest.approx((values == values.max()).mean())
    assert found.bits == int(values.max() - values.min()).bit_length()


@pytest.mark.parametrize(
    ("values", "whole", "bits"),
    [
        (np.array([0, 4095], np.uint16), True, 12),
        (np.array([-1024, 3071], np.int16), True, 12),
        (np.array([-32768, 32767], np.int16), True, 16),
        (np.array([0, 2**64 - 1], np.uint64), True, 64),
        (np.array([7.0, 7.0], np.float32), True, 0),
        (np.array([0.5, 0.5], np.float32), False, 0),
        (np.array([0.5, 2.0], np.float32), False, 32),
        (np.append(np.zeros(5000), 0.5).astype(np.float32), False, 32),
    ],
)
def test_bits_are_those_of_the_range_in_use(values, whole, bits):
    found = describe_values(values)
    assert (found.whole, found.bits) == (whole, bits) and (found.distinct is None) == (not whole)


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 10**30, -(2**63)])
def test_the_largest_numbers_are_listed_as_they_are(value):
    dtype = np.float32 if value == 10**30 else np.uint64 if value > 0 else np.int64
    values = np.array([value, value], dtype)
    assert describe_values(values).distinct == (int(values[0]),)


def test_no_values_are_nothing():
    assert describe_values(np.zeros(0, np.uint8)) is None


@few
@given(labels, st.booleans())
def test_objects_are_those_of_scipy(label, flat):
    spacing = (2.0, 3.0, 5.0)
    found = objects(label, 3, spacing, rim(label.shape), flat=flat)
    near = np.ones((1 if flat else 3, 3, 3)) if not flat else np.pad(np.ones((1, 3, 3)), ((1, 1), (0, 0), (0, 0)))
    edge = rim(label.shape) == IMAGE
    for value, one in enumerate(found, 1):
        numbers, count = ndimage.label(label == value, near)
        sizes = np.bincount(numbers.ravel())[1:] * (15.0 if flat else 30.0)
        assert one.count == count
        assert one.sizes == pytest.approx(np.percentile(sizes, (0, 25, 50, 75, 100)) if count else ())
        met = len(set(np.unique(numbers[edge])) - {0})
        assert one.edge == pytest.approx(met / count if count else 0)


@few
@given(labels, st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(0, 3)] * 3))
def test_a_class_stays_as_far_from_the_edge_as_its_nearest_voxel(label, starts, ends):
    spacing, shape = (2.0, 3.0, 5.0), tuple(np.add(np.add(label.shape, starts), ends).tolist())
    to_edge = np.full(shape, np.inf)
    for axis, at in enumerate(np.indices(shape)):
        if shape[axis] > 1:
            to_edge = np.minimum(to_edge, np.minimum(at, shape[axis] - 1 - at) * spacing[axis])
    inside = to_edge[tuple(slice(a, a + n) for a, n in zip(starts, label.shape, strict=True))]
    nearest = [inside[label == value].min() if (label == value).any() else None for value in (1, 2, 3)]
    expected = [None if near is None or np.isinf(near) else near for near in nearest]
    assert distances(label, 3, spacing, starts, shape) == expected


def test_an_image_ends_along_the_axes_that_it_has():
    assert rim((1, 1, 1)).sum() == 0 and (rim((1, 2, 2)) == IMAGE).all()
    assert rim((1, 3, 3))[0].tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_the_border_of_a_ball_is_its_surface(spacing):
    shape = [int(60 / size) for size in spacing]
    axes = (np.arange(n) * size - n * size / 2 for n, size in zip(shape, spacing, strict=True))
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    ball = (distance < 20).astype(np.uint8)
    assert objects(ball, 1, spacing, rim(ball.shape), flat=False)[0].border == pytest.approx(4 * np.pi * 400, rel=0.03)
    disc = ball[shape[0] // 2][None]
    found = objects(disc, 1, (9.0, *spacing[1:]), rim(disc.shape), flat=True)[0]
    assert found.border == pytest.approx(2 * np.pi * 20, rel=0.03)


def test_objects_that_windows_cut_are_counted_once_and_sized_whole():
    rng = np.random.default_rng(0)
    image = np.zeros((61, 61), np.uint8)
    for y in range(3, 57, 4):
        for x in range(3, 57, 4):
            dy, dx = rng.integers(0, 2, 2)
            image[y + dy : y + dy + 2, x + dx : x + dx + 2] = 1
    parts, rims = [], []
    for y in range(0, 60, 20):  # the first line of a window is the last of the one before
        for x in range(0, 60, 20):
            part = np.zeros((21, 21), np.uint8)
            part[-1], part[:, -1] = AFTER if y < 40 else IMAGE, AFTER if x < 40 else IMAGE
            part[0], part[:, 0] = BEFORE if y else part[0], BEFORE if x else part[:, 0]
            parts.append(image[y : y + 21, x : x + 21])
            rims.append(part)
    found = objects(np.stack(parts), 1, (1.0, 1.0, 1.0), np.stack(rims), flat=True)[0]
    assert found.count == 14 * 14 < sum(ndimage.label(part)[1] for part in parts)
    assert set(found.sizes) == {4.0}
    twice = objects(np.stack(parts), 1, (1.0, 1.0, 1.0), np.stack(rims), flat=True, scale=2.0)[0]
    assert twice.count == 2 * found.count and twice.border == pytest.approx(2 * found.border)


def picture(seed: int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, size)
    return ndimage.gaussian_filter(noise, 3) * 100 + 100


def bits(text: str) -> np.ndarray:
    return np.array([[*bytes.fromhex(text)]], np.uint8)


def test_thumbs_of_copies_are_alike_and_others_are_not():
    one = picture(0)
    copies = [
        one * 0.7 + 20,
        one[::2, ::2],
        one + np.random.default_rng(9).normal(0, 1, one.shape),
        one.astype(np.uint8),
    ]
    thumbs = np.concatenate([bits(thumb(image)) for image in (one, *copies, *(picture(n) for n in range(1, 9)))])
    assert thumbs.shape == (13, 32)
    pairs = set(alike(thumbs, 32))
    assert {(0, 1), (0, 2), (0, 3), (0, 4)} <= pairs and all(second < 5 for _, second in pairs)
    assert (0, 1) in set(alike(thumbs, 0))


def test_what_tells_nothing_has_no_thumb():
    assert (
        thumb(np.zeros((50, 50))) == thumb(picture(0)[:15]) == thumb(picture(0)[:, :17]) == thumb(np.ones((1, 1))) == ""
    )
    nothing = np.full((40, 40), np.nan)
    assert thumb(nothing, np.isfinite(nothing)) == ""


def test_alike_agrees_with_plain_counting_over_many_rows():
    thumbs = np.random.default_rng(0).integers(0, 256, (700, 32)).astype(np.uint8)
    thumbs[600] = thumbs[3]
    thumbs[600, 0] ^= 0b111
    assert [*alike(thumbs, 3)] == [(3, 600)] and [*alike(thumbs, 2)] == []


def test_outlyingness_is_in_standard_deviations_and_not_moved_by_outliers():
    values = np.random.default_rng(0).normal(5, 2, 2000)
    values[0] = 1e6
    assert outlyingness(values, 0.0)[1:] == pytest.approx((values[1:] - 5) / 2, abs=0.25)
    assert np.abs(outlyingness(np.full(9, 3.0), 0.05)).max() == 0
