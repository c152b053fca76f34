"""Convolutions that learn where to look."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.blocks.plain import chain, steps
from autoseg.nets.layers import convolution
from autoseg.records import Part


class Deformable(nn.Module):
    """`convs` times modulated deformable convolution, norm, leaky ReLU, 2D only (Dai 2017, Zhu 2019)."""

    axes: ClassVar[tuple[int, ...]] = (2,)

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
        convs: int = 2,
    ) -> None:
        super().__init__()
        if dims not in self.axes:
            raise ValueError(f"deformable convolution is there in 2D only, and the network has {dims} axes")
        self.layers = chain(
            dims, channels_out, norm,
            (DeformableConvolution(source, channels_out, kernel, step)
             for source, step in steps(channels_in, channels_out, stride, convs)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, y, x) -> (B, out, ceil(y / stride), ceil(x / stride))."""
        out: Tensor = self.layers(x)
        return out


class DeformableConvolution(nn.Module):
    """Every tap of the kernel reads at a learned offset, in pixels, and is multiplied by a learned factor.

    The factor is twice the sigmoid of what is learned, 0..2: so that with all offsets and factors learned
    starting at 0, the start is the plain convolution `conv`, and not half of it.
    """

    def __init__(self, source: int, width: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.kernel, self.stride = tuple(kernel), tuple(stride)
        self.conv = convolution(2, source, width, kernel, stride)
        self.learned = convolution(2, source, 3 * prod(kernel), kernel, stride)  # per tap: y, x, factor
        nn.init.zeros_(self.learned.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, y, x) -> (B, out, ceil(y / stride), ceil(x / stride))."""
        learned = self.learned(x).to(torch.promote_types(x.dtype, torch.float32))  # bf16 is too coarse for positions
        down, right, factor = learned.unflatten(1, (-1, 3)).unbind(2)
        rows, columns = self._taps(learned)
        read = bilinear(x, rows + down, columns + right) * (2 * factor.sigmoid()[:, None])
        weight, bias = self.conv.weight, self.conv.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        return F.conv2d(read.to(x.dtype).flatten(1, 2), weight.flatten(1)[:, :, None, None], bias)

    def _taps(self, learned: Tensor) -> tuple[Tensor, Tensor]:
        """Where the plain convolution reads: rows and columns, each (T, H, W) for the T taps."""
        along = []
        rates = self.conv.dilation
        assert isinstance(rates, tuple)
        for edge, stride, rate, size in zip(self.kernel, self.stride, rates, learned.shape[2:], strict=True):
            tap, start = (torch.arange(n, device=learned.device, dtype=learned.dtype) for n in (edge, size))
            along.append((tap[:, None] - edge // 2) * rate + start * stride)
        shape = (*self.kernel, *learned.shape[2:])
        rows, columns = along[0][:, None, :, None].expand(shape), along[1][None, :, None, :].expand(shape)
        return rows.flatten(0, 1), columns.flatten(0, 1)


def bilinear(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, height, width) read at rows and columns (B, T, H, W) in pixels, 0 outside -> (B, C, T, H, W)."""
    height, width = image.shape[2:]
    grid = torch.stack(((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1), -1)
    read = F.grid_sample(image.to(grid.dtype), grid.flatten(1, 2), align_corners=False)
    return read.reshape(*image.shape[:2], *rows.shape[1:])
