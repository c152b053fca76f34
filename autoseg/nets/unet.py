"""The U-Net, plain or with a residual encoder, with a segmentation head at every decoder stage."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from autoseg.nets.blocks.plain import Plain
from autoseg.nets.layers import convolution
from autoseg.nets.places import Inserts, Site
from autoseg.nets.stages import expecting, stage, upsampling
from autoseg.nets.survey import Unit
from autoseg.records import Network, Part, Shape


class UNet(nn.Module):
    """Encoder and decoder joined by skips (Ronneberger 2015), with the choices of nnU-Net (Isensee 2021).

    Upsampling, then the join with the skip of the same resolution, then the decoder's blocks. The input must
    be a multiple of `network.divisor` along every axis. Takes any block, and any insert at any place.
    """

    def __init__(self, network: Network, channels: int, classes: int, patch: Shape) -> None:
        super().__init__()
        self.deep_supervision = network.deep_supervision
        widths, sizes = network.features, network.sizes(patch)
        self.inserts = Inserts(network, _sites(widths, sizes), tuple(zip(widths, sizes, strict=True)))
        self.stem, source = self._stem(network, channels)
        self.encoder = nn.ModuleList()
        for i, (width, kernel, stride, depth) in enumerate(_stages(network)):
            who = f"encoder stage {i}"
            self.encoder.append(stage(network, network.block, source, width, kernel, stride, depth, who))
            source = width
        self.upsample, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        flat = (1,) * network.dims
        for i, depth in enumerate(network.decoder_depths):  # finest first, as all of a plan
            width, kernel, who = widths[i], network.kernels[i], f"decoder stage {i}"
            self.upsample.append(upsampling(network, widths[i + 1], width, network.strides[i + 1], who))
            joined = self.inserts.joined(f"join_{i}")
            self.decoder.append(stage(network, network.decoder_block, joined, width, kernel, flat, depth, who))
        for width in widths[: max(1, len(self.decoder))]:
            self.heads.append(convolution(network.dims, width, classes))

    def _stem(self, network: Network, channels: int) -> tuple[nn.Module, int]:
        """What stands before the first stage, and the channels it answers."""
        return nn.Identity(), channels

    @staticmethod
    def suit(network: Network) -> Network:
        """The network as this architecture has it by default: two convolutions per stage."""
        return network

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> logits (B, classes, *S); in training also those of the coarser stages, finest first."""
        features, deepest = self.encoded(x)
        decoded = self.decoded(features, deepest)
        wanted = len(self.heads) if self.training and self.deep_supervision else 1
        return [self.heads[i](decoded[i] if i else self.inserts("head_0", decoded[0])) for i in range(wanted)]

    def encoded(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The features of every encoder stage, finest first, and the deepest after the bottleneck's inserts."""
        x = self.stem(x)
        features: list[Tensor] = []
        for i, one in enumerate(self.encoder):
            x = self.inserts(f"encoder_{i}", one(x), features)
            features.append(x)
        return features, self.inserts(f"bottleneck_{len(features) - 1}", x, features)

    def decoded(self, features: list[Tensor], x: Tensor) -> list[Tensor]:
        """The features of every decoder stage, finest first."""
        made = [x]
        for i in reversed(range(len(self.decoder))):
            skip = self.inserts(f"skip_{i}", features[i], features)
            x = self.decoder[i](self.inserts.join(f"join_{i}", skip, self.upsample[i](x)))
            x = self.inserts(f"decoder_{i}", x, features)
            made.insert(0, x)
        return made

    def anatomy(self) -> Iterator[Unit]:
        """Which modules make up which stage."""
        last = len(self.encoder) - 1
        for i in range(len(self.encoder)):
            place = "encoder" if i < last else "bottleneck"
            yield Unit(place, i, ("stem",) * (i == 0) + (f"encoder.{i}", f"inserts.at.{place}_{i}"))
        for i in range(len(self.decoder)):
            yield Unit("skip", i, (f"inserts.at.skip_{i}",))
            modules = (f"upsample.{i}", f"inserts.at.join_{i}", f"decoder.{i}", f"inserts.at.decoder_{i}")
            yield Unit("decoder", i, modules)
        for i in range(len(self.heads)):
            yield Unit("head", i, (f"inserts.at.head_{i}", f"heads.{i}"))


class ResEnc(UNet):
    """The U-Net with a residual encoder behind a stem and a light decoder (nnU-Net ResEnc, Isensee 2024)."""

    def _stem(self, network: Network, channels: int) -> tuple[nn.Module, int]:
        width = network.features[0]
        flat = (1,) * network.dims
        stem = Plain(network.dims, channels, width, network.kernels[0], flat, network.norm, convs=1)
        return expecting(stem, "the stem", width), width

    @staticmethod
    def suit(network: Network) -> Network:
        """Residual blocks, 1, 3, 4, 6, 6, 6 … per stage, and one convolution per decoder stage."""
        count = len(network.features)
        return network.model_copy(
            update={
                "block": Part(name="residual"),
                "decoder_block": Part(name="plain", options={"convs": 1}),
                "depths": ((1, 3, 4) + (6,) * count)[:count],
                "decoder_depths": (1,) * (count - 1),
            }
        )


def _stages(network: Network) -> Iterator[tuple[int, Shape, Shape, int]]:
    yield from zip(network.features, network.kernels, network.strides, network.depths, strict=True)


def _sites(widths: tuple[int, ...], sizes: tuple[Shape, ...]) -> Iterator[Site]:
    last = len(widths) - 1
    for place in ("encoder", "skip", "join", "decoder"):
        for i in range(last):
            yield Site(place, i, widths[i], sizes[i])
    yield Site("bottleneck", last, widths[last], sizes[last])
    yield Site("head", 0, widths[0], sizes[0])
