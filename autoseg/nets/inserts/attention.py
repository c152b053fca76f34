"""Attention between all positions of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.layers import convolution

LIMIT = 4096  # positions: with 4 heads in float32, 268 MB of weights per sample
WAVELENGTH = 10_000  # what the waves of the position code grow towards, in units of 2π positions


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani 2017) over all positions, added to the map (Wang 2018, non-local
    networks); starts as the identity.

    Takes as many heads as divide the channels, at most `heads`. `position`: "sinusoidal", a fixed code that is added to
    the map before it is projected, or "learned", a bias per head and offset between two positions. Raises: ValueError
    for a map of more than `limit` positions.
    """

    code: Tensor | None

    def __init__(
        self,
        dims: int,
        channels: int,
        size: Sequence[int],
        heads: int = 4,
        position: str = "sinusoidal",
        limit: int = LIMIT,
    ) -> None:
        super().__init__()
        within(size, limit)
        if position not in ("sinusoidal", "learned"):
            raise ValueError(f"position is {position!r}, expected sinusoidal or learned")
        self.heads, self.size = divided(channels, heads), tuple(size)
        self.table = offsets(self.heads, size) if position == "learned" else None
        self.register_buffer("code", waves(channels, size)[None] if self.table is None else None, persistent=False)
        self.project = convolution(dims, channels, 3 * channels, bias=False)
        self.mix = convolution(dims, channels, channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        placed = x if self.code is None else x + self.code
        bias = None if self.table is None else relative(self.table, self.size)
        seen = attended(self.project(placed).flatten(2), self.heads, bias)
        out: Tensor = x + self.scale * self.mix(seen.reshape(x.shape))
        return out


def within(size: Sequence[int], limit: int) -> None:
    """Raises: ValueError for a map of more than `limit` positions."""
    if prod(size) > limit:
        raise ValueError(
            f"a map of {prod(size)} positions is above the limit of {limit}; take a deeper stage, or window_attention"
        )


def divided(channels: int, heads: int) -> int:
    """The largest divisor of the channels that is at most `heads`. Raises: ValueError for no head."""
    if heads < 1:
        raise ValueError(f"heads is {heads}, expected 1 or more")
    return next(h for h in range(min(heads, channels), 0, -1) if channels % h == 0)


def attended(projected: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of N positions: queries, keys and values in one (B, 3C, N) -> (B, C, N).

    `bias`, to the logits, broadcasts to (B, heads, N, N).
    """
    batch, channels, positions = projected.shape
    split = projected.reshape(batch, 3, heads, channels // (3 * heads), positions)
    query, key, value = split.transpose(-1, -2).unbind(1)
    seen = F.scaled_dot_product_attention(query, key, value, None if bias is None else bias.to(query.dtype))
    return seen.transpose(-1, -2).flatten(1, 2)


# -- where a position is -------------------------------------------------------------------------------


def waves(channels: int, size: Sequence[int]) -> Tensor:
    """Sines and cosines of every axis at wavelengths that grow geometrically (Vaswani 2017): (C, *size).

    The axes take turns along the channels, so that each of them is there however few channels there are.
    """
    dims = len(size)
    count = -(-channels // (2 * dims))
    angles = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij"))
    speeds = float(WAVELENGTH) ** (-torch.arange(count, dtype=torch.float64) / count)
    angles = speeds.view(-1, 1, *(1,) * dims) * angles
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 2)[:channels].float()


def offsets(heads: int, size: Sequence[int]) -> nn.Parameter:
    """A learned bias per head and offset between two positions of a map (Liu 2021, Swin): (heads, ∏(2 · size − 1))."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, prod(2 * n - 1 for n in size)), std=0.02))


def relative(table: Tensor, size: Sequence[int]) -> Tensor:
    """The bias of every pair of N positions, entry (head, i, j) that of the offset j − i: (heads, N, N)."""
    bias = table.reshape(-1, *(2 * n - 1 for n in size))
    for axis, n in enumerate(size, 1):
        bias = bias.unfold(axis, n, 1).flip(axis)  # window w of an axis is what position n − 1 − w sees
    return bias.reshape(-1, prod(size), prod(size))
