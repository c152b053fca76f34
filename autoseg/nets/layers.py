"""What every network is made of: convolutions, norms, ways down and ways up."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.parts import NORMS
from autoseg.records import Part

SLOPE = 0.01  # of the leaky ReLU
WIDEST = 3  # edge of the kernels that a CPU multiplies soundly in bfloat16
Edges = int | Sequence[int]

CONVOLUTION: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def convolution(
    dims: int,
    source: int,
    width: int,
    kernel: Edges = 1,
    stride: Edges = 1,
    *,
    dilation: Edges = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A convolution that answers ceil(S / stride) positions, started after He (2015) for leaky ReLU, bias 0."""
    edges, wide = _per_axis(kernel, dims), _per_axis(dilation, dims)
    padding = tuple(d * (k // 2) for k, d in zip(edges, wide, strict=True))
    kind = Wide if dims == 3 and max(edges) > WIDEST else CONVOLUTION[dims]
    layer = kind(source, width, edges, _per_axis(stride, dims), padding, dilation=wide, groups=groups, bias=bias)
    return started(layer)


class Wide(nn.Conv3d):
    """A volume's convolution with a wide kernel, which a CPU computes in float32 and rounds to what autocast says.

    For the gradient of 7³ weights in bfloat16, torch 2.13's oneDNN reads memory that nobody wrote.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, z, y, x) -> (B, width, z, y, x)."""
        if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            wide = super().forward(x.to(self.weight.dtype))
        return wide.to(torch.get_autocast_dtype("cpu"))


class Pointwise(nn.Conv3d):
    """A volume's convolution with a kernel of one voxel, which a CPU in bfloat16 computes as that of a picture.

    For the gradient of such weights over slices of some 12,000 voxels or more, torch 2.13's oneDNN writes beside its
    memory where the CPU has AMX: it crashes, or never ends.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, z, y, x) -> (B, width, z, y, x), each but B and width divided by the stride, rounded up."""
        if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
            return super().forward(x)
        z, y, right = self.stride
        x = x[:, :, ::z, ::y, ::right]
        batch, _, *shape = x.shape
        flat = F.conv2d(x.reshape(batch, self.in_channels, -1, shape[-1]), self.weight[:, :, 0], self.bias)
        return flat.reshape(batch, self.out_channels, *shape)


def sound(network: nn.Module) -> nn.Module:
    """The network, in which convolutions that a CPU may crash at do it another way; the weights are as they were."""
    for one in network.modules():
        plain = type(one) is nn.Conv3d and one.groups == 1 and one.padding in ((0, 0, 0), "valid")
        if plain and one.kernel_size == (1, 1, 1):
            one.__class__ = Pointwise
    return network


def started(layer: nn.Module) -> nn.Module:
    """A convolution with fresh weights: He normal for leaky ReLU (He 2015), bias 0."""
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def before_sigmoid(layer: nn.Module) -> nn.Module:
    """A convolution whose answer goes through a sigmoid, started after Glorot (2010).

    From He's wider start a gate is shut or open for good after a few steps: 7³ weights move together under Adam.
    """
    nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]
    return layer


def _per_axis(edges: Edges, dims: int) -> tuple[int, ...]:
    return (edges,) * dims if isinstance(edges, int) else tuple(edges)


def dividing(channels: int, most: int) -> int:
    """The largest number up to `most` that divides the channels. Raises: ValueError for less than one."""
    if most < 1:
        raise ValueError(f"{most} groups, expected 1 or more")
    return next(n for n in range(min(most, channels), 0, -1) if channels % n == 0)


def normal(norm: Part, dims: int, channels: int) -> nn.Module:
    """The norm that a plan names."""
    made: nn.Module = NORMS.build(norm, dims=dims, channels=channels)
    return made


def active() -> nn.Module:
    """Leaky ReLU of slope 0.01, in place."""
    return nn.LeakyReLU(SLOPE, inplace=True)


# -- norms ---------------------------------------------------------------------------------------------


class Grouped(nn.GroupNorm):
    """Group norm of contiguous maps: with channels last, torch's loses digits where means are far above the spread."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        return super().forward(x.contiguous())


class Instance(Grouped):
    """Instance norm with scale and shift (Ulyanov 2016): per sample and channel.

    It is computed as group norm with one group per channel: the same numbers, and faster on CPUs. On a GPU autocast
    would compute that in float32 and keep maps of twice the bytes.
    """

    def __init__(self, dims: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        if x.is_cuda:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(x)


def batch(dims: int, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """Batch norm (Ioffe 2015): per channel over the batch; wants at least 8 samples per device."""
    kind = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    return kind(channels, eps=eps, momentum=momentum)


def group(dims: int, channels: int, groups: int = 8, eps: float = 1e-5) -> nn.Module:
    """Group norm (Wu 2018); as many groups as divide the channels, at most `groups`."""
    return Grouped(dividing(channels, groups), channels, eps)


class Layer(nn.Module):
    """Layer norm (Ba 2016) over the channels of each position, as ConvNeXt (Liu 2022) has it."""

    def __init__(self, dims: int, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        out: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return out


# -- ways down: (dims, channels, stride) ---------------------------------------------------------------


def strided() -> None:
    """The stage's first block carries the stride."""


def max_pool(dims: int, stride: Sequence[int]) -> nn.Module:
    """The largest value of each cell of `stride` positions."""
    return MAX_POOL[dims](tuple(stride), tuple(stride), ceil_mode=True)


def mean_pool(dims: int, stride: Sequence[int]) -> nn.Module:
    """The mean of each cell of `stride` positions."""
    return MeanPool(stride, stride, (0,) * dims)


class MeanPool(nn.Module):
    """Means over `edges` positions, counting only those inside the map; without margins, a cut last cell answers too.

    In 3D over two axes and then over the third: the pool of all three takes no map that is smaller than its
    edges, and its gradient on a GPU differs from run to run.
    """

    def __init__(self, edges: Sequence[int], stride: Sequence[int], margins: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(zip(edges, stride, margins, strict=True))
        self.rest = max(margins) == 0  # a last cell that is cut answers as well

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *ceil(S / stride))."""
        if x.ndim == 4:
            return self._pool(x, *self.axes)
        flat = self._pool(x.flatten(1, 2), *self.axes[1:])
        size = flat.shape[2:]
        flat = self._pool(flat.reshape(*x.shape[:3], -1), self.axes[0], (1, 1, 0))
        return flat.reshape(*flat.shape[:3], *size)

    def _pool(self, x: Tensor, *axes: tuple[int, int, int]) -> Tensor:
        edges, stride, margins = zip(*axes, strict=True)
        return F.avg_pool2d(x, edges, stride, margins, ceil_mode=self.rest, count_include_pad=False)


# -- ways up: (dims, channels_in, channels_out, stride) ------------------------------------------------


def transposed(dims: int, channels_in: int, channels_out: int, stride: Sequence[int]) -> nn.Module:
    """A transposed convolution whose kernel is the stride: every position becomes a cell."""
    return started(TRANSPOSED[dims](channels_in, channels_out, tuple(stride), tuple(stride)))


class Linear(nn.Module):
    """A 1-wide convolution, then (bi-, tri-)linear interpolation: the two commute, and this order is cheaper."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(float(s) for s in stride)
        self.mix = convolution(dims, channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *(S · stride))."""
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        return F.interpolate(self.mix(x), scale_factor=list(self.stride), mode=mode, align_corners=False)


class Dense(nn.Module):
    """Dense upsampling convolution (Wang 2018): a convolution to out · ∏stride channels, then a pixel shuffle."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, stride: Sequence[int], kernel: int = 3) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.spread = convolution(dims, channels_in, channels_out * prod(stride), kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *(S · stride))."""
        return shuffle(self.spread(x), self.stride)


def shuffle(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Pixel shuffle (Shi 2016) in any number of axes: (B, C · ∏stride, *S) -> (B, C, *(S · stride))."""
    dims, size = len(stride), x.shape[2:]
    cells = x.reshape(x.shape[0], -1, *stride, *size)
    order = [0, 1, *(axis for i in range(dims) for axis in (2 + dims + i, 2 + i))]
    return cells.permute(order).reshape(x.shape[0], -1, *(n * s for n, s in zip(size, stride, strict=True)))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *S) brought to `size` by (bi-, tri-)linear interpolation."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)
