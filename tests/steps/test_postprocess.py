"""What postprocessing would do is what it does, and what is chosen helps on cases it was not chosen on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autoseg.records import NOTHING, Part, Postprocessing
from autoseg.steps import postprocess
from autoseg.steps.postprocess import acts, applied, changed, choose, select
from autoseg.steps.tallies import Facts, dice, facts

NAMES, INDICES = ["a", "b"], [1, 3]
CLASSES = dict(zip(NAMES, INDICES, strict=True))
PARTS = [
    Part(name="keep_largest"), Part(name="keep_largest", options={"label": "b"}),
    Part(name="remove_small", options={"size": 6.0}), Part(name="remove_small", options={"size": 4.0, "label": "a"}),
    Part(name="fill_holes", options={"label": "a"}), Part(name="fill_holes", options={"label": "b"}),
]  # fmt: skip
PAIRS = array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=7).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 3])),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 3, 255])),
    )
)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(PARTS))
def test_what_a_step_would_do_is_what_it_does(labels, part):
    prediction, reference = labels
    spacing = (2.0,) + (1.0,) * (prediction.ndim - 1)
    case = facts(prediction, reference, INDICES, spacing, 0)
    after = applied(prediction, acts([part], CLASSES), spacing)
    counts = reference != 255
    hits = [(counts & (after == k) & (reference == k)).sum() for k in INDICES]
    predicted = [(counts & (after == k)).sum() for k in INDICES]
    for found, wanted in zip(changed(case, part, NAMES), (hits, predicted), strict=True):
        assert found.tolist() == wanted
    assert case.there.tolist() == [(reference == k).sum() for k in INDICES]


def scene(rng: np.random.Generator, specks: bool, hole: bool) -> tuple[np.ndarray, np.ndarray]:
    """A body with an organ inside; the prediction has specks of the organ elsewhere, or a hole."""
    reference = np.zeros((24, 24), np.uint8)
    top, left = rng.integers(3, 9, 2)
    reference[top : top + 10, left : left + 9] = 1
    prediction = reference.copy()
    if specks:
        for row, column in rng.integers(0, 23, (4, 2)):
            if prediction[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].sum() == 0:
                prediction[row, column] = 1
    if hole:
        prediction[top + 3 : top + 5, left + 3 : left + 5] = 0
    return prediction, reference


def held(count: int, specks: bool, hole: bool) -> list[Facts]:
    rng = np.random.default_rng(3)
    return [facts(*scene(rng, specks, hole), [1], (1.0, 1.0), n % 5) for n in range(count)]


def test_what_helps_is_taken_and_what_does_not_is_left() -> None:
    assert select(held(10, specks=False, hole=False), ["a"]) == ()
    assert [part.name for part in select(held(10, specks=True, hole=False), ["a"])] == ["keep_largest"]
    assert select(held(10, specks=False, hole=True), ["a"]) == (Part(name="fill_holes", options={"label": "a"}),)


def test_two_true_objects_are_not_reduced_to_one() -> None:
    cases = []
    for n in range(8):
        reference = np.zeros((20, 40), np.uint8)
        reference[3:12, 3:12], reference[4:12, 22:30] = 1, 1
        prediction = reference.copy()
        prediction[17, 2 * n + 1] = 1
        cases.append(facts(prediction, reference, [1], (1.0, 1.0), n % 5))
    (part,) = select(cases, ["a"])
    assert part.name == "remove_small" and 1 < float(part.options["size"]) < 64


def test_a_step_of_all_classes_must_harm_none() -> None:
    cases = []
    for n in range(6):
        reference = np.zeros((20, 40), np.uint8)
        reference[3:12, 3:12], reference[5:8, 30:33] = 1, 3  # b lies apart
        prediction = reference.copy()
        prediction[18, 2 + n] = 1
        cases.append(facts(prediction, reference, INDICES, (1.0, 1.0), n % 3))
    taken = select(cases, NAMES)
    assert Part(name="keep_largest") not in taken
    after = [dice(*changed(case, part, NAMES), case.there) for part in taken for case in cases]
    assert np.nanmin(after) == 1


def test_the_dice_of_what_is_nowhere_is_not_counted() -> None:
    nothing = np.zeros((4, 4), np.uint8)
    case = facts(nothing, nothing, INDICES, (1.0, 1.0), 0)
    assert np.isnan(dice(case.hits, case.predicted, case.there)).all()
    assert select([case], NAMES) == ()
    assert postprocess._means(np.full((2, 2), np.nan)).tolist() == [-1, -1]


def test_names_that_need_quotes_are_parts_too() -> None:
    part = Part(name="keep_largest", options={"label": "left lung, upper"})
    (act,) = acts([part], {"left lung, upper": 1})
    assert act(np.ones((2, 2), np.uint8), (1.0, 1.0)).all()
    with pytest.raises(Exception, match="one of a, b"):
        acts([Part(name="keep_largest", options={"label": "c"})], CLASSES)


def really(scenes: dict[str, tuple[np.ndarray, np.ndarray]]):
    """The Dice of a case when steps are done."""

    def one(name: str, what: Postprocessing) -> np.ndarray:
        prediction, reference = scenes[name]
        label = applied(prediction, acts(what.steps, {"a": 1}), (1.0, 1.0))
        hits, total = (label & reference).sum(), label.sum() + reference.sum()
        return np.array([2 * hits / total])

    return lambda wanted: [one(*job) for job in wanted]


def test_the_gain_that_is_told_is_that_of_cases_it_was_not_chosen_on() -> None:
    rng = np.random.default_rng(3)
    scenes = {f"c{n}": scene(rng, specks=True, hole=True) for n in range(10)}
    known = {name: facts(*pair, [1], (1.0, 1.0), n % 5) for n, (name, pair) in enumerate(scenes.items())}
    found = choose(known, ["a"], really(scenes))
    assert [part.name for part in found.taken.steps] == ["keep_largest", "fill_holes"] and found.tried == found.taken
    assert found.before["a"] is not None and found.before["a"] < 1
    assert found.after == found.nested == {"a": 1.0}


def test_what_helps_by_luck_in_one_fold_alone_is_not_taken() -> None:
    """Removing objects helps in one case and harms a little in another: chosen without the first, it brings nothing."""
    scenes = {}
    for n in range(5):
        reference = np.zeros((20, 40), np.uint8)
        reference[3:12, 3:12] = 1
        prediction = reference.copy()
        if n == 0:
            prediction[15:18, 30:33] = 1
        scenes[f"c{n}"] = (prediction, reference)
    known = {name: facts(*pair, [1], (1.0, 1.0), n) for n, (name, pair) in enumerate(scenes.items())}
    found = choose(known, ["a"], really(scenes))
    assert found.tried.steps and found.taken == NOTHING
    assert found.after["a"] == 1 and found.nested == found.before


def counted(scenes: dict[str, tuple[np.ndarray, np.ndarray]]):
    """The Dice of both classes of a case when steps are done."""

    def after(wanted):
        found = []
        for name, what in wanted:
            label, reference = applied(scenes[name][0], acts(what.steps, CLASSES), (1.0, 1.0)), scenes[name][1]
            each = [(label == k, reference == k) for k in INDICES]
            found.append(np.array([2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) for ours, theirs in each]))
        return found

    return after


def test_steps_of_one_class_do_not_carry_those_of_another() -> None:
    """Of a, specks go everywhere; b has true specks, and a hole in one case alone."""
    rng, scenes = np.random.default_rng(3), {}
    for n in range(5):
        prediction, reference = (np.pad(one, ((0, 0), (0, 40))) for one in scene(rng, specks=True, hole=False))
        for one in (prediction, reference):
            one[3:12, 30:40] = one[18, 30:60:4] = 3
        if n == 0:
            prediction[5:8, 33:36] = 0
        scenes[f"c{n}"] = (prediction, reference)

    known = {name: facts(*pair, INDICES, (1.0, 1.0), n) for n, (name, pair) in enumerate(scenes.items())}
    found = choose(known, NAMES, counted(scenes))
    assert {part.options.get("label") for part in found.tried.steps} >= {"b"}
    assert found.taken.steps and all(part.options.get("label") == "a" for part in found.taken.steps)
    assert found.nested["a"] == 1 and found.nested["b"] == found.before["b"]
    assert "not taken" in found.said


def test_steps_that_one_fold_alone_chose_are_given_up_for_a_class_that_falls() -> None:
    """Keeping the largest object of c loses on all cases, wins without the first, and falls there."""
    scenes = {}
    for n in range(5):
        reference = np.zeros((40, 60), np.uint8)
        reference[2:12, 2:12], reference[20:29, 20:29] = 1, 3
        prediction = reference.copy()
        prediction[35:38, 2:5] = 1  # a false speck of a
        if n == 0:
            for column in range(34, 58, 5):
                reference[30:32, column : column + 2] = prediction[30:32, column : column + 2] = 3
        else:
            prediction[36:38, 50:52] = 3
        scenes[f"c{n}"] = (prediction, reference)
    known = {name: facts(*pair, INDICES, (1.0, 1.0), n) for n, (name, pair) in enumerate(scenes.items())}
    found = choose(known, NAMES, counted(scenes))
    assert found.taken.steps and all(part.options.get("label") == "a" for part in found.taken.steps)
    assert found.nested["a"] > found.before["a"] and found.nested["b"] == found.before["b"]


def test_with_one_fold_nothing_is_taken() -> None:
    rng = np.random.default_rng(3)
    scenes = {f"c{n}": scene(rng, specks=True, hole=False) for n in range(4)}
    known = {name: facts(*pair, [1], (1.0, 1.0), 0) for name, pair in scenes.items()}
    found = choose(known, ["a"], really(scenes))
    assert found.tried == found.taken == NOTHING and found.nested == {} and found.before["a"] is not None
