"""Self-attention and convolution that share their projections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from types import EllipsisType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.inserts.attention import divided
from autoseg.nets.layers import convolution

WINDOW = {2: 7, 3: 3}  # positions per axis


class ACmix(nn.Module):
    """Local self-attention and a convolution from the same queries, keys and values, summed with learned weights that
    start at a half (Pan 2022, ACmix).

    `window`: edge of the attention's neighbourhood (default 7 in 2D, 3 in 3D); what of it lies outside the map takes no
    part. `kernel`: edge of the convolution. Takes as many heads as divide the channels, at most `heads`.
    """

    differences: Tensor

    def __init__(
        self,
        dims: int,
        channels: int,
        size: Sequence[int],
        heads: int = 4,
        window: int | None = None,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.heads, self.window = divided(channels, heads), WINDOW[dims] if window is None else window
        if min(self.window, kernel) < 1 or self.window % 2 == 0 or kernel % 2 == 0:
            raise ValueError(f"window is {self.window} and kernel {kernel}, expected odd numbers above 0")
        self.window = min(self.window, 2 * max(size) - 1)  # farther than the map reaches, there is nothing
        width, taps = channels // self.heads, kernel**dims
        self.project = convolution(dims, channels, 3 * channels)
        self.place = convolution(1, dims, width, bias=False)
        self.register_buffer("differences", _differences(size, self.window), persistent=False)
        self.connect = convolution(1, 3 * self.heads, taps, bias=False)
        self.shift = convolution(dims, width * taps, channels, kernel, groups=width, bias=False)
        with torch.no_grad():
            self.connect.weight.div_(taps**0.5)  # type: ignore[operator]  # as many maps are summed
            self.shift.weight.copy_(torch.eye(taps).reshape(taps, *(kernel,) * dims))  # type: ignore[operator]
        self.alpha, self.beta = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        projected = self.project(x)
        split = projected.reshape(x.shape[0], 3, self.heads, -1, *x.shape[2:])
        out: Tensor = self.alpha * self._attended(split).reshape(x.shape) + self.beta * self._convolved(split)
        return out

    def _attended(self, split: Tensor) -> Tensor:
        """Attention of every position to its window: (B, 3, heads, C / heads, *S) -> (B, heads, C / heads, *S)."""
        query, key, value = split.unbind(1)
        size = query.shape[3:]
        query = query * query.shape[2] ** -0.5
        content = torch.stack([(query * seen).sum(2) for seen in _seen(key, size, self.window)], dim=2)
        place = torch.einsum("bhd...,dk->bhk...", query, self.place(self.differences[None])[0])
        outside = torch.stack(_seen(query.new_zeros(size), size, self.window, float("-inf")))
        weights = (content + place + outside).softmax(2).unbind(2)
        out = torch.zeros_like(value)
        for weight, seen in zip(weights, _seen(value, size, self.window), strict=True):
            out = out + weight.unsqueeze(2) * seen
        return out

    def _convolved(self, split: Tensor) -> Tensor:
        """A map per tap of the kernel, each shifted to where its tap looks, and summed; the shifts learn, too:
        (B, 3, heads, C / heads, *S) -> (B, C, *S)."""
        width, size = split.shape[3], split.shape[4:]
        taps = self.connect(split.flatten(1, 2).flatten(2))
        maps = taps.reshape(len(split), -1, width, *size).transpose(1, 2)
        out: Tensor = self.shift(maps.reshape(len(split), -1, *size))
        return out


def _seen(x: Tensor, size: Sequence[int], window: int, outside: float = 0.0) -> list[Tensor]:
    """The map (..., *size) as seen from every place of a window, row by row: views of one padded map."""
    padded = F.pad(x, [window // 2] * 2 * len(size), value=outside)
    views = []
    for corner in product(range(window), repeat=len(size)):
        at: tuple[EllipsisType | slice, ...] = (..., *(slice(o, o + n) for o, n in zip(corner, size, strict=True)))
        views.append(padded[at])
    return views


def _differences(size: Sequence[int], window: int) -> Tensor:
    """Where a position stands as seen from every place of its window, the map's axes running from −1 to 1:
    (dims, window^dims)."""
    steps = torch.tensor([2 / max(1, n - 1) for n in size])
    offsets = torch.tensor(list(product(range(-(window // 2), window // 2 + 1), repeat=len(size))))
    return (-offsets * steps).T
