"""Mistakes in an earlier stage's label: what they are is known from slower implementations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as numbered
from skimage.morphology import ball, disk

from autoseg.augment.earlier import OPERATIONS, Forget, Morphology
from autoseg.image import IGNORE

CLASSES = (1, 2, 3)


def blobs(shape: tuple[int, ...], seed: int = 0, share: float = 0.4) -> np.ndarray:
    """A mask of a few rounded pieces, some of them cut by the border."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return smooth > np.quantile(smooth, 1 - share)


def slow(mask: np.ndarray, operation: str, radius: int) -> np.ndarray:
    """By the structuring element, as the books define it; beyond the border nothing is known."""
    element = (ball if mask.ndim == 3 else disk)(radius)

    def dilated(mask: np.ndarray) -> np.ndarray:
        return ndimage.binary_dilation(mask, element)

    def eroded(mask: np.ndarray) -> np.ndarray:
        return ndimage.binary_erosion(mask, element, border_value=1)

    return {
        "dilation": dilated, "erosion": eroded,
        "opening": lambda mask: dilated(eroded(mask)), "closing": lambda mask: eroded(dilated(mask)),
    }[operation](mask)  # fmt: skip


@pytest.mark.parametrize("operation", list(OPERATIONS))
@pytest.mark.parametrize("shape", [(17, 24, 20), (40, 33)])
@pytest.mark.parametrize("radius", [1, 2, 5, 8])
def test_operations_are_those_of_the_ball(operation: str, shape: tuple[int, ...], radius: int) -> None:
    for seed, share in ((0, 0.4), (1, 0.03), (2, 0.9)):
        mask = blobs(shape, seed, share)
        assert np.array_equal(OPERATIONS[operation](mask, radius), slow(mask, operation, radius))


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_nothing_and_everything_stay_as_they_are(operation: str) -> None:
    for value in (False, True):
        mask = np.full((6, 7, 8), value)
        assert (OPERATIONS[operation](mask, 3) == value).all()


@pytest.mark.parametrize("part", [Morphology(share=0.7), Forget(share=0.7)])
def test_draws_are_plain_repeatable_and_as_often_as_they_say(part: Morphology | Forget) -> None:
    draws = [part.draw(np.random.default_rng(seed), CLASSES) for seed in range(2000)]
    assert draws == [part.draw(np.random.default_rng(seed), CLASSES) for seed in range(2000)]
    happened = [one for one in draws if one is not None]
    assert json.loads(json.dumps(happened)) == happened
    expected = part.probability * (1 - 0.3**3)
    assert abs(len(happened) / 2000 - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5
    mean = np.mean([len(one["classes"]) for one in happened])
    assert abs(mean - 3 * 0.7 / (1 - 0.3**3)) < 0.15
    assert all(len(set(one["classes"])) == len(one["classes"]) > 0 for one in happened)
    assert {index for one in happened for index in one["classes"]} == set(CLASSES)


def test_all_operations_and_radii_are_drawn() -> None:
    draws = [Morphology(1.0, 1.0, (2, 4)).draw(np.random.default_rng(seed), CLASSES) for seed in range(200)]
    assert {name for one in draws if one for name in one["operations"]} == set(OPERATIONS)
    assert {radius for one in draws if one for radius in one["radii"]} == {2, 3, 4}
    assert {tuple(one["classes"]) for one in draws if one} > {(1, 2, 3), (3, 2, 1)}


def test_where_classes_meet_the_later_one_stays() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[4, 2], label[4, 6] = 1, 2
    dilate = {"operations": ["dilation", "dilation"], "radii": [3, 3]}
    first, second = (Morphology().distort(label, {"classes": order, **dilate}) for order in ([1, 2], [2, 1]))
    assert (first[4, 4], second[4, 4]) == (2, 1)
    assert np.array_equal(first == 2, slow(label == 2, "dilation", 3))
    assert np.array_equal(second == 1, slow(label == 1, "dilation", 3))


def test_what_is_taken_away_is_no_class_and_no_class_is_new() -> None:
    rng = np.random.default_rng(0)
    label = np.select([blobs((20, 20, 20), seed, 0.2) for seed in range(3)], [1, 2, 3], 0).astype(np.uint8)
    label[:2] = IGNORE
    kept = label.copy()
    for part in (Morphology(1.0, 1.0), Forget(1.0, 1.0, 1.0)):
        for _ in range(10):
            drawn = part.draw(rng, (1, 2))
            assert drawn is not None
            made = part.distort(label, drawn)
            assert made.dtype == np.uint8 and set(np.unique(made)) <= {0, 1, 2, 3, IGNORE}
            assert (made[label == 0] != IGNORE).all() and not (made == 0)[label != 0].any()
            if isinstance(part, Forget):
                assert np.array_equal(made == 3, label == 3)
    assert np.array_equal(label, kept)


def test_forgotten_is_one_whole_component_of_those_that_are_small() -> None:
    label = np.zeros((20, 20), np.uint8)
    label[:10] = 1  # half of the patch
    label[12, 1:4], label[15:17, 8:10], label[19, 19] = 1, 1, 1
    label[13, 15] = 2
    pieces = numbered(label == 1, connectivity=2)
    gone = set()
    for pick in (0.0, 0.3, 0.5, 0.99):
        made = Forget().distort(label, {"classes": [1], "picks": [pick]})
        (number,) = np.unique(pieces[made != label])
        assert np.array_equal(made != label, pieces == number) and (made[made != label] == IGNORE).all()
        assert (made[:10] == 1).all()
        gone.add(int(number))
    assert len(gone) == 3
    nothing = Forget().distort(label, {"classes": [3], "picks": [0.5]})
    assert np.array_equal(nothing, label)


@pytest.mark.parametrize("options", [{"probability": 2}, {"share": -1}, {"radius": [0, 3]}, {"radius": [4, 2]}])
def test_morphology_refuses_what_makes_no_sense(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).replace("share", "probability")):
        Morphology(**options)


@pytest.mark.parametrize("largest", [0.0, 1.5])
def test_a_share_of_the_patch_is_a_share(largest: float) -> None:
    with pytest.raises(ValueError, match="largest"):
        Forget(largest=largest)
