"""Tiles of an image, what networks answer to one, mirrored and averaged, and how much it counts where it overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor, nn

from autoseg.augment.spatial import Mirror
from autoseg.errors import BadPlan
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Configuration, Question
from autoseg.steps import cases

Orders = Mapping[int, Sequence[int]]  # mirrored axis -> which output takes the place of each
TINY = 1e-30  # probabilities are kept above it where their logarithm is taken


@dataclass(frozen=True)
class Flips:
    """Along which patch axes every combination of flips is averaged, and what changes places then.

    `outputs` are the network's answers that take each other's places, `inputs` its channels: see `output_orders`.
    """

    axes: tuple[int, ...] = ()
    outputs: Orders = field(default_factory=dict)
    inputs: Orders = field(default_factory=dict)

    @property
    def combinations(self) -> list[tuple[int, ...]]:
        """The axes that are flipped in each pass."""
        return [chosen for n in range(len(self.axes) + 1) for chosen in itertools.combinations(self.axes, n)]

    def turn(self, batch: Tensor, flip: tuple[int, ...]) -> Tensor:
        """The batch as the network is given it."""
        turned = batch.flip([axis + 2 for axis in flip]) if flip else batch
        for axis in self.inputs.keys() & set(flip):
            turned = turned[:, self.inputs[axis]]
        return turned

    def back(self, logits: Tensor, flip: tuple[int, ...]) -> Tensor:
        """What it answers, as if nothing had been flipped."""
        turned = logits.flip([axis + 2 for axis in flip]) if flip else logits
        for axis in self.outputs.keys() & set(flip):
            turned = turned[:, self.outputs[axis]]
        return turned


def mirror_axes(configuration: Configuration) -> tuple[int, ...]:
    """The axes the networks were trained to see mirrored: those of the plan's mirror augmentation."""
    mirror = _mirror(configuration)
    return () if mirror is None else mirror.axes


def output_orders(configuration: Configuration, question: Question) -> Orders:
    """How the outputs change places when an axis is mirrored: those of the classes, or regions, that are exchanged.

    Raises: BadPlan when the mirror augmentation exchanges classes that the task does not have, or half of a region.
    """
    mirror = _mirror(configuration)
    if mirror is None or mirror.swap_axis is None:
        return {}
    index = cases.index_of(question)
    groups = [frozenset([number]) for number in range(len(question.classes))]
    known = frozenset().union(*groups)
    if question.regions:
        groups = [frozenset(index[value] for value in values) for values in question.regions.values()]
    other = {one: two for pair in mirror.swap for one, two in (pair, pair[::-1])}
    turned = [frozenset(other.get(number, number) for number in group) for group in groups]
    if not (known.issuperset(other) and set(turned) == set(groups)):
        raise BadPlan(
            f"mirror exchanges {[list(pair) for pair in mirror.swap]}", where="train.augment",
            expected=f"indices below {len(question.classes)} that turn each of {', '.join(question.outputs)} into one",
        )  # fmt: skip
    return {mirror.swap_axis: [n if to == groups[n] else groups.index(to) for n, to in enumerate(turned)]}


def _mirror(configuration: Configuration) -> Mirror | None:
    part = next((part for part in configuration.train.augment if part.name == "mirror"), None)
    return None if part is None else AUGMENTATIONS.build(part, dims=configuration.dims)


def mean_logits(networks: Sequence[nn.Module], batch: Tensor, flips: Flips, at_once: int = 1) -> Tensor:
    """(B, K, *patch) float32, averaged over the networks and over every combination of flips.

    Args:
        at_once: samples that go through a network together, where it is more than the batch holds.
    """
    passes = flips.combinations
    total: Tensor | None = None
    for network in networks:
        for logits in _answers(network, batch, flips, at_once):
            total = logits if total is None else total + logits
    assert total is not None
    return total / (len(passes) * len(networks))


def logits_and_disagreement(
    networks: Sequence[nn.Module], batch: Tensor, flips: Flips, at_once: int = 1, *, regions: bool
) -> Tensor:
    """(B, K + 1, *patch): `mean_logits`, then how much the networks disagree, in nats.

    That is the entropy of their mean probabilities less their mean entropy (the mutual information of answer and
    network; Lakshminarayanan et al., NeurIPS 2017); of one network alone the flips take the networks' place.
    """
    if len(networks) > 1:
        answers: Iterable[Tensor] = (mean_logits([network], batch, flips, at_once) for network in networks)
    else:
        answers = _answers(networks[0], batch, flips, at_once)
    sums, count = list[Tensor](), 0
    for logits in answers:
        chances = torch.sigmoid(logits) if regions else torch.softmax(logits, 1)
        found = [logits, chances, entropy(chances, regions=regions)]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        count += 1
    logits, chances, inner = (total / count for total in sums)
    apart = entropy(chances, regions=regions) - inner
    return torch.cat([logits, apart.clamp(min=0)[:, None]], 1)


def entropy(probabilities: Tensor, *, regions: bool) -> Tensor:
    """(B, *S) in nats, of probabilities (B, K, *S); that of regions is the sum of those of yes and no of each."""
    found = -(probabilities * probabilities.clamp(min=TINY).log()).sum(1)
    if regions:
        no = 1 - probabilities
        found -= (no * no.clamp(min=TINY).log()).sum(1)
    return found


def _answers(network: nn.Module, batch: Tensor, flips: Flips, at_once: int) -> Iterator[Tensor]:
    """The logits (float32, turned back) of every pass; as many passes together as `at_once` samples allow."""
    passes = flips.combinations
    size = max(1, at_once // len(batch))
    for first in range(0, len(passes), size):
        some = passes[first : first + size]
        given = torch.cat([flips.turn(batch, flip) for flip in some]) if len(some) > 1 else flips.turn(batch, some[0])
        for flip, logits in zip(some, network(given)[0].float().split(len(batch)), strict=True):
            yield flips.back(logits, flip)


def gaussian(patch: Sequence[int]) -> Tensor:
    """Weights (*patch) of a tile: a Gaussian of sigma patch / 8 per axis, 1 at the centre and above 0 everywhere.

    Near the image's edges, where only tiles that end there answer, their far corners count as little as they do inside.
    """
    bell = torch.ones(())
    for size in patch:
        offsets = (torch.arange(size) - (size - 1) / 2) / (size / 8)
        bell = bell[..., None] * torch.exp(-0.5 * offsets**2)
    return bell / bell.max()


def starts(size: int, edge: int, step: float) -> list[int]:
    """Where tiles of `edge` begin that cover `size` (at least `edge`), evenly spread, at most `step` · edge apart."""
    count = ceil((size - edge) / max(1.0, edge * step)) + 1
    return [round(i * (size - edge) / max(1, count - 1)) for i in range(count)]


def tiles(shape: Sequence[int], patch: Sequence[int], step: float) -> list[tuple[int, int, int]]:
    """The corners of all tiles of a volume that is at least `patch`: see `starts`."""
    along = (starts(size, edge, step) for size, edge in zip(shape, patch, strict=True))
    return [(z, y, x) for z, y, x in itertools.product(*along)]
