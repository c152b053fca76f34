import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.arrays.intensity import LEVELS, clipped, describe, percentile, pool, within

few = settings(max_examples=40, deadline=None)
scales = st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30])
numbers = arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1, 1))


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


def test_percentile_reads_the_levels_and_straight_between_them():
    found = describe(np.arange(1001.0))
    assert [percentile(found, level) for level in LEVELS] == list(found.quantiles)
    assert percentile(found, 60) == pytest.approx(600)


@few
@given(numbers, st.floats(-1, 1), st.floats(-1, 1))
def test_clipped_lies_within_and_leaves_alone_what_does(values, one, other):
    lower, upper = min(one, other), max(one, other)
    found = clipped(describe(values), lower, upper)
    assert lower <= found.quantiles[0] and found.quantiles[-1] <= upper and found.sd <= (upper - lower) / 2 + 1e-12
    assert clipped(describe(values), -1, 1).quantiles == pytest.approx(describe(values).quantiles, abs=1e-12)


def test_clipped_has_nearly_the_moments_of_the_clipped_values():
    values = np.random.default_rng(0).gamma(2, 300, 50_000)
    values[:200] = 1e6  # 0.4 %: outliers
    found, exact = clipped(describe(values), 20, 2000), np.clip(values, 20, 2000)
    assert found.mean == pytest.approx(exact.mean(), rel=0.05)
    assert found.sd == pytest.approx(exact.std(), rel=0.1)


def test_within_forgets_what_files_are_filled_with():
    values = np.random.default_rng(0).normal(500, 50, 70_000)
    filled = np.concatenate([np.full(30_000, -9999.0), values])
    found, plain = within(describe(filled), -9998, math.inf), describe(values)
    assert abs(found.mean - plain.mean) < plain.sd and plain.sd / 2 < found.sd < 2 * plain.sd
    assert found.quantiles[0] > 300 and found.quantiles[-1] == describe(filled).quantiles[-1]


def test_within_bounds_that_hold_all_or_nothing():
    found = describe(np.arange(100.0))
    assert within(found, -1, 100) == found
    assert within(found, 200, 300) is None and within(describe(np.ones(5)), 2, 3) is None
