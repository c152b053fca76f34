"""Blocks without a way around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from autoseg.nets.layers import active, convolution, normal
from autoseg.records import Part


class Plain(nn.Module):
    """`convs` times convolution, norm, leaky ReLU; the first convolution carries the stride (nnU-Net, Isensee 2021)."""

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
        self.layers = chain(
            dims, channels_out, norm,
            (convolution(dims, source, channels_out, kernel, step)
             for source, step in steps(channels_in, channels_out, stride, convs)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        out: Tensor = self.layers(x)
        return out


class Separable(nn.Module):
    """`convs` times depthwise and 1-wide convolution, norm, leaky ReLU (Xception, Chollet 2017).

    Where the channels more than double, as they do behind an image, each gets several depthwise filters: one
    filter per channel of an image would let next to nothing through.
    """

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
        pairs = []
        for source, step in steps(channels_in, channels_out, stride, convs):
            filters = source * max(1, channels_out // (2 * source))
            depthwise = convolution(dims, source, filters, kernel, step, groups=source, bias=False)
            pairs.append(nn.Sequential(depthwise, convolution(dims, filters, channels_out)))
        self.layers = chain(dims, channels_out, norm, pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        out: Tensor = self.layers(x)
        return out


class Dilated(nn.Module):
    """Convolution, norm, leaky ReLU per dilation rate; rates 1, 2, 3 leave no holes (HDC, Wang 2018)."""

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
        rates: Sequence[int] = (1, 2, 3),
    ) -> None:
        super().__init__()
        if min(rates, default=0) < 1:
            raise ValueError(f"rates are {list(rates)}, expected numbers of 1 or more")
        sources = steps(channels_in, channels_out, stride, len(rates))
        self.layers = chain(
            dims, channels_out, norm,
            (convolution(dims, source, channels_out, kernel, step, dilation=rate)
             for (source, step), rate in zip(sources, rates, strict=True)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        out: Tensor = self.layers(x)
        return out


def steps(channels_in: int, channels_out: int, stride: Sequence[int], convs: int) -> list[tuple[int, tuple[int, ...]]]:
    """What each of `convs` convolutions in a row takes: (channels, stride). The first one carries the stride."""
    if convs < 1:
        raise ValueError(f"convs is {convs}, expected 1 or more")
    return [(channels_in, tuple(stride)), *[(channels_out, (1,) * len(stride))] * (convs - 1)]


def chain(dims: int, channels: int, norm: Part, convolutions: Iterable[nn.Module]) -> nn.Sequential:
    """The convolutions in a row, a norm and a leaky ReLU behind each."""
    return nn.Sequential(*(layer for one in convolutions for layer in (one, normal(norm, dims, channels), active())))
