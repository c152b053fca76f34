"""Prediction: members swept over an image, averaged on its own grid, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.arrays.boxes import Box
from autoseg.image import Array, Image, Mask
from autoseg.records import Configuration, Question
from autoseg.steps import cases
from autoseg.steps.answering import outputs_of, sweep_of
from autoseg.steps.cutting import plan_cuts
from autoseg.steps.device import Precision, autocast
from autoseg.steps.odds import classes_of
from autoseg.steps.pieces import Piece
from autoseg.steps.restoring import Stream, logits_on_grid, steps
from autoseg.steps.sweep import ArraySource, Sweep
from autoseg.steps.tiling import Flips, entropy, mean_logits
from autoseg.steps.views import How, Prepared, View, views

T = TypeVar("T")
CHUNK = 128 * 1024**2  # bytes of rows that are restored at once, at most
NO_FLIPS = Flips()


def predict(
    image: Image,
    networks: Sequence[nn.Module],
    configuration: Configuration,
    question: Question,
    device: torch.device,
    precision: Precision,
    *,
    step: float = 0.5,
    mirror: bool = True,
    before: Array | None = None,
) -> Array:
    """The label of an image, on its grid, in the task's values; so is `before`, the label of an earlier stage."""
    how = How(step=step, mirror=mirror)
    seen = views(image, [(networks, configuration, precision)], question, device, how, {0: before})
    return label_of(image.shape, pieces(seen, question, how), question)


def label_of(shape: tuple[int, ...], found: Iterator[Piece], question: Question) -> Array:
    """The label (*S) of all pieces of an image of this shape, in the task's values."""
    indices = np.empty(shape, np.uint8)
    for piece in found:
        indices[piece.box] = piece.indices
    return cases.to_values(indices, question)


# -- pieces --------------------------------------------------------------------------------------------


def pieces(seen: Sequence[View], question: Question, how: How) -> Generator[Piece, None, None]:
    """The image, box after box, as soon as each is predicted: along its longest axis, what lies outside the crop first.

    Several views are averaged as probabilities; one alone is decided by its logits.
    Raises: BadUsage where the room does not hold the front of the smallest part of the image.
    """
    yield from _outside(seen[0].prepared, question, how)
    whole = len(seen) > 1 or how.probabilities or how.disagreement

    def answer(streams: Sequence[Stream], axis: int, rows: slice) -> _Answer:
        if whole:
            return _together(streams, seen, question, how, axis, rows)
        return _alone(streams[0], seen[0], question, how, axis, rows)

    alone = 28 if how.log_odds else 16
    for box, found in _swept(seen, question, how, 12 * outputs_of(question, how) if whole else alone, answer):
        yield _piece(box, found, seen[0].prepared, how)


def ways(seen: Sequence[View], question: Question, how: How, among: Sequence[Sequence[int]]) -> Iterator[list[Piece]]:
    """As `pieces`, one by each of several sets of views, which are given as their numbers.

    Every view is swept once, however many sets it is in. Raises: as `pieces`.
    """
    for piece in _outside(seen[0].prepared, question, how):
        yield [piece] * len(among)

    def answer(streams: Sequence[Stream], axis: int, rows: slice) -> list[_Answer]:
        chances = [
            _chances(_turned(stream.logits(rows), one, axis).float().cpu()[: len(question.outputs)], question)
            for stream, one in zip(streams, seen, strict=True)
        ]
        means = (torch.stack([chances[n] for n in way]).mean(0) for way in among)
        return [_Answer(_decided(mean, question, how), mean if how.probabilities else None) for mean in means]

    held = len(seen) + (len(among) if how.probabilities else 0)
    for box, found in _swept(seen, question, how, (8 + 4 * held) * len(question.outputs), answer):
        yield [_piece(box, one, seen[0].prepared, how) for one in found]


@dataclass(frozen=True)
class _Answer:
    indices: NDArray[np.uint8]
    probabilities: Tensor | None = None
    disagreement: Tensor | None = None


def _stream(one: View, question: Question, how: How, axis: int, cut: Box) -> Stream:
    """What a view answers in a cut of the crop, whose axes are the image's."""
    geometry, turned = one.prepared.geometry, tuple(cut[a] for a in one.prepared.geometry.axes)
    sweep = sweep_of(one, question, how, axis, turned)
    return Stream(sweep, geometry.cropped, geometry.coarse, turned)


