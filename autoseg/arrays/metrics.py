"""Agreement of a prediction with a reference, from one confusion matrix per case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.image import Mask
from autoseg.records import Measures

Confusion = NDArray[np.int64]  # (K, K): [i, j] voxels of reference class i that were predicted as j
N = TypeVar("N", int, NDArray[np.float64])
_CHUNK = 1 << 22  # voxels counted at a time: bincount makes eight bytes of each


def confusion(prediction: NDArray[Any], reference: NDArray[Any], classes: int, ignore: int | None = 255) -> Confusion:
    """Voxels by reference class (rows) and predicted class (columns); all zero for empty arrays.

    Args:
        prediction, reference: class indices below `classes`, uint8 (or other integers in 0..255), any
            shape, the same for both.
        classes: K, at most 256.
        ignore: voxels with this value in the reference are left out, whatever was predicted there.

    Raises: ValueError when the shapes differ or a value is no class.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    guesses, truths = _bytes(prediction).ravel(), _bytes(reference).ravel()
    counts = np.zeros(1 << 16, dtype=np.int64)
    for start in range(0, truths.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        counts += np.bincount((truths[part].astype(np.uint16) << 8) | guesses[part], minlength=1 << 16)
    table = counts.reshape(256, 256)
    if ignore is not None and 0 <= ignore <= 255:
        table[ignore] = 0
    if table[classes:].any() or table[:, classes:].any():
        strange = {int(value) for pair in np.argwhere(table) for value in pair if value >= classes}
        raise ValueError(f"values {sorted(strange)} are none of {classes} classes")
    result: Confusion = table[:classes, :classes].copy()
    return result


def measures(confusion: Confusion, classes: Sequence[int], voxel_volume: float) -> Measures:
    """The measures of the classes of these indices taken as one: of one class, or of a region of several.

    Neither predicted nor there: Dice and IoU are None, not counted. One of both only: they are 0.
    Precision is None when nothing was predicted, recall when nothing is there, specificity when nothing else is.

    Args:
        confusion: (K, K), reference by prediction.
        voxel_volume: of one voxel, in mm³ (volumes) or m² (rasters); 1 where there is no spacing.
    """
    one = list(classes)
    hits = int(confusion[np.ix_(one, one)].sum())
    there, predicted = int(confusion[one].sum()), int(confusion[:, one].sum())
    outside = int(confusion.sum()) - there - predicted + hits
    named: dict[str, Any] = {**ratios(hits, predicted - hits, there - hits, outside)}
    return Measures(
        true_positives=hits,
        false_positives=predicted - hits,
        false_negatives=there - hits,
        true_negatives=outside,
        volume_prediction=predicted * voxel_volume,
        volume_reference=there * voxel_volume,
        **named,
    )


def ratios(hits: int, invented: int, missed: int, outside: int) -> dict[str, float | None]:
    """The ratios of true and false positives, false and true negatives, by name; None where they are 0/0, and all of
    them where there is nothing but true negatives."""
    parts = quotients(hits, invented, missed, outside)
    if not (hits or invented or missed):
        return dict.fromkeys(parts)
    return {name: _ratio(*of) for name, of in parts.items()}


def quotients(hits: N, invented: N, missed: N, outside: N) -> dict[str, tuple[N, N]]:
    """What `ratios` divides by what: numbers, or arrays of them."""
    wrong = invented + missed
    return {
        "dice": (hits + hits, hits + hits + wrong),
        "iou": (hits, hits + wrong),
        "precision": (hits, hits + invented),
        "recall": (hits, hits + missed),
        "specificity": (outside, outside + invented),
        "accuracy": (hits + outside, hits + outside + wrong),
    }


def dice(a: Mask, b: Mask) -> float | None:
    """Dice overlap 2|a ∩ b| / (|a| + |b|) of two masks, 0 to 1; None when both are empty.

    Raises: ValueError when the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks {a.shape} and {b.shape} differ in shape")
    both = int(np.count_nonzero(np.logical_and(a, b)))
    return _ratio(2 * both, int(np.count_nonzero(a)) + int(np.count_nonzero(b)))


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined; None when none is."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype.kind not in "bui":
        raise ValueError(f"{array.dtype} holds no class indices: want uint8")
    if array.dtype.itemsize > 1 or array.dtype.kind == "i":
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or high > 255:
            raise ValueError(f"values from {low} to {high} are no class indices: want 0 to 255")
    return array.astype(np.uint8, copy=False)
