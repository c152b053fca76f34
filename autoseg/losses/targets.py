"""What a target says: which voxels count, what is true there, and how it looks at a head of another kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autoseg.image import IGNORE

Loss = Callable[[Tensor, Tensor], Tensor]


def counted(logits: Tensor, target: Tensor) -> Tensor:
    """(B, K, *S) bool: what is not ignored."""
    known = target != IGNORE
    return known if target.ndim == logits.ndim else known[:, None].expand_as(logits)


def truth(logits: Tensor, target: Tensor) -> Tensor:
    """(B, K, *S) bool: the voxels of each class or region; none of them is ignored."""
    if target.ndim == logits.ndim:
        return target == 1
    classes = torch.arange(logits.shape[1], dtype=target.dtype, device=target.device)
    return target[:, None] == classes.view(-1, *[1] * (logits.ndim - 2))


def probabilities(logits: Tensor, target: Tensor) -> Tensor:
    """(B, K, *S) in 0..1: softmax over classes, sigmoid of each region."""
    return logits.sigmoid() if target.ndim == logits.ndim else logits.softmax(1)


def as_regions(target: Tensor, members: Tensor) -> Tensor:
    """(B, *S) class indices -> (B, R, *S) uint8: 1 in the regions of the voxel's class, 255 where it is ignored.

    Args:
        members: (V, R) on the target's device, 1 where the class of index v belongs to region r, else 0.
    """
    index = torch.where(target == IGNORE, len(members), target).long()
    ignored = torch.full_like(members[:1], IGNORE, dtype=torch.uint8)
    return torch.stack([region[index] for region in torch.cat([members.to(torch.uint8), ignored]).T], 1)


def sized(target: Tensor, size: Sequence[int]) -> Tensor:
    """(B, *T) or (B, R, *T) -> the same with `size` for T: the voxel whose centre is nearest."""
    for axis, edge in enumerate(size, target.ndim - len(size)):
        if target.shape[axis] != edge:
            centres = 2 * torch.arange(edge, device=target.device) + 1
            target = target.index_select(axis, centres * target.shape[axis] // (2 * edge))
    return target
