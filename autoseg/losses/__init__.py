"""Losses as functions of logits and target, their text form, and deep supervision.

A loss takes logits (B, K, *S) in float32 and a target: (B, *S) class indices, or (B, K, *S) zeros and ones where
regions overlap. IGNORE marks in either what contributes nothing. It answers a scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.losses.edges import boundary, edge, edge_error
from autoseg.losses.overlap import focal_tversky, soft_dice, tversky
from autoseg.losses.targets import Loss, as_regions, sized
from autoseg.losses.voxelwise import (
    binary_cross_entropy,
    cross_entropy,
    focal,
    frequency_weights,
    top_k,
    weighted_cross_entropy,
)
from autoseg.parts import LOSSES
from autoseg.spelling import weighed

__all__ = [
    "Loss",
    "as_regions",
    "binary_cross_entropy",
    "boundary",
    "build",
    "cross_entropy",
    "depth_weights",
    "each_depth",
    "edge",
    "focal",
    "focal_tversky",
    "frequency_weights",
    "over_depths",
    "soft_dice",
    "top_k",
    "tversky",
    "weighed_sum",
    "weighted_cross_entropy",
]

EDGES = 10.0  # what the error of a network's edges weighs beside its loss (Xue 2021)


def build(text: str, first: int, weights: Sequence[float] | None = None) -> Loss:
    """The loss that a text such as `dice+ce` or `0.3*ce+0.7*tversky(alpha=0.3,beta=0.7)` spells.

    Args:
        first: index of the first class that overlap losses count (1 leaves the background out, 0 for regions).
        weights: one per class, for the losses that take them.
    Raises: BadPlan for an unknown name, a refused option or a text that is no weighted sum.
    """
    parts = [
        (factor, part.name, LOSSES.build(part, first=first, weights=weights))
        for factor, part in weighed(text, f"loss {text!r}")
    ]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return torch.stack([weight * _scalar(part(logits, target), name) for weight, name, part in parts]).sum()

    return loss


def _scalar(value: Tensor, name: str) -> Tensor:
    if value.ndim:
        raise BadPlan(f"answers {tuple(value.shape)}", where=f"loss {name}", expected="a scalar")
    return value


def depth_weights(depths: int, weights: Sequence[float] | None = None) -> list[float]:
    """`weights` of the heads from finest to coarsest, normalised to 1; None: 1, 1/2, 1/4 … the coarsest of several 0.

    Raises: BadPlan when there is not one per head, or they cannot be normalised.
    """
    if weights is None:
        weights = [0.5**i for i in range(depths - 1)] + [0.0 if depths > 1 else 1.0]
    if len(weights) != depths or not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
        raise BadPlan(
            f"{list(weights)} cannot weigh {depths} heads", where="train.depth_weights",
            expected="one number per head, finest first, 0 or more and not all 0",
        )  # fmt: skip
    return [weight / sum(weights) for weight in weights]


def over_depths(
    loss: Loss,
    outputs: Sequence[Tensor],
    target: Tensor,
    weights: Sequence[float] | None = None,
    members: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the loss at every head; see `each_depth`."""
    return weighed_sum(each_depth(loss, outputs, target, weights, members))


def weighed_sum(depths: Iterable[tuple[int, float, Tensor]]) -> Tensor:
    """The loss over all heads from those of each; there is one at least."""
    weighed = [weight * value for _, weight, value in depths]
    return torch.stack(weighed).sum() if len(weighed) > 1 else weighed[0]


def each_depth(
    loss: Loss,
    outputs: Sequence[Tensor],
    target: Tensor,
    weights: Sequence[float] | None = None,
    members: Tensor | None = None,
) -> Iterator[tuple[int, float, Tensor]]:
    """Number, weight and loss of every head that counts, the target brought to its size by nearest neighbour.

    Args:
        outputs: logits (B, K, *S) per head; with an attribute `edges`, tensors of the same shapes, each head costs
            also 10 times the error of its edges (Xue 2021).
        weights: one per head, finest first, before they are normalised; None: halved from head to head.
        members: (V, R), 1 where class v belongs to region r: the target of class indices becomes one of regions.
    Raises: BadPlan for weights that do not fit the heads.
    """
    edges: Sequence[Tensor] = getattr(outputs, "edges", ())
    for head, weight in enumerate(depth_weights(len(outputs), weights)):
        if weight == 0:
            continue
        seen = sized(target, outputs[head].shape[2:])
        seen = seen if members is None else as_regions(seen, members)
        value = loss(outputs[head].float(), seen)
        if edges:
            value = value + EDGES * edge_error(edges[head].float(), seen)
        yield head, weight, value
