"""Losses as functions of logits and target, their text form, and deep supervision.

A loss takes logits (B, K, *S) in float32 and a target (B, *S) of class indices, in which IGNORE marks the
voxels that contribute nothing, and answers a scalar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.parts import LOSSES

Loss = Callable[[Tensor, Tensor], Tensor]
TERM = re.compile(r"\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?([a-z_][a-z0-9_]*)\s*")


def cross_entropy(first: int) -> Loss:
    """Mean cross-entropy over the voxels that count; 0 when none does."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        total = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="sum")
        return total / (target != IGNORE).sum().clamp(min=1)

    return loss


def focal(first: int, gamma: float = 2.0) -> Loss:
    """Mean of (1 − p)^gamma · CE over the voxels that count (Lin 2017); 0 when none does."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        surprise = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="none")
        # expm1 and the clamp keep the gradient finite where p is 1, the latter for gamma below 1
        total = ((-torch.expm1(-surprise)).clamp(min=1e-12) ** gamma * surprise).sum()
        return total / (target != IGNORE).sum().clamp(min=1)

    return loss


def soft_dice(first: int, smooth: float = 1e-5) -> Loss:
    """1 − mean over classes from `first` on of the soft Dice over the whole batch (Milletari 2016, Drozdzal 2016).

    Sums run over batch and space, so that a class absent from one sample does not pull its Dice to zero. A
    class absent from the whole batch, target and prediction, counts as 1.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        counts = target != IGNORE
        truth = F.one_hot(torch.where(counts, target, 0).long(), logits.shape[1]).movedim(-1, 1)
        keep = counts[:, None].to(logits.dtype)
        probability = logits.softmax(1)[:, first:] * keep
        truth = truth[:, first:] * keep
        over = [0, *range(2, logits.ndim)]
        overlap = (probability * truth).sum(over)
        sizes = probability.sum(over) + truth.sum(over)
        return 1 - ((2 * overlap + smooth) / (sizes + smooth)).mean()

    return loss


def build(text: str, first: int) -> Loss:
    """The loss that a text such as `dice+ce` or `0.3*ce+0.7*focal` spells.

    Args:
        first: index of the first class that overlap losses count (1 leaves the background out).
    Raises: BadPlan for an unknown name or a text that is no weighted sum.
    """
    terms: list[tuple[float, Loss]] = []
    for piece in text.split("+"):
        match = TERM.fullmatch(piece)
        if match is None:
            raise BadPlan(f"loss {text!r} is not a weighted sum", expected="for example dice+ce or 0.3*ce+0.7*dice")
        terms.append((float(match[1] or 1), LOSSES.build(match[2], first=first)))

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return torch.stack([weight * term(logits, target) for weight, term in terms]).sum()

    return loss


def depth_weights(depths: int) -> list[float]:
    """1, 1/2, 1/4 … for the heads from finest to coarsest, the coarsest of several 0, normalised to 1."""
    weights = [0.5**i for i in range(depths)]
    if depths > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def over_depths(loss: Loss, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """Weighted sum of the loss at every head, the target brought to the head's size by nearest neighbour."""
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for weight, logits in zip(depth_weights(len(outputs)), outputs, strict=True):
        if weight:
            total = total + weight * loss(logits.float(), _sized(target, logits.shape[2:]))
    return total


def _sized(target: Tensor, size: torch.Size) -> Tensor:
    if target.shape[1:] == size:
        return target
    return F.interpolate(target[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].to(target.dtype)
