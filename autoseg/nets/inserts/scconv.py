"""Reconstruction of what is redundant, in space and among channels."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from autoseg.nets.inserts.gates import means
from autoseg.nets.layers import convolution, group


class SCConv(nn.Module):
    """Spatial, then channel reconstruction (Li 2023).

    Args:
        alpha: share of the channels that goes the rich way, above 0 and below 1.
        squeeze: what the channels of both ways are divided by.
        groups: of the group-wise convolution, fewer where they do not divide the channels.
        threshold: above it, 0 to 1, a weight counts as informative.
        norm_groups: of the group norm, fewer where they do not divide the channels or leave one alone.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        alpha: float = 0.5,
        squeeze: int = 2,
        groups: int = 2,
        threshold: float = 0.5,
        norm_groups: int = 16,
    ) -> None:
        super().__init__()
        if not 0 < alpha < 1 or not 0 <= threshold <= 1:
            raise ValueError(f"alpha is {alpha} and threshold {threshold}, expected between 0 and 1")
        if min(squeeze, groups, norm_groups) < 1:
            raise ValueError(f"squeeze, groups, norm_groups are {squeeze}, {groups}, {norm_groups}, expected 1 or more")
        self.space = SpatialReconstruction(dims, channels, threshold, norm_groups)
        self.channel = ChannelReconstruction(dims, channels, alpha, squeeze, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        out: Tensor = self.channel(self.space(x))
        return out


class SpatialReconstruction(nn.Module):
    """Splits the map by the weights of a group norm, and adds one part to the other, halves crossed (Li 2023)."""

    def __init__(self, dims: int, channels: int, threshold: float, norm_groups: int) -> None:
        super().__init__()
        self.threshold = threshold
        # a group of one channel has no variance at a single position
        norm = group(dims, channels, max(1, min(norm_groups, channels // 2)))
        assert isinstance(norm, nn.GroupNorm)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        scale = self.norm.weight
        # the module would refuse a single number, whose norm is the bias
        normed = torch.group_norm(x, self.norm.num_groups, scale, self.norm.bias, self.norm.eps)
        gate = (normed * (scale / scale.sum()).reshape(-1, *[1] * (x.ndim - 2))).sigmoid()
        informative = torch.where(gate > self.threshold, 1.0, gate).to(x.dtype)
        other = torch.where(gate > self.threshold, 0.0, gate).to(x.dtype)
        return x * informative + (x * other).roll(x.shape[1] // 2, dims=1)


class ChannelReconstruction(nn.Module):
    """Splits the channels, draws new features from one part and few from the other, and weighs the two (Li 2023).

    A single channel goes both ways.
    """

    def __init__(self, dims: int, channels: int, alpha: float, squeeze: int, groups: int) -> None:
        super().__init__()
        self.upper = max(1, int(alpha * channels))
        self.lower = max(1, channels - self.upper)
        rich, plain = max(1, self.upper // squeeze), max(1, self.lower // squeeze)
        shared = gcd(rich, channels)
        groups = next(g for g in range(min(groups, shared), 0, -1) if shared % g == 0)
        self.squeeze_upper = convolution(dims, self.upper, rich, bias=False)
        self.squeeze_lower = convolution(dims, self.lower, plain, bias=False)
        self.group_wise = convolution(dims, rich, channels, 3, groups=groups)
        self.point_wise = convolution(dims, rich, channels, bias=False)
        missing = channels - plain
        self.fill = nn.ModuleList([convolution(dims, plain, missing, bias=False)] if missing else [])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        upper = self.squeeze_upper(x[:, : self.upper])
        lower = self.squeeze_lower(x[:, -self.lower :])
        rich = self.group_wise(upper) + self.point_wise(upper)
        plain = torch.cat([*(fill(lower) for fill in self.fill), lower], dim=1)
        share = torch.stack([means(rich), means(plain)]).softmax(dim=0).to(rich.dtype)
        out: Tensor = share[0] * rich + share[1] * plain
        return out
