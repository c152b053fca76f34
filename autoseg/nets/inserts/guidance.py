"""Attention that a map of all encoder stages guides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.inserts.attention import LIMIT, within
from autoseg.nets.inserts.context import ASPP, unit
from autoseg.nets.inserts.gates import SE
from autoseg.nets.layers import convolution, resized
from autoseg.records import Part

POOL: dict[int, Callable[..., Tensor]] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
Stages = Sequence[tuple[int, Sequence[int]]]


class GlobalGuidance(nn.Module):
    """Attention between positions, then between channels, both guided by what all encoder stages see (Xue 2021,
    GG-Net); starts as the identity.

    `encoder`: channels and size of every stage. Raises: ValueError for a map of more than `limit` positions.
    """

    places: ClassVar[tuple[str, ...]] = ("bottleneck", "decoder")

    def __init__(
        self, dims: int, channels: int, size: Sequence[int], norm: Part, encoder: Stages, limit: int = LIMIT
    ) -> None:
        super().__init__()
        within(size, limit)
        self.guide = GuidanceMap(dims, channels, size, norm, encoder)
        self.positions = GuidedPositions(dims, channels)
        self.channels = GuidedChannels(dims, channels)

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(B, C, *S) and the features of every encoder stage -> (B, C, *S)."""
        guide = self.guide(features)
        out: Tensor = self.channels(self.positions(x, guide), guide)
        return out


class GuidanceMap(nn.Module):
    """The features of all encoder stages at one size, mixed, behind atrous spatial pyramid pooling."""

    def __init__(self, dims: int, channels: int, size: Sequence[int], norm: Part, encoder: Stages) -> None:
        super().__init__()
        if not encoder:
            raise ValueError("there are no encoder stages to be guided by")
        self.size = tuple(size)
        self.mix = unit(dims, sum(width for width, _ in encoder), channels, size, norm)
        self.pyramid = ASPP(dims, channels, size, norm)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The features (B, Cᵢ, *Sᵢ) of every stage -> (B, C, *size)."""
        alike = [_brought(feature, self.size) for feature in features]
        out: Tensor = self.pyramid(self.mix(torch.cat(alike, dim=1)))
        return out


class GuidedPositions(nn.Module):
    """Every position sees all: softmax(QKᵀ ∘ Q'K'ᵀ), Q' and K' from the guidance map; both products are divided by √C,
    so that the softmax does not harden with the width."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.project = convolution(dims, channels, 3 * channels)
        self.guide = convolution(dims, channels, 2 * channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Two (B, C, *S) -> (B, C, *S)."""
        query, key, value = self.project(x).flatten(2).chunk(3, dim=1)
        alike = _products(query, key) * _products(*self.guide(guide).flatten(2).chunk(2, dim=1))
        seen = value @ alike.softmax(dim=-1).transpose(1, 2)
        out: Tensor = x + self.scale * seen.reshape(x.shape)
        return out


class GuidedChannels(nn.Module):
    """Every channel sees all: softmax(XXᵀ · GGᵀ), G the guidance map behind squeeze and excitation; both products are
    means over the positions, so that the softmax does not harden with the map."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.excite = SE(dims, channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Two (B, C, *S) -> (B, C, *S)."""
        rows = x.flatten(2)
        alike = _gram(rows) @ _gram(self.excite(guide).flatten(2))
        seen = alike.softmax(dim=-1) @ rows
        out: Tensor = x + self.scale * seen.reshape(x.shape)
        return out


def _products(query: Tensor, key: Tensor) -> Tensor:
    """The product of every pair of positions, over √C: two (B, C, N) -> (B, N, N)."""
    scaled: Tensor = query * query.shape[1] ** -0.5
    return scaled.transpose(1, 2) @ key


def _gram(rows: Tensor) -> Tensor:
    """The mean product of every pair of channels: (B, C, N) -> (B, C, C)."""
    return (rows / rows.shape[2]) @ rows.transpose(1, 2)


def _brought(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *S) at another size: means of cells along the axes where it is larger, linear where it is smaller."""
    smaller = [min(n, target) for n, target in zip(x.shape[2:], size, strict=True)]
    return resized(POOL[len(smaller)](x, smaller), size)
