"""Which cases are drawn: how often, from which losses, and again the same after a stop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from autoseg.errors import BadPlan
from autoseg.parts import SAMPLINGS
from autoseg.records import Part
from autoseg.steps.sampling import LAG, Chooser, Uniform

PRESENT = [{1}] * 9 + [{1, 2}]


def sampling(name: str, **options):
    return SAMPLINGS.build(Part(name=name, options=options), present=PRESENT)


def drawn(chooser: Chooser, step: int, batch: int = 2, seed: int = 3) -> list[int]:
    """The cases of a step, as a batch draws them."""
    cases = [chooser.pick(step, np.random.default_rng([seed, step, number])) for number in range(batch)]
    chooser.drawn(step, cases)
    return cases


def walk(chooser: Chooser, first: int, last: int, loss_of) -> list[list[int]]:
    """Steps first … last − 1, with the next batch drawn before the loss of the present one is known."""
    found, ready = [], drawn(chooser, first)
    for step in range(first, last):
        present, ready = ready, drawn(chooser, step + 1)
        chooser.tell(step, loss_of(step, present))
        found.append(present)
    return found


def test_uniform_draws_as_one_number_of_the_generator_says() -> None:
    chooser = Chooser(Uniform(), 10)
    for step in range(20):
        assert chooser.pick(step, np.random.default_rng(step)) == np.random.default_rng(step).integers(10)
    assert chooser.tensors(20) == {}


def test_balanced_draws_the_only_case_of_a_rare_class_so_much_more_often() -> None:
    chooser, rng = Chooser(sampling("balanced", most=4.0), 10), np.random.default_rng(0)
    counts = Counter(chooser.pick(0, rng) for _ in range(13_000))
    expected = np.array([*[1.0] * 9, 4.0]) / 13  # nine ordinary cases, one ten times as rare and cut at `most`
    assert np.allclose([counts[case] / 13_000 for case in range(10)], expected, atol=0.01)


def test_cases_without_any_class_are_drawn_as_ordinary_ones() -> None:
    weights = SAMPLINGS.build("balanced", present=[set(), {1}, {1}]).weights(np.full(3, np.nan))
    assert weights.tolist() == [1.0, 1.5, 1.5]


def test_hard_draws_by_the_rank_of_the_losses_and_unseen_cases_as_the_hardest() -> None:
    part = SAMPLINGS.build(Part(name="hard", options={"ratio": 3.0}), present=[{1}] * 4)
    assert part.weights(np.array([0.1, 7.0, 0.2, np.nan])).tolist() == [1.0, 3.0, 2.0, 3.0]
    assert part.weights(np.full(4, np.nan)).tolist() == [3.0] * 4


def loss_of(step: int, cases: list[int]) -> float:
    """Case 0 is hard; now and then a step is skipped."""
    return float("nan") if step % 13 == 5 else 1.0 + (0 in cases) + 0.01 * step


def test_the_weights_follow_the_losses_only_at_fixed_steps_and_from_those_before_the_lag() -> None:
    first, other = (Chooser(sampling("hard", every=20), 10) for _ in range(2))
    one = walk(first, 0, 60, loss_of)
    late = walk(other, 0, 60, lambda step, cases: 9.0 if step >= 40 - LAG else loss_of(step, cases))
    assert one[:59] == late[:59]  # what was told within the lag before step 40, or after it, has changed nothing
    early = walk(Chooser(sampling("hard", every=20), 10), 0, 60, lambda step, cases: -loss_of(step, cases))
    assert early[:20] == one[:20] and early[20:] != one[20:]


def test_hard_cases_are_met_more_often() -> None:
    met = walk(Chooser(sampling("hard", every=20, ratio=10.0), 10), 0, 2000, loss_of)
    counts = Counter(case for cases in met for case in cases)
    assert counts[0] > 1.3 * np.mean([counts[case] for case in range(1, 10)])


@pytest.mark.parametrize("stop", [1, 19, 20, 21, 39, 40, 47, 63])
def test_a_run_that_was_stopped_draws_what_it_would_have_drawn(stop) -> None:
    whole = walk(Chooser(sampling("hard", every=20), 10), 0, 100, loss_of)
    before = Chooser(sampling("hard", every=20), 10)
    begun = walk(before, 0, stop, loss_of)
    after = Chooser(sampling("hard", every=20), 10)
    after.load(stop, before.tensors(stop))
    assert begun + walk(after, stop, 100, loss_of) == whole


def test_what_a_chooser_keeps_does_not_grow_with_the_run() -> None:
    chooser = Chooser(sampling("hard", every=20), 10)
    walk(chooser, 0, 30, loss_of)
    sizes = []
    for first in (30, 500):
        walk(chooser, first, first + 470, loss_of)
        sizes.append(sum(tensor.numel() for tensor in chooser.tensors(first + 470).values()))
    assert max(sizes) <= 10 + (20 + LAG) * 4
    assert max(map(len, (chooser._losses, chooser._drawn))) <= 3 * 20


def test_a_state_of_other_cases_is_refused() -> None:
    state = Chooser(sampling("hard"), 10).tensors(0)
    with pytest.raises(ValueError, match="10 cases"):
        Chooser(sampling("hard"), 11).load(0, state)
    assert torch.isnan(state["means"]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"ratio": 0.5}, "ratio is 0.5"), ({"every": 3}, "every is 3"), ({"most": -1.0}, "most is -1.0")],
)
def test_weights_that_make_no_sense_are_refused(options, said) -> None:
    with pytest.raises(BadPlan, match=said):
        sampling("hard", **options)
