import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.arrays.intensity import LEVELS, ClipScale, Keep, Range, ZScore, describe, pool
from autoseg.parts import NORMALISERS
from autoseg.records import Intensity, Part

few = settings(max_examples=40, deadline=None)
scales = st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30])
numbers = arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1, 1))
boxes = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4)
anything = st.floats(width=32, allow_nan=True, allow_infinity=True)
whatever = boxes.flatmap(lambda s: st.tuples(arrays.arrays(np.float32, s, elements=anything), arrays.arrays(bool, s)))
POOLED = Intensity(mean=5.0, sd=2.0, quantiles=tuple(float(level) / 10 for level in LEVELS))
NORMALISED = [
    ZScore(),
    ZScore(masked=True),
    ZScore(clip=2),
    ClipScale(POOLED),
    ClipScale(lower=-1e30, upper=1e30, mean=0, sd=1e-30),
    Range(),
    Range(lower=0, upper=1),
    Range(lower=-1e38),
    Keep(),
]


def volume(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


# -- describe and pool ---------------------------------------------------------------------------------


@few
@given(numbers, scales)
def test_describe_agrees_with_exact_sums_at_every_scale(values, scale):
    values = values * scale
    found = describe(values)
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum(((v - mean) / scale) ** 2 for v in values) / len(values)) * scale
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-12 * scale)
    assert found.sd == pytest.approx(sd, rel=1e-6, abs=1e-12 * scale)
    assert found.quantiles == tuple(sorted(found.quantiles))
    assert (found.quantiles[0], found.quantiles[-1]) == (values.min(), values.max())


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.float16, np.float32])
def test_describe_takes_any_dtype(dtype):
    values = np.array([0, 1, 1, 0], dtype)
    found = describe(values)
    assert (found.mean, found.sd) == (0.5, 0.5)
    assert found.quantiles[LEVELS.index(50)] == 0.5


def test_describe_int16_does_not_wrap_and_float32_does_not_drift():
    assert describe(np.full(100_000, 32767, np.int16)).mean == 32767
    assert describe(np.full(99_999, 1.1, np.float32)).mean == pytest.approx(float(np.float32(1.1)), rel=1e-12)


def test_describe_thins_by_a_fixed_step():
    values = np.arange(1001)
    assert describe(values, limit=100) == describe(values[::11])
    assert describe(values, limit=1001) == describe(values)


def test_describe_nothing():
    assert describe(np.array([])) is None
    with pytest.raises(ValueError, match="limit"):
        describe(np.ones(3), limit=0)


@few
@given(st.lists(numbers, min_size=1, max_size=4), scales)
def test_pooled_moments_are_those_of_all_values_when_cases_are_of_one_size(cases, scale):
    cases = [np.resize(case, 12) * scale for case in cases]
    pooled = pool(describe(case) for case in cases)
    everything = np.concatenate(cases)
    assert pooled.mean == pytest.approx(everything.mean(), rel=1e-9, abs=1e-12 * scale)
    assert pooled.sd == pytest.approx(everything.std(), rel=1e-6, abs=1e-7 * scale)
    assert (pooled.quantiles[0], pooled.quantiles[-1]) == (everything.min(), everything.max())


@few
@given(numbers)
def test_pooling_one_case_changes_nothing(values):
    case = describe(values)
    for pooled in (pool([case]), pool([case, case, case])):
        assert pooled.mean == pytest.approx(case.mean)
        assert pooled.sd == pytest.approx(case.sd, abs=1e-12)
    assert pool([case]).quantiles == pytest.approx(case.quantiles, abs=1e-12)


def test_pool_weighs_cases_alike_and_does_not_cancel():
    pooled = pool([describe(np.zeros(1000)), describe(np.ones(3))])
    assert (pooled.mean, pooled.sd) == (0.5, 0.5)
    far = describe(np.array([1e9 - 1, 1e9 + 1]))
    assert pool([far, far]).sd == 1.0
    with pytest.raises(ValueError, match="no intensities"):
        pool([])


def test_pooled_quantiles_come_near_those_of_all_values():
    rng = np.random.default_rng(0)
    cases = [rng.normal(centre, 1, 5000) for centre in (-1, 0, 2)]
    pooled = pool(describe(case) for case in cases)
    expected = np.percentile(np.concatenate(cases), LEVELS)
    assert np.allclose(pooled.quantiles[1:-1], expected[1:-1], atol=0.2)


# -- normalisers ---------------------------------------------------------------------------------------


