"""Postprocessing of what is predicted piece by piece."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.arrays.boxes import Box
from autoseg.arrays.cleaning import Act, Labels
from autoseg.pipeline.making import writing
from autoseg.records import Part, Question
from autoseg.steps.postprocess import acts, applied

if TYPE_CHECKING:
    from autoseg.steps.pieces import Piece

BYTES = 10  # per voxel: the label twice, and the numbers of its objects
STRIP = 40  # the same where objects are joined strip by strip
CHUNK = {2: 512, 3: 64}  # voxels of an edge of what a scratch file holds together, by axes


def acts_of(parts: Sequence[Part], question: Question) -> list[Act]:
    """What the steps do to a label of the question. Raises: BadPlan."""
    return acts(parts, {name: question.classes.index(name) for name in question.foreground}) if parts else []


def fits(shape: Sequence[int], room: int) -> bool:
    """Whether a label of this shape can be looked at as a whole."""
    return prod(shape) * BYTES <= room


def streams(steps: Sequence[Act]) -> bool:
    """Whether all of it can be done to a label strip by strip, as every step of autoseg's own can."""
    return all(hasattr(act, "in_strips") for act in steps)


def cleaned(
    found: Iterator[Piece], shape: tuple[int, ...], steps: Sequence[Act], spacing: Sequence[float],
    early: Callable[[Piece], None],
) -> Generator[Piece, None, None]:  # fmt: skip
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


def cleaned_in_strips(
    found: Iterator[Piece], shape: tuple[int, ...], steps: Sequence[Act], spacing: Sequence[float],
    early: Callable[[Piece], None], room: int, beside: Path,
) -> Generator[Piece, None, None]:  # fmt: skip
    """As `cleaned`, with the label on the disk and some rows of it in the memory.

    Args:
        room: bytes that these may take.
        beside: a file; scratch files in its folder are removed at the end, and by the next run if a kill leaves them.
    """
    from autoseg.steps.pieces import Piece

    scratch = [beside.with_name(f".{uuid.uuid4().hex}.part.{beside.name}") for _ in range(2)]
    try:
        label, valid, met = Scratch(scratch[0], shape), Scratch(scratch[1], shape), []
        for piece in found:
            early(piece)
            label[piece.box] = piece.indices
            if piece.valid is not None:
                valid[piece.box] = piece.valid.astype(np.uint8)
            met.append((piece.box, piece.valid is not None))
        each = max(1, room // (prod(shape[1:]) * STRIP))
        for act in steps:
            act.in_strips(label, each, spacing)  # type: ignore[attr-defined]
        for box, partly in met:
            yield Piece(box, label[box], valid[box].astype(bool) if partly else None)
    finally:
        for file in scratch:
            file.unlink(missing_ok=True)


class Scratch:
    """An array of zeros on the disk, compressed. Raises: RunFailed where that is full."""

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        import blosc2

        self.file, self.shape = file, shape
        chunks = tuple(min(CHUNK[len(shape)], size) for size in shape)
        packing = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=1, nthreads=1)
        with writing(file):
            self._array = blosc2.zeros(shape, np.uint8, urlpath=str(file), mode="w", chunks=chunks, cparams=packing)

    def __getitem__(self, box: slice | Box) -> Labels:
        with writing(self.file):
            found: Labels = self._array[box]
        return found

    def __setitem__(self, box: slice | Box, values: Labels) -> None:
        with writing(self.file):
            self._array[box] = values
