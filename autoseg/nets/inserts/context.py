"""Context at several scales: pooling pyramids and dilated convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoseg.nets.layers import MAX_POOL, active, convolution, normal
from autoseg.records import Part

ONE_GROUP = Part(name="group", options={"groups": 1})  # measures over all channels: keeps what differs between them


class SPPF(nn.Module):
    """Fast spatial pyramid pooling (Jocher 2020, YOLOv5, after He 2014): three max pools of width 5, one after the
    other, beside what they started from."""

    places: ClassVar[tuple[str, ...]] = ("bottleneck",)

    def __init__(self, dims: int, channels: int, size: Sequence[int], norm: Part) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.squeeze = unit(dims, channels, width, size, norm)
        self.pool = MAX_POOL[dims](5, stride=1, padding=2)
        self.mix = unit(dims, 4 * width, channels, size, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        levels = [self.squeeze(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        out: Tensor = self.mix(torch.cat(levels, dim=1))
        return out


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen 2017, DeepLabv3): a 1-wide convolution, 3-wide ones of several dilations
    and the mean of the map, side by side.

    `rates` are scaled down, per axis, until the largest is at most half the edge of `size`: every position then
    reaches another one. Every branch, and the answer, has `channels_out` channels (default: `channels`). Where the
    norm is instance norm, the mix has group norm: the former would take the map's mean away again, a constant there.
    """

    places: ClassVar[tuple[str, ...]] = ("bottleneck",)

    def __init__(
        self,
        dims: int,
        channels: int,
        size: Sequence[int],
        norm: Part,
        rates: Sequence[int] = (6, 12, 18),
        channels_out: int | None = None,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"rates are {list(rates)}, expected numbers above 0")
        width = channels if channels_out is None else channels_out
        self.branches = nn.ModuleList([unit(dims, channels, width, size, norm)])
        for dilation in dilations(rates, size):
            self.branches.append(unit(dims, channels, width, size, norm, 3, dilation))
        self.whole = unit(dims, channels, width, (1,) * dims, norm)
        last = ONE_GROUP if norm.name == "instance" else norm
        self.mix = unit(dims, (len(rates) + 2) * width, width, size, last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, channels_out, *S)."""
        size = x.shape[2:]
        whole = self.whole(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        seen = [branch(x) for branch in self.branches] + [whole.expand(-1, -1, *size)]
        out: Tensor = self.mix(torch.cat(seen, dim=1))
        return out


def unit(
    dims: int,
    source: int,
    width: int,
    size: Sequence[int],
    norm: Part,
    kernel: int = 1,
    dilation: int | Sequence[int] = 1,
) -> nn.Sequential:
    """Convolution, norm, leaky ReLU on a map of `size`; a single position is normed over its channels."""
    measured = normal(norm if prod(size) > 1 else ONE_GROUP, dims, width)
    return nn.Sequential(convolution(dims, source, width, kernel, dilation=dilation), measured, active())


def dilations(rates: Sequence[int], size: Sequence[int]) -> list[tuple[int, ...]]:
    """The rates per axis, scaled down until the largest is at most half the axis, never below 1."""
    widest = 2 * max(rates)
    return [tuple(max(1, min(rate, rate * edge // widest)) for edge in size) for rate in rates]
