"""The network of a variant: what the user asked for on the topology that the planning rules found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Literal

from autoseg import parts, spelling
from autoseg.errors import BadPlan
from autoseg.records import CaseFacts, Configuration, Insert, Memory, Network, Part, Question, Shape, Target
from autoseg.steps import preprocess, topology
from autoseg.steps.topology import Limits, Topology, Weigh

if TYPE_CHECKING:
    from autoseg.steps.memory import Estimate

PLAIN = Part(name="unet")
SAFE = 0.85  # of the memory: what the estimate is held to, as it misses by up to a sixth
SAFE_MEASURED = 0.95  # of a GPU's, where the step is tried before it is trusted
NEARLY = 1.1
LEAST_BATCH = 8  # of batch norm


class Unsuited(BadPlan):
    """The architecture cannot be had in this configuration."""


@dataclass(frozen=True)
class Variant:
    """What the user asks of the network and the loss; None is left to the planner."""

    architecture: Part = PLAIN
    block: Part | None = None
    inserts: tuple[Insert, ...] = ()
    loss: str | None = None


@dataclass(frozen=True)
class Room:
    """What a network is designed into: the images, what goes in and out, and what the machine allows.

    Attributes:
        shape, spacing, voxels: of the median image, and the voxels of all images.
        channels, outputs: of the network.
        weigh: feature-map elements of a sample, as `limits` count them.
        binding: whether the estimated memory of a step must fit the target.
    """

    shape: Sequence[float]
    spacing: Sequence[float]
    voxels: float
    channels: int
    outputs: int
    limits: Limits
    weigh: Weigh
    target: Target
    optimiser: Part
    binding: bool = True


@dataclass(frozen=True)
class Designed:
    """A topology that fits the room with this network, and the memory of its training step."""

    found: Topology
    network: Network
    memory: Memory


def network_of(found: Topology, variant: Variant) -> Network:
    """The network of a variant on a topology. Raises: BadPlan where the architecture cannot be had so."""
    plain = Network.plain(found.features, found.strides, found.kernels, architecture=variant.architecture)
    _require_axes(found, variant)
    suit = getattr(parts.NETWORKS.get(variant.architecture.name), "suit", None)
    try:
        network: Network = plain if suit is None else suit(plain)
    except BadPlan as problem:
        raise Unsuited(problem.what, where=problem.where, expected=problem.expected, remedy=problem.remedy) from None
    if variant.block is not None:
        network = network.model_copy(update={"block": variant.block, "decoder_block": variant.block})
    return network.model_copy(update={"inserts": (*network.inserts, *variant.inserts)})


def _require_axes(found: Topology, variant: Variant) -> None:
    """Raises: Unsuited for a part that is there for images of other axes alone."""
    dims = len(found.patch)
    asked = [(parts.NETWORKS, variant.architecture), *([(parts.BLOCKS, variant.block)] if variant.block else [])]
    for table, part in asked:
        if dims not in getattr(table.get(part.name), "axes", (2, 3)):
            raise Unsuited(f"{table.kind} {part.name} is not there for images of {dims} axes")


def design(variant: Variant, room: Room) -> Designed:
    """The patch and batch of the plain U-Net, so that variants compare; smaller where the memory does not hold them.

    Raises: BadPlan where the smallest patch does not fit; it says what it would need.
    """
    found, least = topology.fit(room.shape, room.spacing, room.weigh, room.limits, room.voxels), room.limits.least_batch
    while True:
        network = network_of(found, variant)
        found = replace(found, patch=_rounded(found.patch, network))
        cost = partial(_estimate, network, room.channels, room.outputs, found.patch, room.target, room.optimiser)
        batch = _fitting(cost, room, found.batch)
        if batch >= least:
            return Designed(replace(found, batch=batch), network, _told(cost(batch)))
        needed = cost(least).total
        smaller = _smaller(found, room, needed)
        if smaller is None:
            gigabytes = needed / safe(room.target) / 1e9
            raise BadPlan(
                f"the smallest network, {_size(found.patch)} by {least}, needs {gigabytes:.2f} GB",
                where="--memory", expected=f"at most the {room.target.memory / 1e9:.2f} GB of the target",
                remedy="give more memory, or a smaller network",
            )  # fmt: skip
        found = replace(smaller, batch=least)


def _smaller(found: Topology, room: Room, needed: int) -> Topology | None:
    """The next smaller patch that may fit, where this one needs so many bytes: they go with the elements, nearly."""
    most = NEARLY * room.weigh(found) * safe(room.target) * room.target.memory / needed
    smaller = topology.reduced(found, room.shape, room.spacing, room.limits)
    while smaller is not None and room.weigh(smaller) > most:
        found = smaller
        smaller = topology.reduced(found, room.shape, room.spacing, room.limits)
    return smaller


def safe(target: Target) -> float:
    """The share of the target's memory that an estimate is held to."""
    return SAFE if target.device == "cpu" else SAFE_MEASURED


def _fitting(cost: Callable[[int], Estimate], room: Room, batch: int) -> int:
    """The largest batch up to this one whose step fits the target; below the least where none does."""
    from autoseg.steps import memory

    allowed = safe(room.target) * room.target.memory
    if not room.binding or cost(batch).total <= allowed:
        return batch
    return memory.largest(lambda tried: cost(tried).total <= allowed, room.limits.least_batch - 1, batch - 1)


def memory_of(one: Configuration, question: Question, target: Target) -> Memory:
    """The estimate for a configuration as it is."""
    channels = preprocess.inputs(one.normalise, question, one.previous)
    outputs = len(question.outputs)
    wish = one.train.precision
    return _told(_estimate(one.network, channels, outputs, one.patch, target, one.train.optimiser, one.batch, wish))


def _estimate(
    network: Network, channels: int, outputs: int, patch: Shape, target: Target, optimiser: Part, batch: int,
    wish: Literal["auto", "bf16", "float32"] = "auto",
) -> Estimate:  # fmt: skip
    from autoseg.steps import memory

    kind = memory.precision_on(target.device) if wish == "auto" else wish
    return memory.estimate(
        network, channels, outputs, patch, batch, device=target.device, precision=kind, optimiser=optimiser
    )


def _told(cost: Estimate) -> Memory:
    return Memory(bytes=cost.total, method="estimated: " + cost.told)


def _size(patch: Shape) -> str:
    return "×".join(map(str, patch))


def _rounded(patch: Sequence[int], network: Network) -> tuple[int, ...]:
    return tuple(ceil(edge / d) * d for edge, d in zip(patch, network.divisor, strict=True))


def class_weights(loss: str, facts: Sequence[CaseFacts], question: Question) -> tuple[float, ...] | None:
    """Weights by class frequency where a term of the loss takes them, else None."""
    from autoseg import losses

    names = [spelling.spelled(piece.rpartition("*")[2], "--loss").name for piece in spelling.terms(loss)]
    if not any("weights" in inspect.signature(parts.LOSSES.get(name)).parameters for name in names):
        return None
    by_name = {name: sum(fact.voxels.get(name, 0) for fact in facts) for name in question.classes}
    counts = [by_name[name] for name in question.classes]
    if question.regions:
        table = zip(*question.members, strict=True)
        counts = [sum(n for n, inside in zip(counts, region, strict=True) if inside) for region in table]
    return losses.frequency_weights(counts)
