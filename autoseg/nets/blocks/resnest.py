"""The bottleneck with split attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.nets.blocks.residual import Narrow, squeezed
from autoseg.nets.layers import MeanPool, active, convolution, dividing, group, normal
from autoseg.records import Part

REDUCTION = 4  # of the attention's hidden channels, at least HIDDEN of them
HIDDEN = 32


class ResNeSt(Narrow):
    """A bottleneck whose middle weighs `radix` grouped convolutions against each other (Zhang 2020).

    The stride is a 3-wide mean behind them. `cardinality`: groups of one split, fewer where the width wants it.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: Part,
        radix: int = 2,
        cardinality: int = 1,
        squeeze: int = 4,
        zero_init: bool = True,
    ) -> None:
        if radix < 2 or cardinality < 1:
            raise ValueError(f"radix is {radix} and cardinality {cardinality}, expected at least 2 and 1")
        inner = -(-squeezed(channels_out, squeeze) // radix) * radix  # every split takes its share of them
        groups = dividing(inner // radix, cardinality)
        middle = nn.Sequential(SplitAttention(dims, inner, kernel, norm, radix, groups))
        if max(stride) > 1:
            edges = [s | 1 for s in stride]  # the next odd width, 1 where there is no stride
            middle.append(MeanPool(edges, stride, [edge // 2 for edge in edges]))
        super().__init__(dims, channels_in, inner, channels_out, middle, stride, norm, zero_init)


class SplitAttention(nn.Module):
    """Grouped convolutions to `radix` splits, summed with weights per channel that sum to 1 over the splits.

    The weights come from the mean over all positions, so there the norm is group norm: one position has no variance.
    """

    def __init__(
        self, dims: int, channels: int, kernel: Sequence[int], norm: Part, radix: int, cardinality: int
    ) -> None:
        super().__init__()
        self.radix, self.cardinality = radix, cardinality
        splits = channels * radix
        self.splits = nn.Sequential(
            convolution(dims, channels, splits, kernel, groups=cardinality * radix),
            normal(norm, dims, splits),
            active(),
        )
        hidden = -(-max(splits // REDUCTION, HIDDEN) // cardinality) * cardinality
        self.weigh = nn.Sequential(
            convolution(dims, channels, hidden, groups=cardinality),
            group(dims, hidden),
            active(),
            convolution(dims, hidden, splits, groups=cardinality),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        splits = self.splits(x).unflatten(1, (self.radix, -1))
        means = splits.sum(1).mean(tuple(range(2, x.ndim)), keepdim=True)
        scores = self.weigh(means).unflatten(1, (self.cardinality, self.radix, -1))
        weights = scores.softmax(2).transpose(1, 2).flatten(2, 3)
        out: Tensor = (splits * weights).sum(1)
        return out
