"""Measures of objects: how many of them were found, whatever their size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from autoseg.arrays.components import Components, label_components
from autoseg.arrays.pairs import Counts, Measure, Pair, zero
from autoseg.image import Mask

Ratio = Callable[[int, int, int], float | None]


def volume_error() -> Measure:
    """How much larger or smaller what was predicted is, relative to what is there; not defined where nothing is."""

    def of(pair: Pair) -> float | None:
        there = int(np.count_nonzero(pair.reference))
        return abs(int(np.count_nonzero(pair.prediction)) - there) / there if there else None

    return Measure(of, of, "difference of the volumes by that of the reference", "lower")


def object_precision(iou: float = 0.5) -> Measure:
    """Of the predicted objects, how many match one that is there: with at least this IoU, one with one."""
    return _of_objects(iou, lambda found, predicted, _: _share(found, predicted), "share of predicted objects there")


def object_recall(iou: float = 0.5) -> Measure:
    """Of the objects that are there, how many match a predicted one: with at least this IoU, one with one."""
    return _of_objects(iou, lambda found, _, there: _share(found, there), "share of objects that were predicted")


def object_f1(iou: float = 0.5) -> Measure:
    """Harmonic mean of `object_precision` and `object_recall`; objects are connected over corners too."""
    return _of_objects(iou, _f1, "F1 of objects")


def _of_objects(iou: float, ratio: Ratio, said: str) -> Measure:
    if not 0 < iou <= 1:
        raise ValueError(f"iou is {iou}: want above 0 and at most 1")
    return _counted(
        lambda pair: matched(pair.prediction, pair.reference, iou), ratio, f"{said}, matched at IoU {iou:g}"
    )


def _counted(counts: Callable[[Pair], Counts], ratio: Ratio, said: str) -> Measure:
    def of(pair: Pair) -> float | None:
        return ratio(*counts(pair))

    return Measure(of, of, said, counts=counts, ratio=ratio)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _f1(found: int, predicted: int, there: int) -> float | None:
    return _share(2 * found, predicted + there)


def matched(prediction: Mask, reference: Mask, iou: float) -> Counts:
    """The most pairs of one predicted object and one that is there with at least this IoU; and how many there are."""
    ours, theirs = (label_components(mask.astype(np.uint8)) for mask in (prediction, reference))
    mine, other, voxels = _overlaps(ours, theirs)
    union = ours.sizes[mine] + theirs.sizes[other] - voxels
    good = voxels >= iou * union
    edges = csr_array(
        (np.ones(int(good.sum()), np.int8), (mine[good], other[good])), shape=(len(ours.sizes), len(theirs.sizes))
    )
    found = int((maximum_bipartite_matching(edges, perm_type="column") >= 0).sum()) if edges.nnz else 0
    return found, len(ours.sizes), len(theirs.sizes)


def _overlaps(ours: Components, theirs: Components) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers from 0 of components that share voxels, and how many."""
    both = (ours.numbers > 0) & (theirs.numbers > 0)
    codes = (ours.numbers[both].astype(np.int64) - 1) * len(theirs.sizes) + theirs.numbers[both].astype(np.int64) - 1
    pairs, voxels = np.unique(codes, return_counts=True)
    width = max(1, len(theirs.sizes))
    return pairs // width, pairs % width, voxels


def lesion_dice(dilation: int = 3, smallest: float = 50) -> Measure:
    """Mean Dice over lesions, with 0 for every one that was invented or missed (BraTS, 2023).

    Objects of the reference whose dilations touch are one lesion; of the prediction, all objects that touch its
    dilation belong to it, and those that touch none are invented.

    Args:
        dilation: steps of 18 (3-D) or 8 (2-D) neighbours; BraTS has 3 for gliomas, 1 for metastases and meningiomas.
        smallest: lesions up to this volume (mm³, m²) do not count; 50 there, 2 for metastases.
    """
    _require_lesions(dilation, smallest)

    def of(pair: Pair) -> float:
        dice, invented = _lesions(pair, dilation, smallest)
        return sum(dice) / (len(dice) + invented) if dice or invented else 1.0

    return Measure(of, zero, f"mean Dice of lesions above {smallest:g}, dilated {dilation} times")


def lesion_precision(dilation: int = 3, smallest: float = 50) -> Measure:
    """Of the lesions that are predicted, how many are there. Args: as of `lesion_dice`, which says what a lesion is."""
    return _of_lesions(dilation, smallest, lambda found, predicted, _: _share(found, predicted), "found of predicted")


