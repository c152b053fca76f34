"""How sure networks were of each class over the background, kept beside the labels of cases that were held out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.records import Question
from autoseg.store import save_indices

if TYPE_CHECKING:
    from autoseg.steps.pieces import Piece


def levels_beside(label: Path) -> Path:
    """Where they lie of the label file of a case."""
    return label.parent / "levels" / f"{label.name}.b2nd"


def certainty_beside(label: Path) -> Path:
    """Where it is noted how sure an ensemble was of the case of a label file."""
    return label.parent / "levels" / f"{label.name}.json"


class Levels:
    """Takes the pieces of a prediction, which must have probabilities; nothing where no class is the background."""

    def __init__(self, shape: tuple[int, ...], question: Question) -> None:
        self.array = np.zeros((2, *shape), np.uint8) if question.background and not question.regions else None

    def take(self, piece: Piece) -> None:
        """Into its box."""
        from autoseg.steps.odds import levels_of

        if self.array is not None:
            assert piece.probabilities is not None
            found = levels_of(piece.probabilities.float())
            everywhere = (slice(None), *piece.box)
            self.array[everywhere] = found if piece.valid is None else found * piece.valid

    def save(self, label: Path) -> None:
        """Writes them beside the label file, where there is something to say."""
        if self.array is not None:
            save_indices(levels_beside(label), self.array)
