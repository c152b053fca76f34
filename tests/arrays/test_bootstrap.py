"""Intervals: as wide as theory says, and drawn by groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from autoseg.arrays.bootstrap import interval, redrawn


def test_it_is_scipys_percentile_interval() -> None:
    values = np.random.default_rng(0).beta(8, 2, 60)
    found = interval(values[:, None], range(60), draws=20000)
    wanted = bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(1))
    assert found == pytest.approx(tuple(wanted.confidence_interval), abs=0.002)


def test_cases_of_one_group_are_no_independent_evidence() -> None:
    few = np.random.default_rng(1).normal(size=20)
    many, groups = np.repeat(few, 10), np.repeat(range(20), 10)
    as_groups = interval(many[:, None], list(groups))
    alone = interval(few[:, None], range(20))
    naive = interval(many[:, None], range(200))
    assert as_groups is not None and alone is not None and naive is not None
    assert as_groups == pytest.approx(alone)
    assert (naive[1] - naive[0]) * 2.5 < as_groups[1] - as_groups[0]


def test_of_several_columns_it_is_the_mean_of_their_means() -> None:
    values = np.array([[0.0, 1.0], [0.0, np.nan], [0.0, np.nan]])
    draws = redrawn(values, "abc")
    assert set(np.round(draws, 9)) <= {0.5, 0.0}  # the second column counts where its only case is drawn


def test_the_same_values_give_the_same_interval_and_one_group_none() -> None:
    values = np.random.default_rng(2).random((12, 1))
    assert interval(values, range(12)) == interval(values, range(12))
    assert interval(values, ["a"] * 12) is None
    assert interval(np.full((3, 1), np.nan), "abc") is None
