"""The U-Net with a segmentation head at every decoder stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoseg.nets.blocks import CONVOLUTION, TRANSPOSED, initialise
from autoseg.parts import BLOCKS
from autoseg.records import Network


class UNet(nn.Module):
    """Encoder and decoder joined by skips (Ronneberger 2015), with the choices of nnU-Net (Isensee 2021).

    Downsampling by the stride of a stage's first convolution, upsampling by a transposed convolution whose
    kernel is that stride, then concatenation with the skip of the same resolution. The input must be a
    multiple of `network.divisor` along every axis.
    """

    def __init__(self, network: Network, channels: int, classes: int) -> None:
        super().__init__()
        dims = len(network.strides[0])
        self.deep_supervision = network.deep_supervision
        widths = (channels, *network.features)
        stages = list(zip(network.kernels, network.strides, strict=True))

        def block(source: int, width: int, kernel: tuple[int, ...], stride: tuple[int, ...], convs: int) -> nn.Module:
            made: nn.Module = BLOCKS.build(
                network.block, dims=dims, channels_in=source, channels_out=width,
                kernel=kernel, stride=stride, convs=convs, norm=network.norm,
            )  # fmt: skip
            return made

        self.encoder = nn.ModuleList(
            block(widths[i], widths[i + 1], kernel, stride, network.convs[0])
            for i, (kernel, stride) in enumerate(stages)
        )
        self.upsample, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i in reversed(range(len(stages) - 1)):  # coarsest first
            width, stride, kernel = network.features[i], network.strides[i + 1], network.kernels[i]
            self.upsample.append(TRANSPOSED[dims](network.features[i + 1], width, stride, stride))  # type: ignore[arg-type]
            self.decoder.append(block(2 * width, width, kernel, (1,) * dims, network.convs[1]))
            self.heads.append(CONVOLUTION[dims](width, classes, 1))
        if not self.decoder:
            self.heads.append(CONVOLUTION[dims](network.features[0], classes, 1))
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> logits (B, classes, *S); in training also those of the coarser stages, finest first."""
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        features = []
        for up, stage in zip(self.upsample, self.decoder, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], dim=1))
            features.append(x)
        features = features or [x]
        wanted = len(features) if self.training and self.deep_supervision else 1
        return [self.heads[i](features[i]) for i in reversed(range(len(features) - wanted, len(features)))]
