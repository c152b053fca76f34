"""GG-Net: a residual U-Net with global guidance, whose heads sharpen the boundary."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn import functional as F

from autoseg.nets.unet import ResEnc
from autoseg.records import Insert, Network, Part, Shape


class Edged(list[Tensor]):
    """Refined maps (B, classes, *S), finest first, with the `edges` that each was refined by, of the same shapes.

    The loss compares the edges with those of the label as well.
    """

    def __init__(self, maps: Iterable[Tensor], edges: Iterable[Tensor]) -> None:
        super().__init__(maps)
        self.edges = list(edges)


class GGNet(ResEnc):
    """Residual U-Net with a boundary head at every decoder stage (GG-Net, Xue 2021).

    The logits F of a head, a 1-wide convolution, are refined by their own edge E = |F - maxpool3(F)| to F + E, which is
    F dilated by one step: a head learns a map one step smaller than the label. All heads weigh the same in training.
    """

    def __init__(self, network: Network, channels: int, classes: int, patch: Shape) -> None:
        super().__init__(network, channels, classes, patch)
        self.head_weights = (1.0,) * (len(self.heads) if network.deep_supervision else 1)

    @staticmethod
    def suit(network: Network) -> Network:
        """The residual encoder of ResEnc, and global guidance at the bottleneck."""
        guidance = Insert(part=Part(name="global_guidance"), place="bottleneck")
        others = tuple(insert for insert in network.inserts if insert != guidance)
        return ResEnc.suit(network).model_copy(update={"inserts": (guidance, *others)})

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> refined maps (B, classes, *S); in training all, finest first, with their edges."""
        maps = super().forward(x)
        edges = [edge(one) for one in maps]
        refined = [one + its for one, its in zip(maps, edges, strict=True)]
        return Edged(refined, edges) if self.training else refined


def edge(x: Tensor) -> Tensor:
    """|x - maxpool3(x)|, (B, K, *S) -> same: how far the largest value within one step, also diagonally, is above."""
    largest = F.max_pool2d(x, 3, 1, 1) if x.ndim == 4 else F.max_pool3d(x, 3, 1, 1)
    return (x - largest).abs()
