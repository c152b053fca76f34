"""Scores by hand."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap

from autoseg.errors import BadData, BadPlan
from autoseg.records import Channel, Question, Scores, parse
from autoseg.steps.evaluate import as_csv, measures_named, score, summarise, unit_of

QUESTION = Question(
    reader="nifti", channels=(Channel(name="a", kind="other"),), labels={"bg": 0, "a": 1, "b, c": 5}, ignore=9
)


def test_two_squares_by_hand() -> None:
    truth, guess = np.zeros((4, 4), int), np.zeros((4, 4), int)
    truth[0:2, 0:2], guess[0:2, 1:3] = 1, 1
    one = score(guess, truth, QUESTION, (2.0, 3.0), "x")["a"]
    assert (one.dice, one.iou, one.precision, one.recall) == (0.5, pytest.approx(1 / 3), 0.5, 0.5)
    assert (one.true_positives, one.false_positives, one.false_negatives) == (2, 2, 2)
    assert (one.volume_prediction, one.volume_reference) == (24.0, 24.0)


PLAIN = QUESTION.model_copy(update={"labels": {"bg": 0, "a": 1, "b": 5, "c": 7}})
maps = arrays(np.int16, (4, 5), elements=st.sampled_from([0, 1, 5, 7]))


@given(maps, maps)
def test_regions_of_one_value_each_score_as_the_classes_do(guess: np.ndarray, truth: np.ndarray) -> None:
    alone = {"a": (1,), "b": (5,), "c": (7,)}
    regions = Question(**(dict(PLAIN) | {"regions": alone, "written": (1, 5, 7)}))
    scores = [score(guess, truth, question, (2.0, 3.0), "x") for question in (PLAIN, regions)]
    assert scores[0] == scores[1]
    assert summarise({"x": scores[0]}, PLAIN, "m²") == summarise({"x": scores[1]}, regions, "m²")


@given(maps, maps)
def test_a_region_scores_as_one_class_of_all_its_values(guess: np.ndarray, truth: np.ndarray) -> None:
    nested = {"whole": (1, 5, 7), "core": (5, 7), "c": (7,)}
    question = Question(**(dict(PLAIN) | {"regions": nested, "written": (1, 5, 7)}))
    scores = score(guess, truth, question, (2.0, 3.0), "x")
    assert list(scores) == ["whole", "core", "c"]
    one = PLAIN.model_copy(update={"labels": {"bg": 0, "a": 1}})
    for name, values in nested.items():
        sides = (np.isin(side, values).astype(int) for side in (guess, truth))
        assert scores[name] == score(*sides, one, (2.0, 3.0), "x")["a"]


def test_the_empty_class_rule() -> None:
    empty, full = np.zeros((2, 2), int), np.ones((2, 2), int)
    assert score(empty, empty, QUESTION, (1.0, 1.0), "x")["a"].dice is None
    assert score(full, empty, QUESTION, (1.0, 1.0), "x")["a"].dice == 0
    assert score(empty, full, QUESTION, (1.0, 1.0), "x")["a"].dice == 0


def test_ignored_voxels_do_not_count() -> None:
    truth, guess = np.array([1, 1, 9, 9]), np.array([1, 1, 1, 0])
    assert score(guess, truth, QUESTION, (1.0,), "x")["a"].dice == 1


def test_a_prediction_with_strange_values_or_shape_is_refused() -> None:
    with pytest.raises(BadData, match="not declared"):
        score(np.array([3]), np.array([0]), QUESTION, (1.0,), "x")
    with pytest.raises(BadData, match="shape"):
        score(np.array([0, 0]), np.array([0]), QUESTION, (1.0,), "x")


def test_means_leave_out_what_is_not_defined() -> None:
    empty, full = np.zeros((2, 2), int), np.ones((2, 2), int)
    cases = {
        "one": score(full, full, QUESTION, (1.0, 1.0), "one"),
        "two": score(full, empty, QUESTION, (1.0, 1.0), "two"),
        "three": score(empty, empty, QUESTION, (1.0, 1.0), "three"),
    }
    scores = summarise(cases, QUESTION, "pixels")
    assert scores.mean["a"].dice == 0.5 and scores.mean["a"].cases == 2
    assert scores.mean["b, c"].dice is None and scores.dice == 0.5
    assert parse(Scores, scores.model_dump_json(), "x") == scores
    rows = list(csv.DictReader(io.StringIO(as_csv(scores))))
    assert len(rows) == 6 and {row["class"] for row in rows} == {"a", "b, c"}
    assert next(r for r in rows if r["case"] == "three" and r["class"] == "a")["dice"] == ""


def test_units() -> None:
    assert [unit_of(3, False), unit_of(2, True), unit_of(2, False)] == ["mm³", "m²", "pixels"]


def test_the_table_keeps_every_digit() -> None:
    truth = np.ones((1200, 1000), int)
    scores = summarise({"x": score(truth, truth, QUESTION, (1.0, 1.0), "x")}, QUESTION, "pixels")
    row = next(r for r in csv.DictReader(io.StringIO(as_csv(scores))) if r["class"] == "a")
    assert row["true_positives"] == "1200000" and float(row["volume_reference"]) == 1_200_000


def test_strange_values_are_told_with_the_side_they_are_on() -> None:
    with pytest.raises(BadData, match=r"^x: .*\[3\]"):
        score(np.array([3]), np.array([0]), QUESTION, (1.0,), "x")
    with pytest.raises(BadData, match=r"^reference of x: .*\[3\]"):
        score(np.array([0]), np.array([3]), QUESTION, (1.0,), "x")


def test_measures_that_are_asked_for_stand_beside_the_counts() -> None:
    truth, guess = np.zeros((8, 8), int), np.zeros((8, 8), int)
    truth[1:4, 1:4], guess[1:4, 2:5] = 1, 1
    guess[6, 6] = 5
    asked = measures_named(["hd95", "nsd", "nsd(tolerance=4)", "object_f1(iou=0.4)"], voxel=2.0)
    assert list(asked) == ["hd95", "nsd", "nsd(tolerance=4)", "object_f1(iou=0.4)"]
    found = score(guess, truth, QUESTION, (2.0, 2.0), "x", asked)
    assert found["a"].more == {
        "hd95": 2.0, "nsd": 1.0, "nsd(tolerance=4)": 1.0, "object_f1(iou=0.4)": 1.0,
    }  # fmt: skip
    assert found["a"].counts == {"object_f1(iou=0.4)": (1, 1, 1)}
    assert found["b, c"].more["hd95"] == pytest.approx(16 * 2**0.5)  # one side is empty: the diagonal
    assert (
        found["a"].model_copy(update={"more": {}, "counts": {}}) == score(guess, truth, QUESTION, (2.0, 2.0), "x")["a"]
    )


def test_a_measure_that_there_is_not_is_told() -> None:
    with pytest.raises(BadPlan, match=r"--measure: .*unknown measure 'hd59'.*did you mean hd95|unknown measure 'hd59'"):
        measures_named(["hd59"], 1.0)


def test_what_lies_in_a_mask_does_not_count() -> None:
    truth, guess = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 1]])
    ignored = np.array([[False, True, False, True]])
    found = score(guess, truth, QUESTION, (1.0, 1.0), "x", measures_named(["hd95"], 1.0), ignored)["a"]
    assert (found.dice, found.true_negatives, found.more["hd95"]) == (1, 1, 0)


def test_pooled_counts_are_those_of_one_image_of_all_cases() -> None:
    rng = np.random.default_rng(0)
    truths, guesses = rng.integers(0, 2, (2, 5, 6, 6))
    cases = {
        str(n): score(g, t, QUESTION, (1.0, 1.0), "x") for n, (g, t) in enumerate(zip(guesses, truths, strict=True))
    }
    pooled = summarise(cases, QUESTION, "pixels").pooled["a"]
    together = score(guesses.reshape(30, 6), truths.reshape(30, 6), QUESTION, (1.0, 1.0), "x")["a"]
    names = ("dice", "iou", "precision", "recall", "specificity", "accuracy")
    assert {name: getattr(pooled, name) for name in names} == {name: getattr(together, name) for name in names}


def test_pooled_ratios_have_the_intervals_of_groups_drawn_again() -> None:
    rng = np.random.default_rng(1)
    truths, guesses = rng.random((2, 30, 8, 8)) < rng.random((30, 1, 1))
    asked = measures_named(["patch_f1(size=4)"], 1.0)
    cases = {f"{n:02d}": score(g.astype(int), t.astype(int), QUESTION, (1.0, 1.0), "x", asked)
             for n, (g, t) in enumerate(zip(guesses, truths, strict=True))}  # fmt: skip
    pooled = summarise(cases, QUESTION, "pixels", asked).pooled["a"]
    hits, wrong = (guesses & truths).sum((1, 2)), (guesses != truths).sum((1, 2))
    wanted = bootstrap(
        (hits, wrong), lambda h, w, axis: 2 * h.sum(axis) / (2 * h + w).sum(axis), paired=True, method="percentile",
        n_resamples=20000, rng=rng,
    ).confidence_interval  # fmt: skip
    assert pooled.intervals["dice"] == pytest.approx(tuple(wanted), abs=0.01)
    low, high = pooled.intervals["patch_f1(size=4)"]
    assert low < (pooled.more["patch_f1(size=4)"] or 0) < high
    alone = summarise(cases, QUESTION, "pixels", asked, dict.fromkeys(cases, "one")).pooled["a"]
    assert alone.intervals == {} and alone.dice == pooled.dice


def test_objects_are_pooled_over_all_cases_those_without_any_among_them() -> None:
    one, none = np.zeros((9, 9), int), np.zeros((9, 9), int)
    one[1:4, 1:4] = 1
    asked = measures_named(["object_f1", "hd95"], 1.0)
    cases = {
        name: score(guess, truth, QUESTION, (1.0, 1.0), name, asked)
        for name, guess, truth in (("a", one, one), ("b", one, none), ("c", none, none))
    }
    scores = summarise(cases, QUESTION, "pixels", asked)
    assert scores.pooled["a"].more == {"object_f1": pytest.approx(2 / 3)}
    assert scores.mean["a"].more["object_f1"] == 0.5
    assert scores.measures["hd95"] == "95th percentile of the distances of both surfaces"


def test_groups_have_means_of_their_own_and_are_drawn_together() -> None:
    full, empty = np.ones((2, 2), int), np.zeros((2, 2), int)
    cases = {name: score(full, full if name < "c" else empty, QUESTION, (1.0, 1.0), name) for name in "abcd"}
    alone = summarise(cases, QUESTION, "pixels")
    assert alone.groups == {} and alone.interval is not None
    grouped = summarise(cases, QUESTION, "pixels", groups={"a": "p", "b": "p", "c": "q", "d": "q"})
    assert grouped.groups["p"]["a"].dice == 1 and grouped.groups["q"]["a"].dice == 0
    assert grouped.interval == (0, 1) and grouped.mean["a"].intervals["dice"] == (0, 1)
    assert summarise(cases, QUESTION, "pixels", groups=dict.fromkeys("abcd", "p")).interval is None
