"""HRNet: several resolutions side by side through the whole network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoseg.errors import BadPlan
from autoseg.nets.blocks.plain import Plain
from autoseg.nets.fitting import insist, totals
from autoseg.nets.layers import active, convolution, normal, resized
from autoseg.nets.places import Inserts, Site
from autoseg.nets.stages import expecting, stage
from autoseg.nets.survey import Unit
from autoseg.records import Network, Part, Shape

STEM = 2  # by how much the finest branch is smaller than the input
BRANCHES = 4  # at most
OWN = {"downsample": Part(name="strided"), "upsample": Part(name="linear"), "deep_supervision": False}


class HRNet(nn.Module):
    """Branches of up to four resolutions that exchange features again and again (HRNetV2, Wang 2020), 2D and 3D.

    A stem of `depths` convolutions per stage of the plan leads down to `stem_stride`; from there on, every stage is the
    resolution of a branch. Step s has s branches: `depths` blocks in each, then the exchange of all. All branches,
    brought to the finest and concatenated, go through a 1-wide convolution to the one head, whose logits are
    interpolated to the input's size.

    Args:
        stem_stride: 1, 2 or 4, along the axis that is halved first.
        modules: how often blocks and exchange are repeated in every step but the first.
    Raises: BadPlan where the plan's strides do not reach `stem_stride` and one resolution below it.
    """

    def __init__(
        self,
        network: Network,
        channels: int,
        classes: int,
        patch: Shape,
        stem_stride: int = STEM,
        modules: int = 1,
    ) -> None:
        super().__init__()
        if modules < 1:
            raise ValueError(f"modules is {modules}, expected 1 or more")
        insist(network, **OWN)
        self.first = _finest(network, stem_stride)
        widths, sizes = network.features, network.sizes(patch)
        levels = range(self.first, len(widths))
        sites = _sites(network, sizes, self.first)
        self.inserts = Inserts(network, sites, [(widths[i], sizes[i]) for i in levels])
        self.down = nn.ModuleList()
        for i, (width, kernel, stride) in enumerate(zip(widths, network.kernels, network.strides, strict=True)):
            source = widths[i - 1] if i else channels
            convs = network.depths[i] if i < self.first else 1
            way = Plain(network.dims, source, width, kernel, stride, network.norm, convs)
            self.down.append(expecting(way, f"the way to resolution {i}", width, divide=stride))
        self.steps = nn.ModuleList()
        for last in levels:
            repeats = modules if last > self.first else 1
            self.steps.append(nn.Sequential(*(Parallel(network, self.first, last) for _ in range(repeats))))
        total, flat = sum(widths[self.first :]), (1,) * network.dims
        self.mix = Plain(network.dims, total, total, flat, flat, network.norm, convs=1)
        self.head = convolution(network.dims, total, classes)

    @staticmethod
    def suit(network: Network) -> Network:
        """Two residual blocks per branch and step in at most four resolutions, the finest of the plan's first width.

        Raises: BadPlan where there are less than two.
        """
        first = _finest(network, network.architecture.options.get("stem_stride", STEM))
        count, widths = min(len(network.features), first + BRANCHES), network.features
        return network.model_copy(
            update={
                **OWN,
                "block": Part(name="residual"),
                "features": widths[:1] * first + widths[: count - first],
                "strides": network.strides[:count],
                "kernels": network.kernels[:count],
                "depths": (1,) * first + (2,) * (count - first),
                "decoder_depths": (1,) * (count - 1),
            }
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> one map of logits (B, classes, *S)."""
        size = x.shape[2:]
        for i in range(self.first):
            x = self.down[i](x)
        branches: list[Tensor] = []
        for s, step in enumerate(self.steps):
            branches = [*branches, self.down[self.first + s](branches[-1] if branches else x)]
            mixed = step(branches)
            branches = [self.inserts(_key(self.first + b, s), one, mixed) for b, one in enumerate(mixed)]
        finest = branches[0].shape[2:]
        x = self.mix(torch.cat([resized(one, finest) for one in branches], dim=1))
        return [resized(self.head(self.inserts("head_0", x, branches)), size)]

    def anatomy(self) -> Iterator[Unit]:
        """Which modules make up which stage: one unit per branch and step; rows are the stages of the plan."""
        for i in range(self.first):
            yield Unit("encoder", i, (f"down.{i}",))
        for s, step in enumerate(self.steps):
            for b in range(s + 1):
                way = (f"down.{self.first + b}",) if b == s else ()
                modules = [f"steps.{s}.{m}" for m, _ in enumerate(step.children())]
                inner = [f"{module}.{part}.{b}" for module in modules for part in ("branches", "mixes")]
                yield Unit("encoder", self.first + b, (*way, *inner, f"inserts.at.{_key(self.first + b, s)}"))
        yield Unit("head", self.first, ("mix", "inserts.at.head_0", "head"))


