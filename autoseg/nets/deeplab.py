"""DeepLabv3+: a dilated encoder, context at several scales, and one skip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from autoseg.errors import BadPlan
from autoseg.nets.blocks.plain import Plain
from autoseg.nets.fitting import insist, totals
from autoseg.nets.inserts.context import ASPP
from autoseg.nets.layers import convolution, resized
from autoseg.nets.places import Inserts, Site
from autoseg.nets.stages import expecting, stage
from autoseg.nets.survey import Unit
from autoseg.records import Network, Part, Shape

STRIDE = 16  # of the deepest map
RATES = (6, 12, 18)  # of ASPP at that stride
LOW = 4  # stride of the low-level feature
WIDEST = 256  # channels of the decoder, at most
OWN = {"upsample": Part(name="linear"), "deep_supervision": False}


class DeepLabV3Plus(nn.Module):
    """Dilated residual encoder, ASPP, and a decoder with one skip of stride 4, in 2D (DeepLabv3+, Chen 2018).

    Stage 0 is the stem, `depths[0]` convolutions at full resolution. An axis that has reached `output_stride` keeps its
    resolution, and the convolutions of every further stage look twice as far along it. ASPP and decoder have 4 times
    the stem's channels, at most 256; the skip is projected to 3/16 of that, as 48 of 256. The decoder is the plan's of
    the skip's stage. There is one head, whose logits are interpolated.

    Args:
        output_stride: 8 or 16: by how much the deepest map may be smaller than the input.
        rates: dilations of ASPP; None is 6, 12, 18 at output stride 16, and twice that at 8.
    Raises: BadPlan for volumes, for a single stage and for strides beyond `output_stride`.
    """

    def __init__(
        self,
        network: Network,
        channels: int,
        classes: int,
        patch: Shape,
        output_stride: int = STRIDE,
        rates: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        stride = _require(network, output_stride)
        insist(network, **OWN, strides=tuple(_kept(network.strides, stride)))
        widths, sizes = network.features, network.sizes(patch)
        self.low = max(i for i, total in enumerate(totals(network.strides)[:-1]) if max(total) <= LOW)
        width = min(WIDEST, 4 * widths[0])
        thin = max(1, 3 * width // 16)
        self.inserts = Inserts(network, _sites(widths, sizes, self.low, width), tuple(zip(widths, sizes, strict=True)))
        self.encoder = nn.ModuleList(_encoder(network, channels, stride))
        scaled = [rate * STRIDE // stride for rate in RATES] if rates is None else rates
        context = ASPP(2, widths[-1], sizes[-1], network.norm, scaled, channels_out=width)
        self.context = expecting(context, "the context module", width)
        self.project = Plain(2, widths[self.low], thin, (1, 1), (1, 1), network.norm, convs=1)
        kernel, depth = network.kernels[self.low], network.decoder_depths[self.low]
        self.decoder = stage(network, network.decoder_block, width + thin, width, kernel, (1, 1), depth, "the decoder")
        self.head = convolution(2, width, classes)

    @staticmethod
    def suit(network: Network) -> Network:
        """Two residual blocks per stage behind the stem, and no strides beyond the output stride.

        Raises: BadPlan for volumes and for a single stage.
        """
        largest = _require(network, network.architecture.options.get("output_stride", STRIDE))
        behind = len(network.features) - 1
        return network.model_copy(
            update={
                **OWN,
                "block": Part(name="residual"),
                "decoder_block": Part(name="plain"),
                "strides": tuple(_kept(network.strides, largest)),
                "depths": (1,) + (2,) * behind,
                "decoder_depths": (1,) * behind,
            }
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> one map of logits (B, classes, *S)."""
        size = x.shape[2:]
        features: list[Tensor] = []
        for i, one in enumerate(self.encoder):
            x = self.inserts(f"encoder_{i}", one(x), features)
            features.append(x)
        x = self.inserts(f"bottleneck_{len(features) - 1}", self.context(x), features)
        skip = self.project(self.inserts("skip_0", features[self.low], features))
        x = self.decoder(torch.cat([resized(x, skip.shape[2:]), skip], dim=1))
        x = self.inserts("decoder_0", x, features)
        return [resized(self.head(self.inserts("head_0", x, features)), size)]

    def anatomy(self) -> Iterator[Unit]:
        """Which modules make up which stage."""
        last = len(self.encoder) - 1
        for i in range(len(self.encoder)):
            yield Unit("encoder", i, (f"encoder.{i}", f"inserts.at.encoder_{i}"))
        yield Unit("bottleneck", last, ("context", f"inserts.at.bottleneck_{last}"))
        yield Unit("skip", self.low, ("inserts.at.skip_0", "project"))
        yield Unit("decoder", self.low, ("decoder", "inserts.at.decoder_0"))
        yield Unit("head", self.low, ("inserts.at.head_0", "head"))


