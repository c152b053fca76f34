"""U-Nets whose encoder is a transformer: MONAI's parts under MONAI's names, so that its weights fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.fitting import insist
from autoseg.nets.layers import normal
from autoseg.nets.places import Inserts, Site
from autoseg.nets.survey import Unit
from autoseg.nets.vit import VisionTransformer
from autoseg.records import Network, Part, Shape

OWN: dict[str, Any] = {
    "block": Part(name="plain"),
    "decoder_block": Part(name="plain"),
    "downsample": Part(name="strided"),
    "upsample": Part(name="transposed"),
    "deep_supervision": False,
}
ONE_GROUP = Part(name="group", options={"groups": 1})  # of a single position, where instance norm knows no variance


class Hybrid(nn.Module, ABC):
    """A convolutional decoder with skips over the features of a transformer, and one head.

    Its blocks are its own. The convolutions have the plan's norm, the transformer layer norm and the plan's dropout.
    """

    stages: ClassVar[tuple[tuple[str, ...], ...]]  # the modules of every encoder stage, finest first
    lowest: ClassVar[int]  # MONAI's number of the finest decoder stage

    def __init__(self, network: Network, patch: Shape) -> None:
        super().__init__()
        widths, sizes = network.features, network.sizes(patch)
        self.inserts = Inserts(network, _sites(widths, sizes), tuple(zip(widths, sizes, strict=True)))

    def take(self, parts: Iterable[tuple[str, nn.Module]], network: Network) -> None:
        """Makes the parts its own, with the plan's norm."""
        for name, part in parts:
            renorm(part, network.norm, network.dims)
            self.add_module(name, part)

    @abstractmethod
    def encoded(self, x: Tensor) -> list[Tensor]:
        """The features of every stage, finest first."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *patch) -> one map of logits (B, classes, *patch)."""
        features = self.encoded(x)
        last = len(features) - 1
        x = self.inserts(f"bottleneck_{last}", features[-1], features)
        for i in reversed(range(last)):
            skip = self.inserts(f"skip_{i}", features[i], features)
            x = self.inserts(f"decoder_{i}", self._part(f"decoder{self.lowest + i}")(x, skip), features)
        return [self._part("out")(self.inserts("head_0", x, features))]

    def _part(self, name: str) -> nn.Module:
        return self.get_submodule(name)

    def anatomy(self) -> Iterator[Unit]:
        """Which modules make up which stage."""
        last = len(self.stages) - 1
        for i, names in enumerate(self.stages):
            place = "encoder" if i < last else "bottleneck"
            yield Unit(place, i, (*names, f"inserts.at.{place}_{i}"))
        for i in range(last):
            yield Unit("skip", i, (f"inserts.at.skip_{i}",))
            yield Unit("decoder", i, (f"decoder{self.lowest + i}", f"inserts.at.decoder_{i}"))
        yield Unit("head", 0, ("inserts.at.head_0", "out"))


class SwinUNet(Hybrid):
    """Swin UNETR (Hatamizadeh 2022): Swin stages (Liu 2021) on cells of 2 positions, convolutions on the skips.

    `depths` 1 to 4 are the Swin blocks of the stages at a half to a sixteenth of the resolution, `features` are
    (f, f, 2f, 4f, 8f, 16f) with f a multiple of 12. Takes inserts at skip, bottleneck, decoder and head.

    Args:
        window: edge of the windows, in positions; where the map is smaller, the map. None is 7 in 2D and 4 in 3D, which
            holds about as many positions; MONAI's published weights for volumes want 7.
        heads: attention heads of the first Swin stage, doubled per stage; a divisor of f.
    """

    stages = (
        ("encoder1",), ("swinViT.patch_embed", "encoder2"), ("swinViT.layers1.0", "encoder3"),
        ("swinViT.layers2.0", "encoder4"), ("swinViT.layers3.0",), ("swinViT.layers4.0", "encoder10"),
    )  # fmt: skip
    lowest = 1

    def __init__(
        self, network: Network, channels: int, classes: int, patch: Shape, window: int | None = None, heads: int = 3
    ) -> None:
        from monai.networks.nets.swin_unetr import SwinUNETR

        width, dims, depths = network.features[0], network.dims, network.depths[1:5]
        _fits(network, SwinUNet.suit(network).model_copy(update={"depths": (1, *depths, 1)}))
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}, expected a divisor of the {width} features")
        window = {2: 7, 3: 4}[dims] if window is None else window
        if window < 1:
            raise ValueError(f"window is {window}, expected 1 or more")
        super().__init__(network, patch)
        net = SwinUNETR(
            channels, classes, depths=depths, num_heads=[heads * 2**i for i in range(4)], window_size=window,
            feature_size=width, drop_rate=network.dropout, spatial_dims=dims,
        )  # fmt: skip
        for i in range(1, 5):
            layers = net.swinViT.get_submodule(f"layers{i}")
            layers[0] = SwinStage(layers[0])
        if prod(network.sizes(patch)[-1]) == 1:
            renorm(net.encoder10, ONE_GROUP, dims)
        self.take(net.named_children(), network)

    @staticmethod
    def suit(network: Network) -> Network:
        """Five halvings along every axis, two Swin blocks per stage, f the plan's first width to the nearest 12."""
        f = 12 * max(1, round(network.features[0] / 12))
        return _shaped(network, (f, f, 2 * f, 4 * f, 8 * f, 16 * f), (1, 2, 2, 2, 2, 1))

    def encoded(self, x: Tensor) -> list[Tensor]:
        """The features of every stage, finest first."""
        vit = self._part("swinViT")
        maps = [vit.get_submodule("patch_embed")(x)]
        maps[0] = vit.get_submodule("pos_drop")(maps[0])
        for i in range(1, 5):
            maps.append(vit.get_submodule(f"layers{i}.0")(maps[-1]))
        maps = [standard(one) for one in maps]
        convolved = [self._part(f"encoder{i}")(one) for i, one in enumerate([x, *maps[:3]], start=1)]
        return [*convolved, maps[3], self._part("encoder10")(maps[4])]


