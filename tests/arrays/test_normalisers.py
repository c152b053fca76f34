import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.arrays.intensity import LEVELS
from autoseg.arrays.normalisers import Angle, ClipScale, Keep, OneHot, Range, ZScore
from autoseg.parts import NORMALISERS
from autoseg.records import Intensity, Part

few = settings(max_examples=40, deadline=None)
scales = st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30])
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
    OneHot([0, 7, -3]),
    Angle(),
    Angle(1e-6),
]


def volume(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


@few
@given(whatever, st.sampled_from(NORMALISED))
def test_every_normaliser_is_zero_outside_and_finite_everywhere(drawn, normalise):
    channel, inside = drawn
    before = channel.copy()
    result = normalise(channel, inside)
    assert result.dtype == np.float32
    outputs = getattr(normalise, "outputs", 1)
    assert result.shape == (channel.shape if outputs == 1 else (outputs, *channel.shape))
    assert np.isfinite(result).all()
    assert not result[..., ~inside].any()
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


@few
@given(st.lists(st.integers(-20, 90), min_size=1, max_size=8, unique=True), st.integers(0, 99))
def test_onehot_is_the_identity_matrix_read_by_value(values, seed):
    rng = np.random.default_rng(seed)
    channel = rng.choice([*values, 100], (3, 4, 5)).astype(np.float32)
    inside = rng.random(channel.shape) < 0.8
    result = OneHot(values)(channel, inside)
    assert np.array_equal(result.sum(0), inside & (channel != 100))
    assert np.array_equal(np.tensordot(values, result, 1), np.where(inside & (channel != 100), channel, 0))


@pytest.mark.parametrize("values", [[], [1, 2, 1]])
def test_onehot_wants_every_value_once(values):
    with pytest.raises(ValueError, match="each once"):
        OneHot(values)


@few
@given(st.floats(0.5, 1000), st.integers(-3, 3), st.integers(0, 99))
def test_an_angle_can_be_read_back_and_whole_turns_do_not_matter(period, turns, seed):
    channel = np.random.default_rng(seed).uniform(0, period, (2, 3, 4)).astype(np.float32)
    inside = np.ones(channel.shape, bool)
    sine, cosine = Angle(period)(channel, inside)
    assert np.allclose(sine**2 + cosine**2, 1, atol=1e-5)
    apart = np.mod(np.arctan2(sine, cosine) / (2 * np.pi) * period - channel, period)
    assert np.minimum(apart, period - apart).max() < 1e-4 * period
    assert np.allclose(Angle(period)(channel + np.float32(turns * period), inside), [sine, cosine], atol=1e-4)


@pytest.mark.parametrize("period", [0, -180.0, math.inf, math.nan])
def test_an_angle_needs_a_period(period):
    with pytest.raises(ValueError, match="period"):
        Angle(period)


def test_the_table_builds_each_of_them():
    for name, options in {"zscore": {"masked": True}, "ct": {"sd": 3.0}, "clip": {"mean": 1.0}, "none": {}}.items():
        normalise = NORMALISERS.build(Part(name=name, options=options), intensity=POOLED)
        assert normalise(volume(2, 3, 4), np.ones((2, 3, 4), bool)).shape == (2, 3, 4)
