"""Gates between 0 and 1 per channel, per position, or both."""

from __future__ import annotations

from collections.abc import Callable
from math import log2

import torch
from torch import Tensor, nn

from autoseg.nets.layers import before_sigmoid, convolution

JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "max": torch.maximum}


class SE(nn.Module):
    """Squeeze and excitation (Hu 2018): one gate per channel, from the means of all channels."""

    def __init__(self, dims: int, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.excite = excitation(dims, channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        gate: Tensor = self.excite(means(x)).sigmoid()
        return x * gate


class ECA(nn.Module):
    """Efficient channel attention (Wang 2020): one gate per channel, from the means of its neighbours.

    The convolution over the channels is as wide as the odd number nearest to |log2(C) / gamma + b / gamma|.
    """

    def __init__(self, channels: int, gamma: float = 2.0, b: float = 1.0) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma is {gamma}, expected above 0")
        kernel = 2 * int(abs(log2(channels) + b) / gamma / 2) + 1
        self.excite = before_sigmoid(convolution(1, 1, 1, kernel, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        pooled = means(x)
        gate: Tensor = self.excite(pooled.flatten(1)[:, None]).sigmoid()
        return x * gate.reshape(pooled.shape)


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy 2018): the map gated per channel, and per position.

    `join` is what becomes of the two: their "sum" (Roy 2018, MICCAI) or their "max" (Roy 2019, TMI).
    """

    def __init__(self, dims: int, channels: int, reduction: int = 2, join: str = "sum") -> None:
        super().__init__()
        if join not in JOINED:
            raise ValueError(f"join is {join!r}, expected one of {', '.join(JOINED)}")
        self.join = JOINED[join]
        self.channel = SE(dims, channels, reduction)
        self.position = before_sigmoid(convolution(dims, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        return self.join(self.channel(x), x * self.position(x).sigmoid())


class CBAM(nn.Module):
    """Convolutional block attention (Woo 2018): a gate per channel, from means and maxima, then one per position."""

    def __init__(self, dims: int, channels: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}, expected an odd number")
        self.excite = excitation(dims, channels, reduction)
        self.look = before_sigmoid(convolution(dims, 2, 1, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        peaks = x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)
        x = x * (self.excite(means(x)) + self.excite(peaks)).sigmoid()
        gate: Tensor = self.look(outline(x)).sigmoid()
        return x * gate


def excitation(dims: int, channels: int, reduction: int) -> nn.Sequential:
    """C -> C / reduction, at least 4 -> C, with a ReLU between and no biases (Hu 2018)."""
    if reduction < 1:
        raise ValueError(f"reduction is {reduction}, expected 1 or more")
    hidden = max(4, channels // reduction)
    return nn.Sequential(
        convolution(dims, channels, hidden, bias=False),
        nn.ReLU(inplace=True),
        before_sigmoid(convolution(dims, hidden, channels, bias=False)),
    )


def means(x: Tensor) -> Tensor:
    """The mean of every channel: (B, C, *S) -> (B, C, 1, ...)."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def outline(x: Tensor) -> Tensor:
    """Mean and maximum over the channels of every position: (B, C, *S) -> (B, 2, *S)."""
    return torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
