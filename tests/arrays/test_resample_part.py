"""A part of a resampled image is what the whole is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.arrays.boxes import crop
from autoseg.arrays.resample import Keep, Linear, Spline
from autoseg.arrays.resample_part import bands_of, linear_bands, needed, resample_part

sizes = st.tuples(st.integers(1, 2), st.integers(1, 400), st.integers(1, 60))
starts = st.tuples(*[st.floats(0, 1)] * 6)


def noise(*shape):
    return np.random.default_rng(0).normal(50, 20, shape).astype(np.float32)


def box_in(shape, shares):
    """A box of the shape, out of six numbers from 0 to 1."""
    box = []
    for size, (one, other) in zip(shape, zip(shares[::2], shares[1::2], strict=True), strict=True):
        first, last = sorted((int(one * (size - 1)), int(other * (size - 1))))
        box.append(slice(first, last + 1))
    return tuple(box)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, starts, st.sampled_from([Spline(), Linear()]))
def test_a_part_is_what_the_whole_is_there(old, new, shares, resampler):
    new = (old[0], *new[1:])
    array, box, ways = noise(2, *old), box_in(new, shares), bands_of(resampler)
    part = needed(box, old, new, ways)
    begin = [one.start for one in part]
    made = resample_part(crop(array, part), begin, box, old, new, ways)
    whole = resampler(array, new)
    assert made.dtype == np.float32 and made.shape == crop(whole, box).shape
    assert np.allclose(made, crop(whole, box), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(30_000, 20_011), (30_000, 44_999), (20_000, 600)])
@pytest.mark.parametrize("resampler", [Spline(), Linear()])
def test_the_end_of_a_long_side_is_exact_and_needs_little(resampler, n, m):
    array, new, ways = noise(1, 1, n, 1), (1, m, 1), bands_of(resampler)
    box = (slice(0, 1), slice(m - 40, m), slice(0, 1))
    part = needed(box, (1, n, 1), new, ways)
    assert part[1].stop > n - n / m and part[1].stop - part[1].start < 41 * n / m + 40
    made = resample_part(crop(array, part), [one.start for one in part], box, (1, n, 1), new, ways)
    assert np.allclose(made, resampler(array, new)[:, :, -40:], atol=2e-4, rtol=0)


def test_more_than_is_needed_may_be_given():
    array = noise(1, 1, 50, 1)
    whole = Linear()(array, (1, 20, 1))
    box = (slice(0, 1), slice(7, 9), slice(0, 1))
    assert np.allclose(resample_part(array, (0, 0, 0), box, (1, 50, 1), (1, 20, 1), linear_bands), whole[:, :, 7:9])


def test_a_resampler_of_another_kind_wants_the_whole():
    class Mine(Spline):
        """Someone's own, which may do anything."""

    assert bands_of(Mine()) is None and bands_of(lambda array, shape, coarse=None: array) is None
    assert bands_of(Keep()) is not None
