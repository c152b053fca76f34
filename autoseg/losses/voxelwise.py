"""Losses that are means over voxels: cross-entropy and what is made of it.

Where the target is of regions, a voxel counts once per region and its cross-entropy is binary. `first` changes
nothing here: it is taken so that all losses are called alike. Where every voxel is ignored, all are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.losses.targets import Loss, counted, truth


def surprise(logits: Tensor, target: Tensor) -> Tensor:
    """−log of the probability of what is true, in nats: (B, *S), for regions (B, R, *S); 0 where ignored."""
    if target.ndim == logits.ndim:
        return _binary(logits, target)
    return F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="none")


def _binary(logits: Tensor, target: Tensor) -> Tensor:
    """(B, K, *S): binary cross-entropy of every class or region by itself; 0 where ignored."""
    true = truth(logits, target).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, true, reduction="none") * counted(logits, target)


def _known(target: Tensor) -> Tensor:
    """How many values of the target count, at least 1."""
    return (target != IGNORE).sum().clamp(min=1)


def cross_entropy(first: int) -> Loss:
    """Mean cross-entropy; binary cross-entropy where regions overlap.

    A perfect prediction gives 0; an empty class costs what is given to it wrongly and nothing of its own.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return surprise(logits, target).sum() / _known(target)

    return loss


def weighted_cross_entropy(first: int, weights: Sequence[float] | None) -> Loss:
    """Mean cross-entropy in which a voxel weighs as much as its class (or region) does in the plan.

    The mean is over the weights, as torch has it. A perfect prediction gives 0; the weight of an empty class is unused.
    Raises: ValueError without weights, or with one that is not above 0; BadPlan when there is not one per class.
    """
    if weights is None:
        raise ValueError("the plan has no class weights (train.class_weights)")
    if not all(isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"class weights {tuple(weights)} want numbers above 0")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        each = _weight_map(logits, target, weights)
        total = each.sum()
        return (surprise(logits, target) * each).sum() / (total + (total == 0))

    return loss


def _weight_map(logits: Tensor, target: Tensor, weights: Sequence[float]) -> Tensor:
    """What every value of the target weighs, in its shape; 0 where ignored."""
    if len(weights) != logits.shape[1]:
        raise BadPlan(
            f"{len(weights)} class weights for {logits.shape[1]} outputs", where="train.class_weights",
            expected="one per output of the network, in order",
        )  # fmt: skip
    known, per_class = target != IGNORE, logits.new_tensor(weights)
    if target.ndim == logits.ndim:
        return per_class.view(-1, *[1] * (logits.ndim - 2)) * known
    return per_class[torch.where(known, target, 0).long()] * known


def frequency_weights(counts: Sequence[float], cap: float = 10.0) -> tuple[float, ...]:
    """Class weights of mean 1, inverse to the classes' numbers of voxels.

    Median-frequency balancing (Eigen 2015) gives the same ratios where a class's frequency is taken over all images;
    only the cap would differ: it is counted from the most frequent class, so that it bounds every ratio.

    Args:
        counts: voxels per class; a class that was never seen gets the cap.
        cap: how many times as much as the most frequent class another may weigh, 1 or more.
    Raises: ValueError for a negative or no count, or a cap below 1.
    """
    if not counts or not all(isfinite(count) and count >= 0 for count in counts):
        raise ValueError(f"counts {tuple(counts)} want numbers of voxels")
    if not 1 <= cap < float("inf"):
        raise ValueError(f"cap is {cap}, expected 1 or more")
    most = max(counts)
    raw = [min(most / count, cap) if count else cap for count in counts]
    return tuple(weight * len(raw) / sum(raw) for weight in raw)


def binary_cross_entropy(first: int) -> Loss:
    """Mean binary cross-entropy over voxels and regions; classes that do not overlap are taken one against the rest.

    A perfect prediction gives 0; an empty class (or region) is pushed down at every voxel, like any other.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return _binary(logits, target).sum() / counted(logits, target).sum().clamp(min=1)

    return loss


def focal(first: int, gamma: float = 2.0) -> Loss:
    """Mean of (1 − p)^gamma · cross-entropy, p being the probability of what is true (Lin 2017).

    A perfect prediction gives 0; an empty class costs what is given to it wrongly and nothing of its own.
    """
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma is {gamma}, expected 0 or more")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        nats = surprise(logits, target)
        # expm1 and the clamp keep the gradient finite where p is 1, the latter for gamma below 1
        return ((-torch.expm1(-nats)).clamp(min=1e-12) ** gamma * nats).sum() / _known(target)

    return loss


def top_k(first: int, share: float = 0.1) -> Loss:
    """Mean cross-entropy over the hardest voxels of the batch (Wu 2016), `share` of those that count, at least one.

    A perfect prediction gives 0; an empty class costs where giving voxels to it is among the worst mistakes.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a number above 0 and up to 1")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        known = int((target != IGNORE).sum())
        hardest = max(round(share * known), min(known, 1))
        return surprise(logits, target).flatten().topk(hardest, sorted=False).values.sum() / max(hardest, 1)

    return loss
