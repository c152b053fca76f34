"""Measures of objects, by hand and against slow searches."""

from __future__ import annotations

import itertools

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation, generate_binary_structure

from autoseg.arrays import matching
from autoseg.arrays.pairs import Pair, pairs

few = settings(max_examples=40, deadline=None)


def pair_of(prediction: np.ndarray, reference: np.ndarray, spacing: float = 1.0) -> Pair:
    sides = (prediction.astype(np.uint8), reference.astype(np.uint8))
    (pair,) = pairs(*sides, [(1,)], (spacing,) * reference.ndim)
    return pair


def field(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of 40×40 with boxes (top, bottom, left, right)."""
    mask = np.zeros((40, 40), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_one_found_one_missed_one_invented() -> None:
    there = field((2, 8, 2, 8), (20, 26, 20, 26))
    found = field((2, 8, 3, 9), (33, 36, 2, 6))
    pair = pair_of(found, there)
    assert matching.matched(pair.prediction, pair.reference, 0.5) == (1, 2, 2)
    assert matching.object_precision()(pair) == matching.object_recall()(pair) == matching.object_f1()(pair) == 0.5
    assert matching.object_f1(0.9)(pair) == 0
    counts = matching.object_f1().counts
    assert counts is not None and counts(pair) == (1, 2, 2)


@few
@given(*(arrays(bool, (7, 9)) for _ in range(2)), st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_as_many_objects_match_as_the_best_assignment_finds(prediction, reference, iou):
    ours, theirs = (
        cc3d.connected_components(mask.astype(np.uint8), connectivity=8) for mask in (prediction, reference)
    )
    mine, other = ([label == n for n in range(1, label.max() + 1)] for label in (ours, theirs))
    fits = np.array([[(a & b).sum() >= iou * (a | b).sum() for b in other] for a in mine]).reshape(
        len(mine), len(other)
    )
    small, large = sorted(fits.shape)
    if small > 4:
        return
    fits = fits if fits.shape[0] == small else fits.T
    best = max(
        (sum(fits[n, m] for n, m in enumerate(order)) for order in itertools.permutations(range(large), small)),
        default=0,
    )
    assert matching.matched(prediction, reference, iou) == (best, len(mine), len(other))


def slow_lesion_dice(prediction: np.ndarray, reference: np.ndarray, dilation: int, smallest: float) -> float:
    """Lesion by lesion on whole arrays."""
    structure = generate_binary_structure(3, 2)
    grown = cc3d.connected_components(binary_dilation(reference, structure, iterations=dilation).astype(np.uint8))
    guesses = cc3d.connected_components(prediction.astype(np.uint8))
    used, scores = set(), []
    for number in range(1, grown.max() + 1):
        lesion = reference & (grown == number)
        near = set(np.unique(guesses[binary_dilation(lesion, structure, iterations=dilation)])) - {0}
        used |= near
        guess = np.isin(guesses, [*near])
        if lesion.sum() > smallest:
            scores.append(2 * (guess & lesion).sum() / (guess.sum() + lesion.sum()))
    invented = guesses.max() - len(used)
    return sum(scores) / (len(scores) + invented) if scores or invented else 1.0


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_what_a_search_over_whole_arrays_finds(seed: int, dilation: int) -> None:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        mask = np.zeros((20, 24, 22), bool)
        for corner in rng.integers(0, 18, (6, 3)):
            size = rng.integers(1, 5, 3)
            mask[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = True
        masks.append(mask)
    prediction, reference = masks
    prediction |= reference & (rng.random(reference.shape) < 0.6)
    found = matching.lesion_dice(dilation, 4)(pair_of(prediction, reference))
    assert found == pytest.approx(slow_lesion_dice(prediction, reference, dilation, 4))


def test_a_missed_lesion_counts_as_much_as_a_large_one() -> None:
    there = np.zeros((30, 30, 30), bool)
    there[2:12, 2:12, 2:12], there[22:26, 22:26, 22:26] = True, True
    found = there.copy()
    found[22:26] = False
    assert matching.lesion_dice()(pair_of(found, there)) == 0.5
    found[14:17, 26:29, 26:29] = True  # invented
    counted = (matching.lesion_precision(), matching.lesion_recall(), matching.lesion_f1())
    assert [measure(pair_of(found, there)) for measure in counted] == [0.5, 0.5, 0.5]
    assert [measure.counts(pair_of(found, there)) for measure in counted if measure.counts] == [(1, 2, 2)] * 3
    found[14:17] = False
    assert matching.lesion_dice(smallest=100)(pair_of(found, there)) == 1
    assert matching.lesion_dice(smallest=100)(pair_of(found, there, spacing=2.0)) == 0.5  # 64 voxels of 8 mm³


@pytest.mark.parametrize("shape", [(1, 24, 24), (1, 1, 1), (24, 24)])
def test_lesions_of_a_class_that_is_nowhere_are_none(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, np.uint8)
    (pair,) = pairs(nothing, nothing, [(1,)], (1.0,) * len(shape))
    counts = matching.lesion_f1().counts
    assert counts is not None and counts(pair) == (0, 0, 0)


def test_patches_are_of_the_images_grid_whatever_the_mask_covers() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = (np.zeros((40, 37), bool) for _ in range(2))
    prediction[9:31, 5:30], reference[11:38, 3:37] = rng.random((22, 25)) < 0.4, rng.random((27, 34)) < 0.4
    counts = []
    for mask in (prediction, reference):
        patches = [mask[y : y + 8, x : x + 8].mean() > 0.25 for y in range(0, 40, 8) for x in range(0, 37, 8)]
        counts.append(np.array(patches))
    wanted = 2 * (counts[0] & counts[1]).sum() / (counts[0].sum() + counts[1].sum())
    assert matching.patch_f1(8)(pair_of(prediction, reference)) == pytest.approx(wanted)


def test_patches_of_a_volume_are_of_its_slices() -> None:
    one = field((0, 16, 0, 16))
    volume = np.stack([one, np.zeros_like(one), one])
    other = np.stack([one, one, np.zeros_like(one)])
    assert matching.patch_f1()(pair_of(volume, other)) == 0.5


def test_where_no_patch_counts_there_is_no_score() -> None:
    dot = field((3, 5, 3, 5))
    assert matching.patch_f1()(pair_of(dot, dot)) is None


def test_the_error_of_a_volume() -> None:
    there, found = field((0, 10, 0, 10)), field((0, 10, 0, 12))
    measure = matching.volume_error()
    assert measure(pair_of(found, there)) == pytest.approx(0.2)
    assert measure(pair_of(field(), there)) == 1
    assert measure(pair_of(found, field())) is None


@pytest.mark.parametrize(
    "wrong",
    [lambda: matching.object_f1(0), lambda: matching.object_f1(1.5), lambda: matching.lesion_dice(0),
     lambda: matching.patch_f1(0), lambda: matching.patch_f1(16, 1.0)],
)  # fmt: skip
def test_values_that_make_no_measure_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="want"):
        wrong()
