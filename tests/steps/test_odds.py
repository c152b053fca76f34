"""A threshold moves voxels between its class and the background, and does to a stored label what it does to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.records import Channel, Question
from autoseg.steps.odds import PLAIN, SHARES, classes_of, decided, levels_of, log_odds
from autoseg.steps.postprocess import LEAST, thresholds
from autoseg.steps.tallies import dice, odds

LABELS = {"background": 0, "liver": 1, "spleen": 2, "tumour": 3}
QUESTION = Question(reader="nifti", channels=(Channel(name="a", kind="mr"),), labels=LABELS)
FOUND = st.dictionaries(st.sampled_from(QUESTION.foreground), st.sampled_from(SHARES))
LOGITS = arrays(np.float32, (4, 5, 6), elements=st.floats(-6, 6, width=32))


def by_index(found: dict[str, float]) -> dict[int, float]:
    return {QUESTION.classes.index(name): share for name, share in found.items()}


@settings(max_examples=80, deadline=None)
@given(LOGITS, FOUND)
def test_a_stored_label_is_decided_as_the_probabilities_are(logits, found):
    # nudged off ties, which rounding decides
    noise = np.random.default_rng(0).normal(0, 1e-3, logits.shape).astype(np.float32)
    chances = torch.softmax(torch.from_numpy(logits + noise), 0)
    plain = classes_of(chances, ()).numpy()
    wanted = classes_of(chances, log_odds(found, QUESTION)).numpy()
    np.testing.assert_array_equal(decided(plain, levels_of(chances), by_index(found)), wanted)


@settings(max_examples=40, deadline=None)
@given(LOGITS, st.sampled_from(QUESTION.foreground), st.sampled_from(SHARES))
def test_other_classes_keep_their_voxels(logits, name, share):
    chances, index = torch.softmax(torch.from_numpy(logits), 0), QUESTION.classes.index(name)
    plain, found = (classes_of(chances, log_odds(each, QUESTION)).numpy() for each in ({}, {name: share}))
    moved = plain != found
    assert {*plain[moved].tolist(), *found[moved].tolist()} <= {0, index}
    assert (found[moved] == (index if share < 0.5 else 0)).all()


def test_half_is_the_most_probable_class() -> None:
    chances = torch.softmax(torch.randn(4, 50, generator=torch.Generator().manual_seed(0)), 0)
    halves = log_odds(dict.fromkeys(QUESTION.foreground, 0.5), QUESTION)
    assert halves == (0, 0, 0) and SHARES[PLAIN] == 0.5
    assert torch.equal(classes_of(chances, halves), classes_of(chances, ()))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadPlan, match=r"no class 'kidney'.*one of liver, spleen, tumour"):
        log_odds({"kidney": 0.3}, QUESTION)
    whole = QUESTION.model_copy(update={"regions": {"all": (1, 2, 3)}})
    with pytest.raises(BadPlan, match="no background"):
        log_odds({"all": 0.3}, whole)


# -- choosing ------------------------------------------------------------------------------------------


def scene(rng: np.random.Generator, shy: float) -> tuple[np.ndarray, np.ndarray]:
    """(levels, reference) of networks that are `shy` too unsure of the liver, in log odds."""
    sure = rng.normal(0, 2, (40, 40))  # what would be right: above 0 is liver
    reference = (sure > 0).astype(np.uint8)
    liver = torch.from_numpy((sure - shy + rng.normal(0, 0.3, sure.shape)).astype(np.float32))
    chances = torch.softmax(torch.stack([torch.zeros_like(liver), liver, *[torch.full_like(liver, -9)] * 2]), 0)
    return levels_of(chances), reference


def held(shy: float, count: int = 10):
    rng = np.random.default_rng(1)
    return [odds(*scene(rng, shy), [1, 2, 3], n % 5) for n in range(count)]


def test_the_dice_at_a_share_is_that_of_the_label_it_decides() -> None:
    levels, reference = scene(np.random.default_rng(5), 0.7)
    reference[:3] = IGNORE
    found, counts = odds(levels, reference, [1, 2, 3], 0), reference != IGNORE
    for n, share in enumerate(SHARES):
        label = decided(np.where(levels[1] > PLAIN, levels[0], 0).astype(np.uint8), levels, {1: share})
        hits = np.array([(counts & (label == 1) & (reference == 1)).sum()])
        said, there = np.array([(counts & (label == 1)).sum()]), np.array([(reference == 1).sum()])
        assert found.dice[0, n] == dice(hits, said, there)[0]
    assert np.isnan(found.dice[1:]).all()


def test_shy_networks_get_a_low_threshold_and_sure_ones_none() -> None:
    names = [*QUESTION.foreground]
    found = thresholds(held(1.0), names)
    assert set(found.taken) == {"liver"} and found.taken["liver"] == pytest.approx(1 / (1 + np.e), abs=0.06)
    assert found.nested[0] > found.before[0] + 0.05
    assert all(set(one) == {"liver"} for one in found.by_fold.values())
    assert thresholds(held(0.0), names).taken == {}


def test_a_threshold_that_helps_one_fold_alone_is_not_taken() -> None:
    rng = np.random.default_rng(1)
    cases = [odds(*scene(rng, 2.5 if n == 0 else 0.0), [1, 2, 3], n) for n in range(5)]
    found = thresholds(cases, [*QUESTION.foreground])
    fitted = np.mean([case.dice[0] for case in cases], 0)
    assert fitted.max() > fitted[PLAIN] + LEAST and found.taken == {}
    np.testing.assert_array_equal(found.nested, found.before)


def test_with_one_fold_no_threshold_is_taken() -> None:
    cases = [odds(*scene(np.random.default_rng(n), 1.0), [1, 2, 3], 0) for n in range(3)]
    assert thresholds(cases, [*QUESTION.foreground]).taken == {}