def _swept(
    seen: Sequence[View], question: Question, how: How, bytes_per_voxel: int,
    answer: Callable[[Sequence[Stream], int, slice], T],
) -> Iterator[tuple[Box, T]]:  # fmt: skip
    """The boxes of the crop, in the image's axes, with what is answered of them, given the streams of all views."""
    axis, cuts = plan_cuts(seen, question, how)
    for cut in cuts:
        streams = [_stream(one, question, how, axis, cut) for one in seen]
        sizes = [part.stop - part.start for part in cut]
        each = max(1, min(CHUNK, how.room // 8) // max(1, prod(sizes) // sizes[axis] * bytes_per_voxel))
        row, stop = cut[axis].start, cut[axis].stop
        while row < stop:
            for stream in streams:
                while stream.ready <= row:
                    stream.advance()
            until = min(stream.ready for stream in streams)
            for rows in steps(row, until, each):
                box = tuple(rows if a == axis else part for a, part in enumerate(cut))
                yield box, answer(streams, axis, rows)
            row = until


def _alone(stream: Stream, one: View, question: Question, how: How, axis: int, rows: slice) -> _Answer:
    """The decision of one view by its logits."""
    if question.regions:
        written = [cases.index_of(question)[value] for value in question.written]
        found = stream.regions(rows, written)
    else:
        found = stream.classes(rows, how.log_odds)
    return _Answer(_turned(found, one, axis).cpu().numpy())


def _together(
    streams: Sequence[Stream], seen: Sequence[View], question: Question, how: How, axis: int, rows: slice
) -> _Answer:
    """The mean probabilities of all views, the decision by them, and how much the views and their networks disagree."""
    outputs, regions = len(question.outputs), bool(question.regions)
    mean: Tensor | None = None
    inner: Tensor | None = None
    apart: Tensor | None = None
    for stream, one in zip(streams, seen, strict=True):
        logits = _turned(stream.logits(rows), one, axis).float().cpu()
        chances = _chances(logits[:outputs], question)
        mean = chances if mean is None else mean + chances
        if how.disagreement:
            own = entropy(chances[None], regions=regions)[0]
            inner = own if inner is None else inner + own
            apart = logits[outputs] if apart is None else apart + logits[outputs]
    assert mean is not None
    mean = mean / len(streams)
    if apart is not None and inner is not None:
        between = entropy(mean[None], regions=regions)[0] - inner / len(streams)
        apart = (apart / len(streams) + between).clamp(min=0)
    return _Answer(_decided(mean, question, how), mean if how.probabilities else None, apart)


def _chances(logits: Tensor, question: Question) -> Tensor:
    """The probabilities (K, *S) that logits say."""
    return torch.sigmoid(logits) if question.regions else torch.softmax(logits, 0)


def _decided(chances: Tensor, question: Question, how: How) -> NDArray[np.uint8]:
    """The class indices (*S) that probabilities decide."""
    if not question.regions:
        return classes_of(chances, how.log_odds).numpy()
    indices = torch.zeros(chances.shape[1:], dtype=torch.uint8)
    for output, value in enumerate(question.written):
        indices[chances[output] > 0.5] = cases.index_of(question)[value]
    return indices.numpy()


def _turned(found: Tensor, one: View, axis: int) -> Tensor:
    """What has the swept axis in front and the plan's others behind it, in the image's axes (…, z, y, x)."""
    axes = one.prepared.geometry.axes
    order = [axis, *(a for a in axes if a != axis)]
    lead = found.ndim - 3
    return found.permute(*range(lead), *(lead + order.index(a) for a in range(3)))


def _piece(box: Box, answer: _Answer, prepared: Prepared, how: How) -> Piece:
    """An answer in a box of the crop as a piece of the image."""
    geometry = prepared.geometry
    there = tuple(slice(part.start + b.start, part.stop + b.start) for part, b in zip(box, geometry.box, strict=True))
    flat = geometry.dims == 2
    where = there[1:] if flat else there

    def cut(tensor: Tensor | None, axis: int) -> Tensor | None:
        return tensor.select(axis, 0) if tensor is not None and flat else tensor

    indices, valid = answer.indices[0] if flat else answer.indices, prepared.valid(where)
    if how.log_odds and valid is not None:  # no network may have looked there, and what none answers is a tie
        indices = np.where(valid, indices, np.uint8(0))
    return Piece(where, indices, valid, cut(answer.probabilities, 1), cut(answer.disagreement, 0))


def _outside(prepared: Prepared, question: Question, how: How) -> Iterator[Piece]:
    """What lies outside the crop of a volume: background, said with certainty."""
    shape, inner = prepared.geometry.shape, prepared.geometry.box
    for axis in range(3):
        rest = [slice(0, n) if a > axis else part for a, (n, part) in enumerate(zip(shape, inner, strict=True))]
        for part in (slice(0, inner[axis].start), slice(inner[axis].stop, shape[axis])):
            if part.stop <= part.start:
                continue
            row = max(1, prod(b.stop - b.start for a, b in enumerate(rest) if a != axis))
            for some in steps(part.start, part.stop, max(1, CHUNK // (8 * outputs_of(question, how) * row))):
                box = tuple(some if a == axis else b for a, b in enumerate(rest))
                yield _nothing(box, prepared.valid(box), question, how)


def _nothing(box: Box, valid: Mask | None, question: Question, how: How) -> Piece:
    size = tuple(part.stop - part.start for part in box)
    chances = None
    if how.probabilities:
        chances = torch.zeros((len(question.outputs), *size))
        if not question.regions:
            chances[0] = 1
    apart = torch.zeros(size) if how.disagreement else None
    return Piece(box, np.zeros(size, np.uint8), valid, chances, apart)


def predict_logits(
    array: NDArray[np.float32],
    networks: Sequence[nn.Module],
    configuration: Configuration,
    classes: int,
    device: torch.device,
    precision: Precision,
    step: float,
    flips: Flips = NO_FLIPS,
) -> Tensor:
    """Mean logits (K, z, y, x) of the networks over all tiles and flips, float32 on the CPU, of a whole case.

    Args:
        array: (C, z, y, x), preprocessed.
        step: distance of neighbouring tiles as a share of the patch, in (0, 1].
    """
    for network in networks:
        network.eval()

    def answer(batch: Tensor) -> Tensor:
        with autocast(device, precision):
            found = mean_logits(networks, batch.reshape(*batch.shape[:2], *configuration.patch), flips)
        return found.reshape(*found.shape[:2], *batch.shape[2:])

    patch = (1,) * (3 - configuration.dims) + configuration.patch
    sweep = Sweep(
        ArraySource(array), patch, step, 0, classes, answer, batch=configuration.batch, device=device
    )  # fmt: skip
    return logits_on_grid(sweep)
