import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.arrays import metrics
from autoseg.arrays.metrics import confusion, dice, mean_of, measures

few = settings(max_examples=40, deadline=None)
shapes = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)


def pairs_of(dtype, first, second):
    return shapes.flatmap(
        lambda s: st.tuples(
            arrays.arrays(dtype, s, elements=first),
            arrays.arrays(dtype, s, elements=second),
        )
    )


pairs = pairs_of(np.uint8, st.integers(0, 2), st.sampled_from([0, 1, 2, 255]))
masks = pairs_of(bool, st.booleans(), st.booleans())


@few
@given(pairs)
def test_confusion_is_what_counting_gives(pair):
    prediction, reference = pair
    table = confusion(prediction, reference, 3)
    assert table.dtype == np.int64
    for truth in range(3):
        for guess in range(3):
            assert table[truth, guess] == ((reference == truth) & (prediction == guess)).sum()
    assert table.sum() == (reference != 255).sum()


@few
@given(pairs, st.sets(st.integers(0, 2), min_size=1))
def test_measures_of_one_class_or_several_agree_with_their_definitions(pair, classes):
    prediction, reference = pair
    counted = reference != 255
    p, r = (np.isin(side, list(classes)) & counted for side in (prediction, reference))
    found = measures(confusion(prediction, reference, 3), sorted(classes), 0.5)
    assert found.dice == dice(p, r)
    assert found.true_positives == (p & r).sum()
    assert found.false_positives == (p & ~r).sum()
    assert found.false_negatives == (~p & r).sum()
    assert found.volume_prediction == p.sum() / 2
    assert found.volume_reference == r.sum() / 2
    assert (found.dice is None) == (found.iou is None) == (not p.any() and not r.any())
    assert (found.precision is None) == (not p.any())
    assert (found.recall is None) == (not r.any())
    if found.dice is not None and found.iou is not None:
        assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))
    if found.precision and found.recall:
        harmonic = 2 * found.precision * found.recall / (found.precision + found.recall)
        assert found.dice == pytest.approx(harmonic)


@few
@given(masks)
def test_dice_is_symmetric_and_bounded(pair):
    a, b = pair
    value = dice(a, b)
    assert value == dice(b, a)
    assert dice(a, a) == (1 if a.any() else None)
    if value is not None:
        assert 0 <= value <= 1


def test_agrees_with_monai():
    from monai.metrics import compute_dice, compute_iou

    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 6, 7, 8)).astype(np.uint8)
    one_hot = [torch.stack([torch.from_numpy(a == k) for k in range(4)])[None] for a in (prediction, reference)]
    dices, ious = compute_dice(*one_hot)[0], compute_iou(*one_hot)[0]
    table = confusion(prediction, reference, 4)
    for k in range(4):
        assert measures(table, [k], 1).dice == pytest.approx(dices[k].item())
        assert measures(table, [k], 1).iou == pytest.approx(ious[k].item())


def test_by_hand():
    table = confusion(np.array([0, 1, 1, 1, 9], np.uint8), np.array([0, 0, 1, 1, 255], np.uint8), 2)
    assert table.tolist() == [[1, 1], [0, 2]]
    found = measures(table, [1], 3.0)
    assert (found.dice, found.iou, found.precision, found.recall) == (0.8, 2 / 3, 2 / 3, 1.0)
    assert (found.volume_prediction, found.volume_reference) == (9.0, 6.0)


def test_empty_sides():
    nothing, all_of_it = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    missed = measures(confusion(nothing, all_of_it, 2), [1], 1)
    assert (missed.dice, missed.iou, missed.precision, missed.recall) == (0, 0, None, 0)
    invented = measures(confusion(all_of_it, nothing, 2), [1], 1)
    assert (invented.dice, invented.iou, invented.precision, invented.recall) == (0, 0, 0, None)
    absent = measures(confusion(nothing, nothing, 2), [1], 1)
    assert (absent.dice, absent.iou, absent.precision, absent.recall) == (None, None, None, None)


def test_large_arrays_are_counted_in_parts(monkeypatch):
    prediction, reference = np.random.default_rng(1).integers(0, 3, (2, 9, 11)).astype(np.uint8)
    expected = confusion(prediction, reference, 3)
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    assert np.array_equal(confusion(prediction.T, reference.T, 3), expected)


def test_all_classes_and_other_integers():
    every = np.arange(255, dtype=np.int64)
    assert np.array_equal(confusion(every, every, 255), np.eye(255))
    assert confusion(np.array([True]), np.array([1]), 2, ignore=None).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "differ in shape"),
        (np.array([3], np.uint8), np.array([0], np.uint8), r"\[3\] are none of 3"),
        (np.array([255], np.uint8), np.array([0], np.uint8), r"\[255\] are none of 3"),
        (np.array([0], np.uint8), np.array([7], np.uint8), r"\[7\] are none of 3"),
        (np.array([0.0]), np.array([0.0]), "float64"),
        (np.array([-1]), np.array([0]), "from -1 to -1"),
    ],
)
def test_what_cannot_be_counted_is_refused(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        confusion(prediction, reference, 3)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        dice(np.ones((1, 3), bool), np.ones((3, 3), bool))


def test_mean_of():
    assert mean_of([]) is None
    assert mean_of([None, None]) is None
    assert mean_of([None, 0.0, 1.0]) == 0.5