def lesion_recall(dilation: int = 3, smallest: float = 50) -> Measure:
    """Of the lesions that are there, how many a prediction touches. Args: as of `lesion_dice`."""
    return _of_lesions(dilation, smallest, lambda found, _, there: _share(found, there), "found of those there")


def lesion_f1(dilation: int = 3, smallest: float = 50) -> Measure:
    """Harmonic mean of `lesion_precision` and `lesion_recall`. Args: as of `lesion_dice`."""
    return _of_lesions(dilation, smallest, _f1, "F1 of lesions")


def _of_lesions(dilation: int, smallest: float, ratio: Ratio, said: str) -> Measure:
    _require_lesions(dilation, smallest)

    def counts(pair: Pair) -> Counts:
        dice, invented = _lesions(pair, dilation, smallest)
        found = sum(one > 0 for one in dice)
        return found, found + invented, len(dice)

    return _counted(counts, ratio, f"{said}: lesions above {smallest:g}, dilated {dilation} times")


def _require_lesions(dilation: int, smallest: float) -> None:
    if dilation < 1 or smallest < 0:
        raise ValueError(f"dilation {dilation} and smallest {smallest}: want at least 1 and 0")


def _lesions(pair: Pair, dilation: int, smallest: float) -> tuple[list[float], int]:
    """The Dice of each lesion that counts, and how many objects were invented."""
    if not pair.reference.size:  # nothing is there and nothing predicted
        return [], 0
    around = [(dilation if axis in pair.axes else 0,) * 2 for axis in range(pair.reference.ndim)]
    prediction, reference = (np.pad(mask, around) for mask in (pair.prediction, pair.reference))
    structure = ndimage.generate_binary_structure(reference.ndim, 2)
    grown = ndimage.binary_dilation(reference, structure, iterations=dilation)
    lesions = label_components(grown.astype(np.uint8)).numbers * reference
    guesses = label_components(prediction.astype(np.uint8))
    touched = np.zeros(len(guesses.sizes) + 1, bool)
    scores = []
    for number, box in enumerate(ndimage.find_objects(lesions), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(0, side.start - dilation), side.stop + dilation) for side in box)
        lesion = lesions[wide] == number
        near = np.unique(guesses.numbers[wide][ndimage.binary_dilation(lesion, structure, iterations=dilation)])
        near = near[near > 0]
        touched[near] = True
        size = int(np.count_nonzero(lesion))
        if size * np.prod(pair.spacing) > smallest:
            hits = int(np.isin(guesses.numbers[wide], near)[lesion].sum())
            scores.append(2 * hits / (size + int(guesses.sizes[near.astype(np.int64) - 1].sum())))
    return scores, int((~touched[1:]).sum())


def patch_f1(size: int = 16, share: float = 0.25) -> Measure:
    """F1 of square patches, counted as the class where more than a share of them is (EPFL road segmentation).

    Args:
        size: of a patch in pixels, from the image's first corner; volumes are taken slice by slice.
    """
    if size < 1 or not 0 <= share < 1:
        raise ValueError(f"size {size} and share {share}: want at least 1, and from 0 to below 1")

    def counts(pair: Pair) -> Counts:
        ours, theirs = (_patches(mask, pair, size) > share for mask in (pair.prediction, pair.reference))
        return int((ours & theirs).sum()), int(ours.sum()), int(theirs.sum())

    return _counted(counts, _f1, f"F1 of patches of {size}×{size} that are the class in more than {share:.0%}")


def _patches(mask: Mask, pair: Pair, size: int) -> NDArray[np.float64]:
    """How much of each patch of the image's own grid the mask covers, where the box has any."""
    if not mask.size:
        return np.zeros((1, 1))
    starts = [start % size for start in pair.starts[-2:]]
    flat = [(0, 0)] * (mask.ndim - 2)
    sides = [(start, -(start + extent) % size) for start, extent in zip(starts, mask.shape[-2:], strict=True)]
    padded = np.pad(mask, [*flat, *sides])
    rows, columns = (extent // size for extent in padded.shape[-2:])
    sums = padded.reshape(-1, rows, size, columns, size).sum(axis=(2, 4))
    whole = _extents(pair, size, (rows, columns))
    covered: NDArray[np.float64] = sums / whole
    return covered


def _extents(pair: Pair, size: int, counts: tuple[int, int]) -> NDArray[np.int64]:
    """Pixels of each patch that lie in the image."""
    lengths = []
    for axis, count in zip((-2, -1), counts, strict=True):
        first = pair.starts[axis] - pair.starts[axis] % size
        at = first + size * np.arange(count)
        lengths.append(np.minimum(at + size, pair.shape[axis]) - at)
    return np.multiply.outer(lengths[0], lengths[1])
