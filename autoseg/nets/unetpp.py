"""UNet++: U-Nets of every depth inside one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from autoseg.nets.layers import convolution
from autoseg.nets.places import Inserts, Site
from autoseg.nets.stages import stage, upsampling
from autoseg.nets.survey import Unit
from autoseg.records import Network, Shape

Mode = Literal["accurate", "fast"]


class UNetPP(nn.Module):
    """U-Nets of every depth that share an encoder and nested dense skips (UNet++, Zhou 2018 and 2020).

    Node X(i, j) stands at stage i in column j; column 0 is the encoder, L its last stage. For j > 0 it joins X(i, j-1)
    with X(i+1, j-1) brought up, and takes X(i, 0 … j-2) besides. Every X(0, j), j > 0, has a head at full resolution,
    and all heads weigh the same in training; without deep supervision there is the head of X(0, L) alone.

    Takes any block and any insert; one at a skip stands on X(i, 0) as the nodes of its own stage take it.

    Args:
        mode: what prediction answers: `accurate` the mean of all heads' logits, `fast` those of one head.
        depth: j of the head X(0, j) of mode fast; None is the deepest. Nodes with i + j above it are left out.
    Raises: ValueError for another mode and for a depth that has no head.
    """

    def __init__(
        self, network: Network, channels: int, classes: int, patch: Shape, mode: Mode = "accurate",
        depth: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        last = len(network.features) - 1
        shallowest = min(1, last) if network.deep_supervision else last
        self.trained = tuple(range(last, shallowest - 1, -1))
        self.answering = _answering(self.trained, mode, depth)
        self.head_weights = (1.0,) * len(self.trained)
        widths, sizes = network.features, network.sizes(patch)
        sites = _sites(widths, sizes, self.trained)
        self.inserts = Inserts(network, sites, tuple(zip(widths, sizes, strict=True)))
        # whether something behind the encoder looks at all of its features
        self.guided = any(name.startswith(("skip_", "decoder_", "head_")) for name in self.inserts.guided)
        self.encoder = nn.ModuleList()
        for i, (kernel, stride, count) in enumerate(zip(network.kernels, network.strides, network.depths, strict=True)):
            source, who = widths[i - 1] if i else channels, f"encoder stage {i}"
            self.encoder.append(stage(network, network.block, source, widths[i], kernel, stride, count, who))
        self.upsample, self.decoder, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for i, j in _nodes(last):
            self._place(network, i, j)
        for j in self.trained:
            self.heads[str(j)] = convolution(network.dims, widths[0], classes)

    def _place(self, network: Network, i: int, j: int) -> None:
        """The modules of X(i, j)."""
        key, who, width = f"{i}_{j}", f"node X({i},{j})", network.features[i]
        self.upsample[key] = upsampling(network, network.features[i + 1], width, network.strides[i + 1], who)
        source, flat = self.inserts.joined(f"join_{key}") + (j - 1) * width, (1,) * network.dims
        self.decoder[key] = stage(
            network, network.decoder_block, source, width, network.kernels[i], flat, network.decoder_depths[i], who
        )

    @staticmethod
    def suit(network: Network) -> Network:
        """The network as this architecture has it by default: two convolutions per node."""
        return network

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> logits (B, classes, *S); in training those of every head, the deepest first."""
        asked = self.trained if self.training else self.answering
        features = self.encoded(x, asked[0])
        finest = self.nested(features, asked[0])
        logits = [self.heads[str(j)](self.inserts(f"head_{j}", finest[j], features)) for j in asked]
        return logits if self.training else [torch.stack(logits).mean(0)]

    def encoded(self, x: Tensor, depth: int) -> list[Tensor]:
        """The features X(i, 0) that the head of X(0, depth) looks at, finest first."""
        features: list[Tensor] = []
        for i, one in enumerate(self.encoder):
            if i < self._stages(depth):
                x = self.inserts(f"encoder_{i}", one(x), features)
                features.append(x)
        return features

    def nested(self, features: list[Tensor], depth: int) -> list[Tensor]:
        """X(0, 0) … X(0, depth)."""
        newest = features[: depth + 1]
        newest[depth] = self.inserts(f"bottleneck_{depth}", newest[depth], features)
        rows = [[self.inserts(f"skip_{i}", newest[i], features)] for i in range(depth)]
        finest = [newest[0]]
        for i, j in _nodes(depth):  # column after column, so that newest[i + 1] is X(i + 1, j - 1)
            key = f"{i}_{j}"
            joined = self.inserts.join(f"join_{key}", rows[i][-1], self.upsample[key](newest[i + 1]))
            node = self.decoder[key](torch.cat([joined, *rows[i][:-1]], dim=1))
            newest[i] = self.inserts(f"decoder_{key}", node, features)
            rows[i].append(newest[i])
            if i == 0:
                finest.append(newest[0])
        return finest

    def _stages(self, depth: int) -> int:
        """How many stages of the encoder the head of X(0, depth) needs."""
        return len(self.encoder) if self.guided else depth + 1

    def prune(self) -> None:
        """Takes out every module that prediction does not need; what it answers stays the same."""
        depth = self.answering[0]
        nodes, heads = {f"{i}_{j}" for i, j in _nodes(depth)}, {str(j) for j in self.answering}
        sites = {f"bottleneck_{depth}", *(f"skip_{i}" for i in range(depth)), *(f"head_{j}" for j in heads)}
        sites |= {f"encoder_{i}" for i in range(self._stages(depth))}
        sites |= {f"{place}_{node}" for place in ("join", "decoder") for node in nodes}
        kept = ((self.upsample, nodes), (self.decoder, nodes), (self.heads, heads), (self.inserts.at, sites))
        for modules, names in kept:
            for name in set(modules) - names:
                del modules[name]
        self.encoder = self.encoder[: self._stages(depth)]
        self.trained, self.head_weights = self.answering, (1.0,) * len(self.answering)

    def anatomy(self) -> Iterator[Unit]:
        """Which modules make up which stage: one unit per node."""
        last = len(self.encoder) - 1
        for i in range(len(self.encoder)):
            place = "encoder" if i < last else "bottleneck"
            yield Unit(place, i, (f"encoder.{i}", f"inserts.at.encoder_{i}", f"inserts.at.bottleneck_{i}"))
        for i in range(last):
            yield Unit("skip", i, (f"inserts.at.skip_{i}",))
        for key in self.decoder:
            modules = (f"upsample.{key}", f"inserts.at.join_{key}", f"decoder.{key}", f"inserts.at.decoder_{key}")
            yield Unit("decoder", int(key.partition("_")[0]), modules)
        for key in reversed(list(self.heads)):
            yield Unit("head", 0, (f"inserts.at.head_{key}", f"heads.{key}"))


