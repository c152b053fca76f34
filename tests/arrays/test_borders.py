"""Measures of surfaces against MONAI's and against hand-made ones."""

from __future__ import annotations

import numpy as np
import pytest
import surface_distance
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_erosion, gaussian_filter

from autoseg.arrays import borders
from autoseg.arrays import pairs as pairing
from autoseg.arrays.pairs import Measure, Pair, pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*scipy.ndimage.*:DeprecationWarning"),  # DeepMind's
]
SPACING = (2.0, 0.75, 1.5)


def blobs(seed: int, dims: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of the same smooth noise, one of them with a little more of it."""
    rng = np.random.default_rng(seed)
    shape = (18, 30, 26)[:dims]
    smooth = gaussian_filter(rng.normal(size=shape), 3)
    other = smooth + 0.35 * gaussian_filter(rng.normal(size=shape), 2)
    return (smooth > smooth.mean()).astype(np.uint8), (other > other.mean()).astype(np.uint8)


def pair_of(prediction: np.ndarray, reference: np.ndarray) -> Pair:
    (pair,) = pairs(prediction, reference, [(1,)], SPACING[: reference.ndim])
    return pair


def theirs(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_distances_agree_with_monai(seed: int, dims: int) -> None:
    prediction, reference = blobs(seed, dims)
    pair, sides = pair_of(prediction, reference), (theirs(prediction), theirs(reference))
    spacing = list(SPACING[:dims])
    for percentile, measure in ((95, borders.hausdorff_95()), (100, borders.hausdorff()), (80, borders.hausdorff(80))):
        wanted = compute_hausdorff_distance(*sides, True, percentile=percentile, spacing=spacing)
        assert measure(pair) == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)
    wanted = compute_average_surface_distance(*sides, True, symmetric=True, spacing=spacing)
    assert borders.surface_distance()(pair) == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)
    for tolerance in (0.75, 2.0):
        wanted = compute_surface_dice(*sides, [tolerance], True, spacing=spacing)
        assert borders.normalised_surface_dice(1.0, tolerance)(pair) == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_surface_dice_by_area_agrees_with_deepmind(seed: int, dims: int) -> None:
    prediction, reference = blobs(seed, dims)
    found = surface_distance.compute_surface_distances(prediction > 0, reference > 0, SPACING[:dims])
    for tolerance in (0.75, 2.0):
        wanted = surface_distance.compute_surface_dice_at_tolerance(found, tolerance)
        measure = borders.surface_dice(1.0, tolerance)
        assert measure(pair_of(prediction, reference)) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_surface_dice_does_not_depend_on_what_lies_around() -> None:
    prediction, reference = blobs(0)
    wanted = compute_surface_dice(
        theirs(np.pad(prediction, 3)), theirs(np.pad(reference, 3)), [1.0], True, spacing=[*SPACING], use_subvoxels=True
    )
    measure = borders.surface_dice(1.0)
    assert measure(pair_of(prediction, reference)) == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)
    assert measure(pair_of(reference, reference)) == 1


MEASURES = [
    borders.hausdorff_95(), borders.surface_distance(), borders.normalised_surface_dice(1.0), borders.surface_dice(1.0),
    borders.boundary_iou(), borders.boundary_iou(2), borders.centreline_dice(),
]  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.said)
def test_perfect_is_best_and_both_ways_are_alike(measure: Measure) -> None:
    prediction, reference = blobs(1)
    best = 0.0 if measure.better == "lower" else 1.0
    assert measure(pair_of(reference, reference)) == best
    there, back = measure(pair_of(prediction, reference)), measure(pair_of(reference, prediction))
    assert there == pytest.approx(back)
    assert there != best


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.said)
def test_one_side_empty_is_the_worst_and_both_are_nothing(measure: Measure) -> None:
    _, reference = blobs(2)
    nothing = np.zeros_like(reference)
    worst = pair_of(nothing, reference).diagonal if measure.better == "lower" else 0.0
    assert measure(pair_of(nothing, reference)) == measure(pair_of(reference, nothing)) == worst
    assert measure(pair_of(nothing, nothing)) is None


def test_a_shift_of_two_voxels_is_a_distance_of_two_voxels() -> None:
    one, other = np.zeros((9, 30, 9), np.uint8), np.zeros((9, 30, 9), np.uint8)
    one[2:7, 5:20, 2:7], other[2:7, 7:22, 2:7] = 1, 1
    assert borders.hausdorff()(pair_of(one, other)) == 2 * SPACING[1]


@pytest.mark.parametrize("dense", [0.0, 1e9], ids=["map", "tree"])
@pytest.mark.parametrize("side", [0.7, 0.3, 0.05])
def test_a_shift_of_one_voxel_lies_within_one_voxel(side: float, dense: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "DENSE", dense)
    one, other = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    one[5:20, 7:30], other[5:20, 8:31] = 1, 1
    (pair,) = pairs(one, other, [(1,)], (side, side))
    assert borders.normalised_surface_dice(side)(pair) == 1


def test_lines_of_one_voxel_have_a_centreline() -> None:
    for shape in ((9, 20), (20, 9), (5, 6, 20), (20, 5, 6)):
        line = np.zeros(shape, np.uint8)
        longest = int(np.argmax(shape))
        line[tuple(slice(2, -2) if axis == longest else 3 for axis in range(len(shape)))] = 1
        assert borders.centreline_dice()(pair_of(line, line)) == 1


@pytest.mark.parametrize("width", [1, 3])
def test_boundary_iou_is_that_of_what_erosions_by_a_square_take_away(width: int) -> None:
    prediction, reference = blobs(0, 2)
    square = np.ones((3, 3), bool)
    rims = [
        mask & ~binary_erosion(mask, square, iterations=width)
        for mask in (prediction.astype(bool), reference.astype(bool))
    ]
    wanted = (rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum()
    assert borders.boundary_iou(width)(pair_of(prediction, reference)) == pytest.approx(wanted)


def test_centrelines_do_not_mind_thickness_but_gaps() -> None:
    thick, thin, broken = (np.zeros((15, 40), np.uint8) for _ in range(3))
    thick[5:10, 3:37], thin[7, 5:35], broken[7, 5:35] = 1, 1, 1
    broken[7, 15:25] = 0
    measure = borders.centreline_dice()
    assert measure(pair_of(thin, thick)) == pytest.approx(1, abs=0.05)  # a skeleton ends before what it is of
    assert measure(pair_of(broken, thick)) == pytest.approx(2 * (20 / 30) / (1 + 20 / 30), abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [lambda: borders.hausdorff(0), lambda: borders.hausdorff(101), lambda: borders.normalised_surface_dice(1.0, -1.0),
     lambda: borders.boundary_iou(float("nan")), lambda: borders.boundary_iou(0)],
)  # fmt: skip
def test_values_that_make_no_measure_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="want"):
        wrong()