class Parallel(nn.Module):
    """Blocks in every branch, then the exchange, if there are two or more."""

    def __init__(self, network: Network, first: int, last: int) -> None:
        super().__init__()
        self.branches, self.mixes = nn.ModuleList(), nn.ModuleList()
        flat = (1,) * network.dims
        for i in range(first, last + 1):
            width, who = network.features[i], f"resolution {i} in step {last - first}"
            made = stage(network, network.block, width, width, network.kernels[i], flat, network.depths[i], who)
            self.branches.append(made)
            if last > first:
                self.mixes.append(Mix(network, range(first, last + 1), i))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """One (B, C, *S) per branch, finest first -> same."""
        done = [one(x) for one, x in zip(self.branches, branches, strict=True)]
        return [mix(done) for mix in self.mixes] or done


class Mix(nn.Module):
    """What one branch makes of all: leaky ReLU of their sum, each brought to its channels and size (Wang 2020).

    From a finer one: a strided convolution and norm per stage of the plan between them, leaky ReLU but after the last.
    From a coarser one: a 1-wide convolution, norm and linear interpolation. The branch itself is added as it is.
    """

    def __init__(self, network: Network, sources: range, target: int) -> None:
        super().__init__()
        self.own = target - sources.start
        self.ways = nn.ModuleList(_way(network, source, target) for source in sources)
        self.act = active()

    def forward(self, branches: list[Tensor]) -> Tensor:
        """One (B, C, *S) per branch -> that of this branch, in its shape."""
        size = branches[self.own].shape[2:]
        brought = [resized(way(x), size) for way, x in zip(self.ways, branches, strict=True)]
        out: Tensor = self.act(sum(brought[1:], start=brought[0]))
        return out


def _way(network: Network, source: int, target: int) -> nn.Sequential:
    dims, inner, width = network.dims, network.features[source], network.features[target]
    if source > target:
        return nn.Sequential(convolution(dims, inner, width, bias=False), normal(network.norm, dims, width))
    layers: list[nn.Module] = []
    for i in range(source + 1, target + 1):
        channels = width if i == target else inner
        down = convolution(dims, inner, channels, network.kernels[i], network.strides[i], bias=False)
        layers += [down, normal(network.norm, dims, channels), *([active()] if i < target else [])]
    return nn.Sequential(*layers)


def _finest(network: Network, stem_stride: object) -> int:
    """The stage of the plan that is the finest branch."""
    if stem_stride not in (1, 2, 4):
        raise BadPlan(f"stem_stride is {stem_stride!r}", where="network.architecture", expected="1, 2 or 4")
    reached = [i for i, total in enumerate(totals(network.strides)[:-1]) if max(total) == stem_stride]
    if not reached:
        raise BadPlan(
            f"hrnet has branches of stride {stem_stride} and more, and strides {network.strides} leave less than two",
            where="network.architecture", remedy="take a smaller stem_stride, or another architecture",
        )  # fmt: skip
    return reached[0]


def _key(stage: int, step: int) -> str:
    return f"encoder_{stage}_{step}"


def _sites(network: Network, sizes: tuple[Shape, ...], first: int) -> Iterator[Site]:
    widths = network.features
    for i in range(first, len(widths)):
        for step in range(i - first, len(widths) - first):
            yield Site("encoder", i, widths[i], sizes[i], _key(i, step))
    yield Site("head", 0, sum(widths[first:]), sizes[first])