def _answering(trained: tuple[int, ...], mode: str, depth: int | None) -> tuple[int, ...]:
    """The heads that prediction looks at, the deepest first."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    if mode == "accurate":
        if depth is not None:
            raise ValueError(f"depth {depth} is of mode fast, in mode accurate all heads answer")
        return trained
    if depth not in (None, *trained):
        raise ValueError(f"depth is {depth}, but there are heads for {', '.join(map(str, reversed(trained)))}")
    return (trained[0] if depth is None else depth,)


def _nodes(depth: int) -> Iterator[tuple[int, int]]:
    """(i, j) of the nodes that X(0, depth) needs, itself included, without the encoder: column after column."""
    for j in range(1, depth + 1):
        for i in range(depth - j + 1):
            yield i, j


def _sites(widths: tuple[int, ...], sizes: tuple[Shape, ...], heads: tuple[int, ...]) -> Iterator[Site]:
    last = len(widths) - 1
    for i in range(last):
        yield Site("encoder", i, widths[i], sizes[i])
        yield Site("skip", i, widths[i], sizes[i])
    for i, j in _nodes(last):
        yield Site("join", i, widths[i], sizes[i], f"join_{i}_{j}")
        yield Site("decoder", i, widths[i], sizes[i], f"decoder_{i}_{j}")
    yield Site("bottleneck", last, widths[last], sizes[last])
    for j in heads:
        yield Site("head", 0, widths[0], sizes[0], f"head_{j}")
