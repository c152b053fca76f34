"""Postprocessing of what is predicted piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from autoseg.arrays.cleaning import Act
from autoseg.records import Part, Question
from autoseg.steps.postprocess import acts, applied

if TYPE_CHECKING:
    from autoseg.steps.pieces import Piece

BYTES = 10  # per voxel: the label twice, and the numbers of its objects


def acts_of(parts: Sequence[Part], question: Question) -> list[Act]:
    """What the steps do to a label of the question. Raises: BadPlan."""
    return acts(parts, {name: question.classes.index(name) for name in question.foreground}) if parts else []


def fits(shape: Sequence[int], room: int) -> bool:
    """Whether a label of this shape can be looked at as a whole."""
    return prod(shape) * BYTES <= room


def cleaned(
    found: Iterator[Piece], shape: tuple[int, ...], steps: Sequence[Act], spacing: Sequence[float],
    early: Callable[[Piece], None],
) -> Iterator[Piece]:  # fmt: skip
    """The pieces of the label as the steps leave it, after the last one was found.

    Args:
        early: is given every piece as it was found.
    """
    from autoseg.steps.pieces import Piece

    label, met = np.zeros(shape, np.uint8), []
    for piece in found:
        early(piece)
        label[piece.box] = piece.indices
        met.append((piece.box, piece.valid))
    label = applied(label, steps, spacing)
    for box, valid in met:
        yield Piece(box, label[box], valid)
