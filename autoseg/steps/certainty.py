"""How sure networks are of a case whose label they had not seen: calibration, and where they doubt the label."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.components import label_components
from autoseg.errors import RunFailed
from autoseg.image import IGNORE
from autoseg.records import CaseCertainty, Doubt, Question
from autoseg.records.certainty import BINS
from autoseg.steps.pieces import Piece

SURE = 0.5  # by which the networks' class is surer than the label's, where they doubt that
DOUBTS = 5  # places that are kept of a case


class Weighing:
    """What networks say of a case against its label: takes the pieces, which must have probabilities.

    Args:
        reference: class indices (*S), IGNORE where nothing counts.
    """

    def __init__(self, reference: NDArray[np.uint8], question: Question, spacing: Sequence[float]) -> None:
        self.reference, self.question, self.spacing = reference, question, spacing
        self.counts, self.right = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self.sure = np.zeros(BINS)
        self.surer = np.zeros(reference.shape, np.uint8)  # in 255ths
        self.said = np.zeros(reference.shape, np.uint8)

    def take(self, piece: Piece) -> None:
        """Counts what is sure and right in a box, and notes where another class is surer than the label's."""
        assert piece.probabilities is not None
        chances, label = piece.probabilities.float().cpu().numpy(), self.reference[piece.box]
        if not np.isfinite(chances).all():
            raise RunFailed("the network answers NaN", where="predicting", remedy="train it again with --fresh")
        known = label != IGNORE
        if self.question.regions:
            members = np.array(self.question.members, bool)  # (V, R)
            there = np.moveaxis(members[np.where(known, label, 0)], -1, 0)
            sure = np.where(chances > 0.5, chances, 1 - chances)
            self._count(sure[:, known], ((chances > 0.5) == there)[:, known])
            apart = np.where(there, 1 - chances, chances).max(0) * 2 - 1
        else:
            sure = chances.max(0)
            self._count(sure[known], (piece.indices == label)[known])
            own = np.take_along_axis(chances, np.where(known, label, 0)[None].astype(np.int64), 0)[0]
            apart = np.where(piece.indices == label, 0, sure - own)
        self.surer[piece.box] = np.where(known, np.clip(apart, 0, 1) * 255, 0).astype(np.uint8)
        self.said[piece.box] = piece.indices

    def _count(self, sure: NDArray[np.float32], right: NDArray[np.bool_]) -> None:
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1).ravel()
        self.counts += np.bincount(bins, minlength=BINS)
        self.sure += np.bincount(bins, sure.ravel(), BINS)
        self.right += np.bincount(bins[right.ravel()], minlength=BINS)

    def close(self) -> CaseCertainty:
        """What is known of the case when all pieces are taken."""
        doubted = self.surer >= SURE * 255
        found, voxel = label_components(doubted.astype(np.uint8)), prod(self.spacing)
        numbers = found.numbers[doubted]
        weights = np.bincount(numbers, self.surer[doubted] * (voxel / 255), len(found.sizes) + 1)[1:]
        known = self.reference != IGNORE
        if self.question.background:
            known &= (self.reference > 0) | (self.said > 0)
        order = np.argsort(-weights)[:DOUBTS]
        places = np.argwhere(doubted)
        return CaseCertainty(
            counts=tuple(map(int, self.counts)), sure=tuple(map(float, self.sure)), right=tuple(map(int, self.right)),
            weight=float(weights.sum()), above=float(np.count_nonzero(known) * voxel),
            doubts=tuple(self._doubt(places[numbers == number + 1], float(weights[number])) for number in order),
        )  # fmt: skip

    def _doubt(self, places: NDArray[np.int64], weight: float) -> Doubt:
        at = tuple(places.T)
        middle = places[np.abs(places - places.mean(0)).sum(1).argmin()]
        # where several classes meet, the most frequent of either side alone may be the same class
        both = np.bincount(self.said[at].astype(np.int64) * 256 + self.reference[at])
        said, label = (self.question.classes[index] for index in divmod(int(both.argmax()), 256))
        return Doubt(
            box=tuple((int(axis.min()), int(axis.max())) for axis in at), at=tuple(map(int, middle)),
            said=said, label=label, voxels=len(places), weight=weight,
        )  # fmt: skip
