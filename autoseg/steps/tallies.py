"""What is counted of a case that was held out, once, from which all that postprocessing would do to it is known.

Taking away an object changes the counts of its own class and of no other, and so does a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.cleaning import Labels, holes
from autoseg.arrays.components import Components, label_components
from autoseg.image import IGNORE, Mask
from autoseg.steps.odds import SHARES

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Objects:
    """The connected objects of a case, of one class or of all as one.

    Attributes:
        volumes: (N,), in mm³, m² or pixels.
        voxels, hits: (N, K), (N, 1) of one class: voxels per class that count (are not ignored), and how many of them
            are right.
    """

    volumes: NDArray[np.float64]
    voxels: Counts
    hits: Counts


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a case.

    Attributes:
        fold: in which it was held out.
        hits, predicted, there: (K,), voxels per class.
        own: per class its objects; together: those of all classes as one.
        inside: (K, 2): what filling the holes of each class adds, and how much of that is right.
    """

    fold: int
    hits: Counts
    predicted: Counts
    there: Counts
    own: tuple[Objects, ...]
    together: Objects
    inside: Counts


@dataclass(frozen=True, eq=False)
class Odds:
    """How sure networks are of each class over the background, in a case.

    Attributes:
        fold: in which it was held out.
        dice: (K, T), at every one of SHARES as the threshold of the class.
    """

    fold: int
    dice: Shares


def facts(prediction: Labels, reference: Labels, classes: Sequence[int], spacing: Sequence[float], fold: int) -> Facts:
    """What is to be known of a case.

    Args:
        prediction, reference: class indices (*S); the reference is IGNORE where nothing counts.
        classes: the K indices above the background.
    """
    number = np.full(256, len(classes), np.uint8)  # of a class among the K; K for the background
    number[list(classes)] = range(len(classes))
    counts = reference != IGNORE
    right = counts & (prediction == reference)
    of = number[prediction]
    volume, width = prod(spacing), len(classes) + 1
    each = label_components(np.where(of < len(classes), prediction, 0).astype(np.uint8))
    every = label_components((of < len(classes)).astype(np.uint8))
    return Facts(
        fold=fold,
        hits=np.bincount(of[right], minlength=width)[:-1],
        predicted=np.bincount(of[counts], minlength=width)[:-1],
        there=np.bincount(number[reference[counts]], minlength=width)[:-1],
        own=_of_each(each, number, counts, right, len(classes), volume),
        together=_of_all(every, of, counts, right, len(classes), volume),
        inside=np.array([_inside(prediction, reference, index) for index in classes], np.int64).reshape(-1, 2),
    )  # fmt: skip


def _of_each(
    found: Components, number: Labels, counts: Mask, right: Mask, classes: int, volume: float
) -> tuple[Objects, ...]:  # fmt: skip
    """The objects of every class: those have voxels of that class alone."""
    total = len(found.sizes) + 1
    voxels, hits = (np.bincount(found.numbers[where], minlength=total)[1:, None] for where in (counts, right))
    of, volumes = number[found.classes], found.sizes.astype(np.float64) * volume
    return tuple(
        Objects(volumes[mine], voxels[mine], hits[mine]) for k in range(classes) for mine in (of == k,)
    )  # fmt: skip


def _of_all(found: Components, of: Labels, counts: Mask, right: Mask, classes: int, volume: float) -> Objects:
    """The objects of all classes as one, with the voxels of each class."""
    width = classes + 1

    def per_class(where: Mask) -> Counts:
        where = where & (found.numbers > 0)
        codes = found.numbers[where].astype(np.int64) * width + of[where]
        total = (len(found.sizes) + 1) * width
        return np.bincount(codes, minlength=total).reshape(-1, width)[1:, :-1].astype(np.int64)

    return Objects(found.sizes.astype(np.float64) * volume, per_class(counts), per_class(right))


def _inside(prediction: Labels, reference: Labels, index: int) -> tuple[int, int]:
    filled = holes(prediction == index) & (prediction == 0) & (reference != IGNORE)
    return int(np.count_nonzero(filled)), int(np.count_nonzero(reference[filled] == index))


def odds(levels: Labels, reference: Labels, classes: Sequence[int], fold: int) -> Odds:
    """What thresholds would do to a case.

    Args:
        levels: (2, *S), as of `steps.odds.levels_of`; reference, classes: as of `facts`.
    """
    number = np.full(256, len(classes), np.int64)
    number[list(classes)] = range(len(classes))
    counts, width = reference != IGNORE, len(SHARES) + 1
    codes = number[levels[0]] * width + levels[1]

    def beyond(where: Mask) -> Counts:
        """(K, T): voxels of each class above each share."""
        found = np.bincount(codes[where], minlength=(len(classes) + 1) * width).reshape(-1, width)[:-1]
        return found[:, ::-1].cumsum(1)[:, ::-1][:, 1:]

    said = counts & (levels[0] > 0)
    there = np.bincount(number[reference[counts]], minlength=len(classes) + 1)[:-1]
    hits, predicted = beyond(said & (levels[0] == reference)), beyond(said)
    return Odds(fold, np.stack([dice(*pair, there) for pair in zip(hits.T, predicted.T, strict=True)], 1))


def dice(hits: Counts, predicted: Counts, there: Counts) -> Shares:
    """Per class; NaN where it is neither predicted nor there."""
    total = (predicted + there).astype(np.float64)
    found: Shares = np.divide(2.0 * hits, total, out=np.full(len(total), np.nan), where=total > 0)
    return found
