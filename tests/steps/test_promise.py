"""What the curve of a run promises: its own power law carried on, damped."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.steps.promise import LASTING, promised, sentence


def log(steps: int, errors, classes: int = 2):
    """Points at ten steps; the classes' Dice lie around the mean."""
    for number in range(1, 11):
        step = steps * number // 10
        mean = 1 - errors(step)
        spread = 0.01 * np.linspace(-1, 1, classes)
        yield {"step": step, "loss": 0.1, "pseudo_dice": {f"c{n}": mean + off for n, off in enumerate(spread)}}
        yield {"step": step + 1, "loss": 0.1}


@pytest.mark.parametrize("exponent", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("steps", [100, 7155])
def test_a_power_law_is_carried_on_with_the_share_of_its_exponent_that_lasts(exponent, steps) -> None:
    found = promised(log(steps, lambda t: 0.5 * (t / steps) ** -exponent / 2), steps, 0.75)
    assert found == pytest.approx(1 - 0.25 * 2 ** (-LASTING * exponent), abs=1e-4)


@pytest.mark.parametrize("errors", [lambda t: 0.3, lambda t: 0.1 + t * 1e-5])
def test_a_flat_or_falling_curve_promises_nothing(errors) -> None:
    found = promised(log(1000, errors), 1000, 0.7)
    assert found == 0.7 and "no more than this Dice of 0.700" in sentence(0.7, found)


def test_nothing_is_promised_where_nothing_is_known() -> None:
    assert promised([], 100, 0.5) is None
    assert promised(list(log(100, lambda t: 0.5))[:8], 100, 0.5) is None  # the first 40 steps alone
    assert promised(log(100, lambda t: 0.5), 100, 1.0) is None
    assert promised([{"step": 90, "pseudo_dice": 3}, {"pseudo_dice": {"a": 1.0}}] * 9, 100, 0.5) is None
    empty = [{"step": 10 * n, "pseudo_dice": {"a": None}} for n in range(11)]
    assert promised(empty, 100, 0.5) is None


def test_the_sentence_names_both() -> None:
    assert sentence(0.8741, 0.8812).startswith("twice the steps promise a Dice of about 0.881 (now 0.874)")
