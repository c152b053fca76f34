"""Blocks with a way around them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.nets.layers import active, convolution, dividing, mean_pool, normal
from autoseg.records import Part


class Residual(nn.Module):
    """Two convolutions with a shortcut, leaky ReLU behind the sum (He 2015; nnU-Net ResEnc, Isensee 2024).

    `zero_init`: the last norm's weight starts at 0, so that the block starts as its shortcut.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(dims, channels_in, channels_out, kernel, stride)
        self.norm1 = normal(norm, dims, channels_out)
        self.conv2 = convolution(dims, channels_out, channels_out, kernel)
        self.norm2 = _last(norm, dims, channels_out, zero_init)
        self.skip = shortcut(dims, channels_in, channels_out, stride, norm)
        self.act = active()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        inner = self.act(self.norm1(self.conv1(x)))
        out: Tensor = self.act(self.norm2(self.conv2(inner)) + self.skip(x))
        return out


class PreAct(nn.Module):
    """Twice norm, leaky ReLU, convolution, and nothing behind the sum (identity mappings, He 2016).

    Where the shape changes, the shortcut starts from the input as it is: behind an image, a norm and a ReLU
    would take intensities away.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
    ) -> None:
        super().__init__()
        self.norm1 = normal(norm, dims, channels_in)
        self.conv1 = convolution(dims, channels_in, channels_out, kernel, stride)
        self.norm2 = normal(norm, dims, channels_out)
        self.conv2 = convolution(dims, channels_out, channels_out, kernel)
        self.skip = shortcut(dims, channels_in, channels_out, stride)
        self.act = active()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        inner = self.conv1(self.act(self.norm1(x)))
        out: Tensor = self.conv2(self.act(self.norm2(inner))) + self.skip(x)
        return out


class Narrow(nn.Module):
    """A 1-wide convolution to `inner` channels, a middle, a 1-wide convolution back; the shortcut around them."""

    def __init__(
        self,
        dims: int,
        channels_in: int,
        inner: int,
        channels_out: int,
        middle: nn.Module,
        stride: Sequence[int],
        norm: Part,
        zero_init: bool,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(dims, channels_in, inner)
        self.norm1 = normal(norm, dims, inner)
        self.middle = middle
        self.conv3 = convolution(dims, inner, channels_out)
        self.norm3 = _last(norm, dims, channels_out, zero_init)
        self.skip = shortcut(dims, channels_in, channels_out, stride, norm)
        self.act = active()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        inner = self.middle(self.act(self.norm1(self.conv1(x))))
        out: Tensor = self.act(self.norm3(self.conv3(inner)) + self.skip(x))
        return out


class Bottleneck(Narrow):
    """Convolutions 1-wide, plan-wide, 1-wide with a shortcut, on out / `squeeze` channels (He 2015).

    The middle one carries the stride; `zero_init` as in `residual`.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
        squeeze: int = 4,
        zero_init: bool = True,
    ) -> None:
        inner = squeezed(channels_out, squeeze)
        middle = _grouped(dims, inner, kernel, stride, norm, groups=1)
        super().__init__(dims, channels_in, inner, channels_out, middle, stride, norm, zero_init)


class ResNeXt(Narrow):
    """A bottleneck whose middle convolution has `cardinality` groups, fewer where the width wants it (Xie 2017)."""

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
        cardinality: int = 32,
        squeeze: int = 2,
        zero_init: bool = True,
    ) -> None:
        if cardinality < 1:
            raise ValueError(f"cardinality is {cardinality}, expected 1 or more")
        inner = squeezed(channels_out, squeeze)
        middle = _grouped(dims, inner, kernel, stride, norm, groups=dividing(inner, cardinality))
        super().__init__(dims, channels_in, inner, channels_out, middle, stride, norm, zero_init)


def shortcut(
    dims: int, channels_in: int, channels_out: int, stride: Sequence[int], norm: Part | None = None
) -> nn.Sequential:
    """The way around a block: the mean of each cell of the stride, then a 1-wide convolution and a norm where the
    channels change (ResNet-D, He 2019); nothing where the shape stays."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if max(stride) > 1:
        layers["pool"] = mean_pool(dims, stride)
    if channels_in != channels_out:
        layers["conv"] = convolution(dims, channels_in, channels_out, bias=False)
        if norm is not None:
            layers["norm"] = normal(norm, dims, channels_out)
    return nn.Sequential(layers)


def squeezed(channels: int, squeeze: int) -> int:
    """The channels inside a bottleneck, at least 1."""
    if squeeze < 1:
        raise ValueError(f"squeeze is {squeeze}, expected 1 or more")
    return max(1, channels // squeeze)


def _grouped(
    dims: int, inner: int, kernel: Sequence[int], stride: Sequence[int], norm: Part, groups: int
) -> nn.Sequential:
    conv = convolution(dims, inner, inner, kernel, stride, groups=groups)
    return nn.Sequential(conv, normal(norm, dims, inner), active())


def _last(norm: Part, dims: int, channels: int, zero_init: bool) -> nn.Module:
    """The norm before the sum, whose answer starts at 0 if asked (Goyal 2017)."""
    made = normal(norm, dims, channels)
    for parameter in made.parameters() if zero_init else ():
        nn.init.zeros_(parameter)
    return made