def _require(network: Network, output_stride: object) -> int:
    """The output stride. Raises: BadPlan where the network or the stride are not to be had."""
    where = "network.architecture"
    if network.dims != 2:
        raise BadPlan(
            "deeplabv3p is there in 2D only, and the network has 3 axes", where=where,
            remedy="take it for flat images and slices, and hrnet for volumes",
        )  # fmt: skip
    if output_stride not in (8, 16):
        raise BadPlan(f"output_stride is {output_stride!r}", where=where, expected="8 or 16")
    if len(network.strides) < 2:
        raise BadPlan("deeplabv3p takes its skip from above the deepest stage, and there is one stage", where=where)
    return 8 if output_stride == 8 else 16


def _kept(strides: Sequence[Shape], largest: int) -> list[Shape]:
    """The strides, 1 wherever an axis would go beyond the largest total."""
    kept: list[Shape] = []
    for stride in strides:
        total = totals([*kept, (1,) * len(stride)])[-1]
        kept.append(tuple(s if t * s <= largest else 1 for t, s in zip(total, stride, strict=True)))
    return kept


def _rates(strides: Sequence[Shape], largest: int) -> list[Shape]:
    """The dilation of every stage: doubled along an axis with every stage that finds it at the largest total."""
    rates = [(1,) * len(strides[0])]
    for total, stride in zip(totals(strides), strides[1:], strict=False):
        held = zip(rates[-1], total, stride, strict=True)
        rates.append(tuple(rate * 2 if t == largest and s == 1 else rate for rate, t, s in held))
    return rates


def _encoder(network: Network, channels: int, output_stride: int) -> Iterator[nn.Module]:
    widths, kernels, strides, norm = network.features, network.kernels, network.strides, network.norm
    stem = Plain(2, channels, widths[0], kernels[0], strides[0], norm, convs=network.depths[0])
    yield expecting(stem, "the stem", widths[0])
    for i, rate in enumerate(_rates(strides, output_stride)[1:], start=1):
        who, depth = f"encoder stage {i}", network.depths[i]
        made = stage(network, network.block, widths[i - 1], widths[i], kernels[i], strides[i], depth, who)
        if max(rate) > 1:
            _dilate(made, rate, f"block {network.block.name} of {who}")
        yield made


def _dilate(stage: nn.Module, rate: Shape, who: str) -> None:
    """Makes the convolutions of a stage look `rate` times as far, with as many weights (atrous, Chen 2017).

    Raises: BadPlan where there are none that are wider than one position.
    """
    wide = [one for one in stage.modules() if isinstance(one, nn.Conv2d) and max(one.kernel_size) > 1]
    if not wide:
        raise BadPlan("has no convolution to dilate", where=who, remedy="take a block of 3-wide convolutions")
    for one in wide:
        assert isinstance(one.padding, tuple)
        one.dilation = (one.dilation[0] * rate[0], one.dilation[1] * rate[1])
        one.padding = (one.padding[0] * rate[0], one.padding[1] * rate[1])


def _sites(widths: Shape, sizes: Sequence[Shape], low: int, width: int) -> Iterator[Site]:
    for i, (channels, size) in enumerate(zip(widths, sizes, strict=True)):
        yield Site("encoder", i, channels, size)
    yield Site("skip", 0, widths[low], sizes[low])
    yield Site("bottleneck", len(widths) - 1, width, sizes[-1])
    yield Site("decoder", 0, width, sizes[low])
    yield Site("head", 0, width, sizes[low])