class SwinStage(nn.Module):
    """Swin blocks, every other one in shifted windows, then cells of 2 positions per axis become one (Liu 2021)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.window, self.shift = layer.window_size, layer.shift_size
        self.blocks, self.downsample = layer.blocks, layer.downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, 2C, *ceil(S / 2))."""
        from monai.networks.nets.swin_unetr import compute_mask, get_window_size

        window, shift = get_window_size(x.shape[2:], self.window, self.shift)
        padded = [-(-edge // w) * w for edge, w in zip(x.shape[2:], window, strict=True)]
        mask = compute_mask(padded, window, shift, x.device)
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.downsample(x).movedim(-1, 1)
        return out


class ViTUNet(Hybrid):
    """UNETR (Hatamizadeh 2022): a vision transformer (Dosovitskiy 2021) on cells of 16 positions, whose layers at a
    quarter, a half and three quarters of its depth are the skips.

    The last of `depths` counts its layers, the last of `features` is its width; the others are (f, 2f, 4f, 8f).
    Position codes are learned, so that the input must have the size of the patch. Takes inserts at skip, bottleneck,
    decoder and head.

    Args:
        heads: attention heads; a divisor of the transformer's width.
    """

    stages = (("encoder1",), ("encoder2",), ("encoder3",), ("encoder4",), ("vit",))
    lowest = 2

    def __init__(self, network: Network, channels: int, classes: int, patch: Shape, heads: int = 12) -> None:
        f, width, dims, depth = network.features[0], network.features[-1], network.dims, network.depths[-1]
        wanted = ViTUNet.suit(network)
        own = {"features": (*wanted.features[:-1], width), "depths": (*wanted.depths[:-1], depth)}
        _fits(network, wanted.model_copy(update=own))
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}, expected a divisor of the transformer's width {width}")
        super().__init__(network, patch)
        vit = VisionTransformer(dims, channels, patch, width, depth, heads, network.dropout)
        self.take([("vit", vit), *_unetr(dims, channels, classes, f, width)], network)

    @staticmethod
    def suit(network: Network) -> Network:
        """Four halvings along every axis; 12 layers of 12 times the plan's first width, as 192 of 16 and 768 of 64."""
        f = network.features[0]
        return _shaped(network, (f, 2 * f, 4 * f, 8 * f, 12 * f), (1, 1, 1, 1, 12))

    def encoded(self, x: Tensor) -> list[Tensor]:
        """The features of every stage, finest first."""
        *tapped, deepest = self._part("vit")(x)
        return [*(self._part(f"encoder{i}")(one) for i, one in enumerate([x, *tapped], start=1)), deepest]


def standard(x: Tensor) -> Tensor:
    """(B, C, *S) -> same, of mean 0 and variance 1 over the channels of each position."""
    return F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1)


def renorm(module: nn.Module, norm: Part, dims: int) -> None:
    """Puts a norm of the plan in the place of every instance norm."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d):
                parent.add_module(name, normal(norm, dims, child.num_features))


def _unetr(dims: int, channels: int, classes: int, f: int, width: int) -> Iterator[tuple[str, nn.Module]]:
    """The convolutional parts of UNETR."""
    from monai.networks.blocks.dynunet_block import UnetOutBlock
    from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

    yield "encoder1", UnetrBasicBlock(dims, channels, f, 3, 1, "instance", res_block=True)
    for i in (1, 2, 3):
        yield f"encoder{i + 1}", UnetrPrUpBlock(dims, width, f * 2**i, 3 - i, 3, 1, 2, "instance", True, True)
    for i in (3, 2, 1, 0):
        below = width if i == 3 else f * 2 ** (i + 1)
        yield f"decoder{i + 2}", UnetrUpBlock(dims, below, f * 2**i, 3, 2, "instance", res_block=True)
    yield "out", UnetOutBlock(dims, f, classes)


def _shaped(network: Network, features: Shape, depths: Shape) -> Network:
    """The network with these stages, all but the first of which halve every axis."""
    dims, behind = network.dims, len(features) - 1
    return network.model_copy(
        update={
            **OWN,
            "features": features,
            "strides": ((1,) * dims, *((2,) * dims,) * behind),
            "kernels": ((3,) * dims,) * (behind + 1),
            "depths": depths,
            "decoder_depths": (1,) * behind,
        }
    )


def _fits(network: Network, wanted: Network) -> None:
    fields = ("features", "strides", "kernels", "depths", "decoder_depths", *OWN)
    insist(network, **{field: getattr(wanted, field) for field in fields})


def _sites(widths: Shape, sizes: tuple[Shape, ...]) -> Iterator[Site]:
    last = len(widths) - 1
    for i in range(last):
        yield Site("skip", i, widths[i], sizes[i])
        yield Site("decoder", i, widths[i], sizes[i])
    yield Site("bottleneck", last, widths[last], sizes[last])
    yield Site("head", 0, widths[0], sizes[0])