@few
@given(whatever, st.sampled_from(NORMALISED))
def test_every_normaliser_is_zero_outside_and_finite_everywhere(drawn, normalise):
    channel, inside = drawn
    before = channel.copy()
    result = normalise(channel, inside)
    assert result.dtype == np.float32
    assert result.shape == channel.shape
    assert np.isfinite(result).all()
    assert not result[~inside].any()
    assert np.array_equal(channel, before, equal_nan=True)


@few
@given(scales, st.floats(-50, 50), st.booleans())
def test_zscore_has_mean_0_sd_1_and_does_not_see_scale_or_offset(scale, offset, everywhere):
    channel = volume(4, 5, 6).astype(np.float64)
    inside = np.ones(channel.shape, bool) if everywhere else channel > 2
    result = ZScore()(((channel + offset) * scale).astype(np.float32), inside)
    values = result[inside].astype(np.float64)
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-5)
    assert np.allclose(result, ZScore()(channel.astype(np.float32), inside), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.1, -3e7, 1e30, 1e-30])
def test_a_constant_image_becomes_zero(value):
    channel = np.full((3, 5, 7), value, np.float32)
    inside = np.ones(channel.shape, bool)
    for normalise in (ZScore(), ZScore(masked=True), Range()):
        assert not normalise(channel, inside).any()


def test_zscore_masked_leaves_zeros_out():
    channel = np.array([[[0, 0, 2, 4]]], np.float32)
    inside = np.ones(channel.shape, bool)
    assert ZScore(masked=True)(channel, inside).ravel().tolist() == [0, 0, -1, 1]
    assert inside.all()


def test_zscore_clip():
    channel = np.zeros((1, 1, 101), np.float32)
    channel[..., 0] = 1
    assert ZScore(clip=3)(channel, np.ones(channel.shape, bool)).max() == 3
    with pytest.raises(ValueError, match="clip"):
        ZScore(clip=0)


def test_clip_scale_by_hand_and_as_a_plan_stores_it():
    measured = ClipScale(POOLED)
    assert measured.options() == {"lower": 0.05, "upper": 9.95, "mean": 5.0, "sd": 2.0}
    channel = np.array([[[-100, 5, 7, 100]]], np.float32)
    inside = np.ones(channel.shape, bool)
    result = measured(channel, inside)
    assert np.allclose(result.ravel(), [-2.475, 0, 1, 2.475])
    assert np.array_equal(ClipScale(**measured.options())(channel, inside), result)
    assert ClipScale(POOLED, upper=7)(channel, inside).ravel()[3] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "lower is needed"),
        ({"lower": 0, "upper": 1, "mean": 0}, "sd is needed"),
        ({"lower": 2, "upper": 1, "mean": 0, "sd": 1}, "lower <= upper"),
        ({"lower": 0, "upper": 1, "mean": 0, "sd": -1}, "sd >= 0"),
        ({"lower": 0, "upper": math.inf, "mean": 0, "sd": 1}, "not finite"),
    ],
)
def test_clip_scale_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ClipScale(**options)


def test_clip_scale_without_spread_is_zero():
    normalise = ClipScale(lower=0, upper=1, mean=0.5, sd=0)
    assert not normalise(volume(2, 2, 2), np.ones((2, 2, 2), bool)).any()


def test_range_by_hand():
    channel = np.array([[[-10, 0, 5, 20]]], np.float32)
    inside = np.ones(channel.shape, bool)
    assert Range(lower=0, upper=10)(channel, inside).ravel().tolist() == [0, 0, 0.5, 1]
    assert np.allclose(Range()(channel, inside).ravel(), [0, 1 / 3, 0.5, 1])
    assert np.allclose(Range(lower=0)(channel, inside).ravel(), [0, 0, 0.25, 1])
    assert not Range(lower=50)(channel, inside).any()
    with pytest.raises(ValueError, match="below"):
        Range(lower=1, upper=1)


@few
@given(whatever)
def test_keep_keeps(drawn):
    channel, inside = drawn
    where = inside & np.isfinite(channel)
    assert np.array_equal(Keep()(channel, inside)[where], channel[where])


def test_the_table_builds_each_of_them():
    for name, options in {"zscore": {"masked": True}, "ct": {"sd": 3.0}, "range": {}, "none": {}}.items():
        normalise = NORMALISERS.build(Part(name=name, options=options), intensity=POOLED)
        assert normalise(volume(2, 3, 4), np.ones((2, 3, 4), bool)).shape == (2, 3, 4)
