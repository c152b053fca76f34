"""Attention inside windows of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.inserts.attention import attended, divided, offsets, relative
from autoseg.nets.layers import convolution

WINDOW = {2: 7, 3: 5}  # positions per axis


class WindowAttention(nn.Module):
    """Attention inside windows, then inside windows shifted by half their edge, each added to the map (Liu 2021, Swin);
    starts as the identity.

    `window`: their edge in positions (default 7 in 2D, 5 in 3D), at most that of the map, which is then not shifted
    along that axis. What pads the map to whole windows is never attended to. Takes as many heads as divide the
    channels, at most `heads`.
    """

    def __init__(
        self, dims: int, channels: int, size: Sequence[int], window: int | None = None, heads: int = 4
    ) -> None:
        super().__init__()
        edge = WINDOW[dims] if window is None else window
        if edge < 1:
            raise ValueError(f"window is {edge}, expected 1 or more")
        edges = tuple(min(edge, n) for n in size)
        shifts = tuple(e // 2 if e < n else 0 for e, n in zip(edges, size, strict=True))
        self.still = _Windows(dims, channels, size, edges, (0,) * dims, heads)
        self.shifted = _Windows(dims, channels, size, edges, shifts, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        x = x + self.still(x)
        out: Tensor = x + self.shifted(x)
        return out


class _Windows(nn.Module):
    """One pass of attention inside windows, with a learned bias per offset; its answer starts at zero.

    The map is padded at its end and rolled by the shift. Positions of a window see each other where their labels agree.
    """

    labels: Tensor | None

    def __init__(
        self,
        dims: int,
        channels: int,
        size: Sequence[int],
        edges: Sequence[int],
        shifts: Sequence[int],
        heads: int,
    ) -> None:
        super().__init__()
        self.heads, self.edges, self.shifts = divided(channels, heads), tuple(edges), tuple(shifts)
        self.whole = tuple(-(-n // edge) * edge for n, edge in zip(size, edges, strict=True))
        self.table = offsets(self.heads, edges)
        self.register_buffer("labels", _labels(size, self.whole, edges, shifts), persistent=False)
        self.project = convolution(dims, channels, 3 * channels, bias=False)
        self.mix = convolution(dims, channels, channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        axes = tuple(range(2, x.ndim))
        rolled = _ended(self.project(x), self.whole).roll([-s for s in self.shifts], axes)
        cells = parted(rolled, self.edges)
        seen = joined(attended(cells, self.heads, self._bias(len(cells))), self.edges, self.whole)
        out: Tensor = self.scale * self.mix(_ended(seen.roll(self.shifts, axes), x.shape[2:]))
        return out

    def _bias(self, cells: int) -> Tensor:
        """What is added to the logits: (cells, heads, N, N), the windows of a sample in turn."""
        bias = relative(self.table, self.edges)[None]
        if self.labels is not None:
            apart = self.labels[:, None, :, None] != self.labels[:, None, None]
            bias = bias.masked_fill(apart, float("-inf"))
        return bias.expand(cells // len(bias), *bias.shape).flatten(0, 1)


def parted(x: Tensor, edges: Sequence[int]) -> Tensor:
    """The windows of a map, one after the other along the batch: (B, C, *S) -> (B · windows, C, ∏edges)."""
    dims = len(edges)
    shape = [length for n, edge in zip(x.shape[2:], edges, strict=True) for length in (n // edge, edge)]
    order = [0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2)]
    return x.reshape(*x.shape[:2], *shape).permute(order).reshape(-1, x.shape[1], prod(edges))


def joined(cells: Tensor, edges: Sequence[int], size: Sequence[int]) -> Tensor:
    """The map of its windows, the inverse of `parted`: (B · windows, C, ∏edges) -> (B, C, *size)."""
    dims, counts = len(edges), [n // edge for n, edge in zip(size, edges, strict=True)]
    grid = cells.reshape(-1, *counts, cells.shape[1], *edges)
    order = [0, 1 + dims, *(axis for i in range(dims) for axis in (1 + i, 2 + dims + i))]
    return grid.permute(order).reshape(-1, cells.shape[1], *size)


def _ended(x: Tensor, size: Sequence[int]) -> Tensor:
    """The map with zeros added, or positions dropped, at the end of every axis: (B, C, *S) -> (B, C, *size)."""
    more = [target - n for target, n in zip(size, x.shape[2:], strict=True)]
    return F.pad(x, [width for missing in reversed(more) for width in (0, missing)])


def _labels(size: Sequence[int], whole: Sequence[int], edges: Sequence[int], shifts: Sequence[int]) -> Tensor | None:
    """A number per position of every window, the same for those that see each other: (windows, N).

    Along each axis 2 is the padding and 1 the near end of the map, which the roll brings beside the far one. None
    where all see all.
    """
    label = torch.zeros(tuple(whole), dtype=torch.uint8)
    for axis, (n, total, shift) in enumerate(zip(size, whole, shifts, strict=True)):
        place = torch.arange(total).roll(-shift)
        kind = 2 * (place >= n) + (place < shift)
        label = 3 * label + kind.byte().view(-1, *(1,) * (len(size) - axis - 1))
    return parted(label[None, None], edges).squeeze(1) if bool(label.any()) else None
