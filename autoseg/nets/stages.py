"""The stages of encoders and decoders, and what a part has promised about its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from autoseg.nets.layers import DROPOUT
from autoseg.parts import BLOCKS, DOWNSAMPLERS, UPSAMPLERS
from autoseg.records import Network, Part

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Expected:
    """What a part must answer: `channels`, and its input's size divided or multiplied by a stride."""

    who: str
    channels: int
    divide: tuple[int, ...] = ()
    multiply: tuple[int, ...] = ()

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the answer to an input of that shape."""
        size = shape[2:]
        if self.divide:
            size = [-(-edge // s) for edge, s in zip(size, self.divide, strict=True)]
        if self.multiply:
            size = [edge * s for edge, s in zip(size, self.multiply, strict=True)]
        return (shape[0], self.channels, *size)


def expecting(module: M, who: str, channels: int, divide: Sequence[int] = (), multiply: Sequence[int] = ()) -> M:
    """The module with what it promised written on it; `survey` holds it to that."""
    module.expected = Expected(who, channels, tuple(divide), tuple(multiply))  # type: ignore[assignment]
    return module


def stage(
    network: Network,
    block: Part,
    source: int,
    width: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    depth: int,
    who: str,
) -> nn.Sequential:
    """`depth` blocks from `source` to `width` channels, the stride first, dropout last."""
    layers: list[nn.Module] = []
    if max(stride) > 1:
        down = DOWNSAMPLERS.build(network.downsample, dims=network.dims, channels=source, stride=tuple(stride))
        if down is not None:
            layers.append(expecting(down, f"downsampling {network.downsample.name} of {who}", source, divide=stride))
            stride = (1,) * network.dims
    for index in range(depth):
        made = BLOCKS.build(
            block, dims=network.dims, channels_in=width if index else source, channels_out=width,
            kernel=tuple(kernel), stride=(1,) * network.dims if index else tuple(stride), norm=network.norm,
        )  # fmt: skip
        layers.append(expecting(made, f"block {block.name} of {who}", width, divide=() if index else stride))
    if network.dropout:
        layers.append(DROPOUT[network.dims](network.dropout))
    return nn.Sequential(*layers)


def upsampling(network: Network, source: int, width: int, stride: Sequence[int], who: str) -> nn.Module:
    """The way up to a stage of `width` channels."""
    made: nn.Module = UPSAMPLERS.build(
        network.upsample, dims=network.dims, channels_in=source, channels_out=width, stride=tuple(stride)
    )
    return expecting(made, f"upsampling {network.upsample.name} to {who}", width, multiply=stride)
