"""Gates along each axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.layers import before_sigmoid, convolution


class Coord(nn.Module):
    """Coordinate attention (Hou 2021), along two or three axes: a gate per channel and place on each axis.

    The profiles of all axes are normed together as one group per sample, where the paper has batch norm: it then
    works on a single position and does not depend on the batch.
    """

    def __init__(self, dims: int, channels: int, reduction: int = 32) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction is {reduction}, expected 1 or more")
        hidden = max(8, channels // reduction)
        self.mix = convolution(1, channels, hidden)
        self.norm = nn.GroupNorm(1, hidden)
        self.excite = nn.ModuleList(before_sigmoid(convolution(1, hidden, channels)) for _ in range(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        axes = range(2, x.ndim)
        profiles = [x.mean(dim=[other for other in axes if other != axis]) for axis in axes]
        mixed = F.hardswish(self.norm(self.mix(torch.cat(profiles, dim=2))))
        gate = x.new_ones(())
        for axis, excite, part in zip(axes, self.excite, mixed.split_with_sizes(x.shape[2:], dim=2), strict=True):
            along = [1] * (axis - 2) + [x.shape[axis]] + [1] * (x.ndim - 1 - axis)
            gate = gate * excite(part).sigmoid().unflatten(2, along)
        return x * gate
