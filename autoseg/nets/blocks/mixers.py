"""Blocks that mix positions channel by channel, then channels position by position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoseg.nets.layers import Layer, MeanPool, convolution, group


class ConvNeXt(nn.Module):
    """Depthwise convolution, layer norm, 1-wide to `expansion` times the channels, GELU, 1-wide back (Liu 2022).

    The depthwise kernel is `edge` wide along the axes on which the plan's is wider than 1. What is added starts
    small: `scale` per channel. A change of shape is a convolution with layer norm before the block. The norms
    are layer norms, whatever the plan's.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        edge: int = 7,
        expansion: int = 4,
        scale: float = 1e-6,
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential()
        if channels_in != channels_out or max(stride) > 1:
            self.enter.append(convolution(dims, channels_in, channels_out, kernel, stride))
            self.enter.append(Layer(dims, channels_out))
        self.mix = nn.Sequential(
            convolution(dims, channels_out, channels_out, _edges(edge, kernel), groups=channels_out),
            Layer(dims, channels_out),
            _mlp(dims, channels_out, expansion),
        )
        self.scale = _scale(channels_out, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        x = self.enter(x)
        return x + _scaled(self.mix(x), self.scale)


class PoolFormer(nn.Module):
    """Mean over the neighbours minus the position itself, then an MLP per position, both added (Yu 2022).

    The means are `edge` wide along the axes on which the plan's kernel is wider than 1. What is added starts
    small: `scale` per channel. A change of shape is a convolution before the block. The norms are group norms
    of one group, whatever the plan's.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        edge: int = 3,
        expansion: int = 4,
        scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential()
        if channels_in != channels_out or max(stride) > 1:
            self.enter.append(convolution(dims, channels_in, channels_out, kernel, stride))
        edges = _edges(edge, kernel)
        self.norm1 = group(dims, channels_out, groups=1)
        self.pool = MeanPool(edges, (1,) * dims, [e // 2 for e in edges])
        self.scale1 = _scale(channels_out, scale)
        self.mlp = nn.Sequential(group(dims, channels_out, groups=1), _mlp(dims, channels_out, expansion))
        self.scale2 = _scale(channels_out, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        x = self.enter(x)
        normed = self.norm1(x)
        x = x + _scaled(self.pool(normed) - normed, self.scale1)
        return x + _scaled(self.mlp(x), self.scale2)


def _edges(edge: int, kernel: Sequence[int]) -> tuple[int, ...]:
    if edge < 3 or edge % 2 == 0:
        raise ValueError(f"edge is {edge}, expected an odd number of 3 or more")
    return tuple(edge if k > 1 else 1 for k in kernel)


def _mlp(dims: int, channels: int, expansion: int) -> nn.Sequential:
    if expansion < 1:
        raise ValueError(f"expansion is {expansion}, expected 1 or more")
    inner = channels * expansion
    return nn.Sequential(convolution(dims, channels, inner), nn.GELU(), convolution(dims, inner, channels))


def _scale(channels: int, start: float) -> nn.Parameter:
    """A factor per channel (layer scale, Touvron 2021)."""
    if not 0 <= start <= 1:
        raise ValueError(f"scale is {start}, expected 0 to 1")
    return nn.Parameter(torch.full((channels,), float(start)))


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.reshape(-1, *(1,) * (x.ndim - 2))
