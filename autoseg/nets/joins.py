"""How a skip and the decoder's feature become one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.inserts.gates import excitation, means, outline
from autoseg.nets.layers import before_sigmoid, convolution


class Concat(nn.Module):
    """Both, one after the other along the channels: decoder feature, then skip (Ronneberger 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels_out = 2 * channels

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        """Two (B, C, *S) -> (B, 2C, *S)."""
        return torch.cat([up, skip], dim=1)


class AttentionGate(nn.Module):
    """The decoder feature, then the skip times an additive gate per position that both of them set (Oktay 2018)."""

    def __init__(self, dims: int, channels: int, reduction: int = 2) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction is {reduction}, expected 1 or more")
        self.channels_out = 2 * channels
        hidden = max(1, channels // reduction)
        self.of_skip = convolution(dims, channels, hidden, bias=False)
        self.of_up = convolution(dims, channels, hidden)
        self.score = before_sigmoid(convolution(dims, hidden, 1))

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        """Two (B, C, *S) -> (B, 2C, *S)."""
        gate = self.score(F.relu(self.of_skip(skip) + self.of_up(up))).sigmoid()
        return torch.cat([up, skip * gate], dim=1)


class CGAFusion(nn.Module):
    """Content-guided fusion (Chen 2023, DEA-Net): a weight per channel and position between skip and decoder feature.

    Convolutions pad with zeros, where the authors' code reflects, which small maps cannot.
    """

    def __init__(self, dims: int, channels: int, reduction: int = 8, kernel: int = 7) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}, expected an odd number")
        self.channels_out = channels
        self.position = convolution(dims, 2, 1, kernel)
        self.channel = excitation(dims, channels, reduction)
        self.refine = before_sigmoid(convolution(dims, 2 * channels, channels, kernel, groups=channels))
        self.mix = convolution(dims, channels, channels)

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        """Two (B, C, *S) -> (B, C, *S)."""
        both = skip + up
        coarse = self.position(outline(both)) + self.channel(means(both))
        pairs = torch.stack([both, coarse], dim=2).flatten(1, 2)  # each channel beside its coarse weight
        weight = self.refine(pairs).sigmoid()
        out: Tensor = self.mix(both + weight * skip + (1 - weight) * up)
        return out
