"""The choice of a model: the cheapest that is not shown to be worse."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.steps.choose import choose, compared, mean_dice

RNG = np.random.default_rng(0)
BASE = RNG.beta(20, 4, (60, 2))
FOLDS = [n % 5 for n in range(60)]
GROUPS = list(range(60))


def test_a_better_model_that_costs_more_is_taken_when_it_is_shown_to_be_better() -> None:
    scores = {"2d": BASE - 0.03 + RNG.normal(0, 0.01, BASE.shape), "2d+3d": BASE}
    verdict = choose(scores, {"2d": 1, "2d+3d": 3}, GROUPS, FOLDS)
    assert verdict.name == "2d+3d" and verdict.rows[1].worse
    assert verdict.nested == pytest.approx(mean_dice(BASE))


def test_a_difference_that_may_be_luck_does_not_pay_for_its_cost() -> None:
    scores = {"2d": BASE, "2d+3d": BASE + 0.0005 + RNG.normal(0, 0.02, BASE.shape)}
    verdict = choose(scores, {"2d": 1, "2d+3d": 3}, GROUPS, FOLDS)
    assert verdict.rows[0].name == "2d+3d" and verdict.name == "2d"
    assert verdict.row.apart is not None and verdict.row.apart[0] < 0 < verdict.row.apart[1]


def test_differences_are_paired_case_by_case() -> None:
    """The cases differ by far more than the models do, and still the difference is seen."""
    scores = {"a": BASE, "b": BASE - 0.002}
    rows = compared(scores, {"a": 2, "b": 1}, GROUPS)
    low, high = rows[1].apart or (0, 0)
    assert low == pytest.approx(0.002) == high
    wide = rows[0].interval
    assert wide is not None and wide[1] - wide[0] > 0.02


def test_many_slices_of_few_patients_show_less() -> None:
    better = np.repeat(BASE[:4] + np.array([[0.05], [-0.02], [0.03], [-0.01]]), 15, axis=0)
    scores = {"a": np.repeat(BASE[:4], 15, axis=0), "b": better}
    alone = choose(scores, {"a": 1, "b": 2}, GROUPS, FOLDS)
    grouped = choose(scores, {"a": 1, "b": 2}, [n // 15 for n in range(60)], [n // 15 for n in range(60)])
    assert alone.name == "b" and grouped.name == "a"


def test_what_is_reported_is_not_what_was_fitted() -> None:
    """Of twenty models that differ by luck alone the best looks better than it is on cases it was not chosen on."""
    rng = np.random.default_rng(5)
    truth = rng.beta(20, 4, (40, 1))
    scores = {f"m{n}": truth + rng.normal(0, 0.05, truth.shape) for n in range(20)}
    costs = dict.fromkeys(scores, 1.0)
    verdict = choose(scores, costs, range(40), [n % 5 for n in range(40)])
    assert verdict.nested is not None and verdict.nested < verdict.rows[0].dice - 0.002


def test_one_group_or_one_fold_is_no_evidence() -> None:
    verdict = choose({"a": BASE[:3], "b": BASE[:3] - 0.1}, {"a": 2, "b": 1}, ["p"] * 3, [0] * 3)
    assert (
        verdict.name == "b" and verdict.nested is None and verdict.row.interval is None
    )  # nothing shows that a is better


def test_a_class_that_counts_in_no_case_is_left_out() -> None:
    values = np.stack([BASE[:, 0], np.full(60, np.nan)], 1)
    assert mean_dice(values) == pytest.approx(BASE[:, 0].mean())
    assert mean_dice(np.full((2, 2), np.nan)) == 0
