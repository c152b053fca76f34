"""Polarized self-attention: a softmax along what is summed over, a gate along what is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoseg.nets.inserts.gates import means
from autoseg.nets.layers import Layer, convolution


class Polarized(nn.Module):
    """Polarized self-attention, parallel (Liu 2021): the sum of the map gated per channel, and per position."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.channel = ChannelGate(dims, channels)
        self.position = PositionGate(dims, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        out: Tensor = x * self.channel(x) + x * self.position(x)
        return out


class PolarizedSeq(Polarized):
    """Polarized self-attention, sequential (Liu 2021): the map gated per channel, the answer per position."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        x = x * self.channel(x)
        out: Tensor = x * self.position(x)
        return out


class ChannelGate(nn.Module):
    """σ(LN(W_z (W_v x · softmax over the positions of W_q x))), with C / 2 values and one query (Liu 2021)."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.query = convolution(dims, channels, 1, bias=False)  # the softmax would not see a bias
        self.value = convolution(dims, channels, half, bias=False)
        self.widen = convolution(dims, half, channels, bias=False)
        self.norm = Layer(dims, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, 1, ...)."""
        share = self.query(x).flatten(1).softmax(dim=1)
        pooled = torch.einsum("bcn,bn->bc", self.value(x).flatten(2), share)
        gate: Tensor = self.norm(self.widen(pooled.reshape(*pooled.shape, *[1] * (x.ndim - 2)))).sigmoid()
        return gate.to(x.dtype)


class PositionGate(nn.Module):
    """σ(softmax over the channels of the mean of W_q x, times W_v x), with C / 2 queries and values (Liu 2021)."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.query = convolution(dims, channels, half, bias=False)
        self.value = convolution(dims, channels, half, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, 1, *S)."""
        share = self.query(means(x)).flatten(1).softmax(dim=1)  # a mean of 1-wide convolutions is one of the mean
        return torch.einsum("bc...,bc->b...", self.value(x), share)[:, None].sigmoid()
