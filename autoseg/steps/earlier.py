"""The label of an earlier stage of a cascade, on its way to the network's channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.augment import Distorting, Drawn
from autoseg.errors import BadPlan
from autoseg.image import IGNORE, Array, Image
from autoseg.records import Question
from autoseg.steps import preprocess
from autoseg.steps.preprocess import Geometry

SHIFT = 8  # bits that a label takes


class Earlier:
    """What becomes of an earlier stage's label (class indices, IGNORE for none) in a batch.

    It travels with the label as one number per voxel, so that it is read, moved and mirrored as that is.
    """

    outside = IGNORE << SHIFT | IGNORE

    def __init__(self, question: Question, parts: Sequence[Distorting]) -> None:
        self.question, self.parts = question, parts
        self.classes = range(question.background, len(question.classes))

    def draw(self, rng: np.random.Generator) -> tuple[Drawn | None, ...]:
        """The mistakes of a sample, one entry per part."""
        return tuple(part.draw(rng, self.classes) for part in self.parts)

    def packed(self, label: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Both (*S) as one number per voxel."""
        out: NDArray[np.int32] = label | earlier.astype(np.int32) << SHIFT
        return out

    def unpacked(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The label and the earlier one, uint8, of packed numbers."""
        return (codes & IGNORE).to(torch.uint8), (codes >> SHIFT).to(torch.uint8)

    def channels(self, labels: Tensor, drawn: Sequence[tuple[Drawn | None, ...]]) -> Tensor:
        """(B, F, *S) float32 of earlier labels (B, *S), after the mistakes that were drawn for each."""
        for n, sample in enumerate(drawn):
            for part, one in zip(self.parts, sample, strict=True):
                if one is not None:
                    labels[n] = torch.from_numpy(part.distort(labels[n].cpu().numpy(), one)).to(labels.device)
        return as_channels(labels, self.question)


def as_channels(labels: Tensor, question: Question) -> Tensor:
    """(B, F, *S) float32 zeros and ones of class indices (B, *S): which foreground outputs hold each voxel."""
    table = torch.zeros((256, len(question.outputs)), device=labels.device)
    rows = question.members if question.regions else np.eye(len(question.classes)).tolist()
    table[: len(question.classes)] = torch.tensor(rows, device=labels.device)
    index = labels.long()
    return torch.stack([column[index] for column in table[:, question.first :].T], 1)


def add_channels(
    array: NDArray[np.float32], label: Array, image: Image, geometry: Geometry, question: Question
) -> NDArray[np.float32]:
    """The preprocessed image (C, z, y, x), followed by the channels of an earlier stage's label.

    Args:
        label: on the image's grid, in the task's values.
    """
    indices = preprocess.prepare_label(label, image, geometry, array.shape[1:], question)
    given = as_channels(torch.from_numpy(indices)[None], question)[0].numpy()
    return np.concatenate([array, given])


def input_order(order: Sequence[int], channels: int, question: Question) -> list[int]:
    """How the input channels, `channels` of the image first, change places where the outputs do so.

    Raises: BadPlan where the background changes its place: it has no channel.
    """
    first = question.first
    if list(order[:first]) != list(range(first)):
        raise BadPlan("mirror exchanges the background", where="train.augment", remedy="exchange foreground classes")
    return [*range(channels), *(channels + output - first for output in order[first:])]
