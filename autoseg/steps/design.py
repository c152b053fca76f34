"""The network of a variant: what the user asked for on the topology that the planning rules found."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from autoseg import parts
from autoseg.errors import BadPlan
from autoseg.records import CaseFacts, Configuration, Insert, Network, Part, Plan, Question
from autoseg.steps import topology
from autoseg.steps.topology import Limits, Topology

if TYPE_CHECKING:
    from autoseg.nets.survey import Survey

PLAIN = Part(name="unet")
ROUNDS = 4  # in which a patch is found that a costlier network fits into
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
class Designed:
    """A topology that fits the limits with this network. `factor`: memory of a training step beside the plain U-Net."""

    found: Topology
    network: Network
    factor: float


def network_of(found: Topology, variant: Variant) -> Network:
    """The network of a variant on a topology. Raises: BadPlan where the architecture cannot be had so."""
    plain = Network.plain(found.features, found.strides, found.kernels, architecture=variant.architecture)
    suit = getattr(parts.NETWORKS.get(variant.architecture.name), "suit", None)
    try:
        network: Network = plain if suit is None else suit(plain)
    except BadPlan as problem:
        raise Unsuited(problem.what, where=problem.where, expected=problem.expected, remedy=problem.remedy) from None
    if variant.block is not None:
        network = network.model_copy(update={"block": variant.block, "decoder_block": variant.block})
    return network.model_copy(update={"inserts": (*network.inserts, *variant.inserts)})


def design(
    variant: Variant,
    shape: Sequence[int],
    spacing: Sequence[float],
    question: Question,
    limits: Limits,
    voxels: float,
) -> Designed:
    """The patch and batch of the plain U-Net, so that variants compare; smaller where the memory does not hold them.

    The limits are feature-map elements of a plain U-Net; another network counts by what it keeps for its way
    back beside the plain one of the same topology.
    """
    classes, allowed = len(question.outputs), limits.elements
    ceiling = max(limits.ceiling, limits.elements)
    for _ in range(ROUNDS):
        found = topology.fit(shape, spacing, classes, replace(limits, elements=allowed), voxels)
        network = network_of(found, variant)
        found = replace(found, patch=_rounded(found.patch, network))
        factor = cost_factor(found, network, question)
        rounded = 0.5 if found.batch > limits.least_batch else 0.0  # as `fit` rounds the batch
        if factor * topology.elements(found, classes) * (found.batch - rounded) <= ceiling:
            break
        allowed = min(ceiling / factor, 0.9 * allowed)
    return Designed(found, network, factor)


def cost_factor(found: Topology, network: Network, question: Question) -> float:
    """What a training step of the network keeps for its way back, beside the plain U-Net of the same topology."""
    from autoseg.nets import survey

    plain = network_of(found, Variant())
    if network == plain:
        return 1.0
    channels, classes = len(question.channels), len(question.outputs)
    beside = survey.survey(plain, channels, classes, _rounded(found.patch, plain)).kept
    return survey.survey(network, channels, classes, found.patch).kept / beside


def _rounded(patch: Sequence[int], network: Network) -> tuple[int, ...]:
    return tuple(ceil(edge / d) * d for edge, d in zip(patch, network.divisor, strict=True))


def class_weights(loss: str, facts: Sequence[CaseFacts], question: Question) -> tuple[float, ...] | None:
    """Weights by class frequency where a term of the loss takes them, else None."""
    from autoseg import losses

    names = [parts.spelled(piece.rpartition("*")[2], "--loss").name for piece in parts.terms(loss)]
    if not any("weights" in inspect.signature(parts.LOSSES.get(name)).parameters for name in names):
        return None
    by_name = {name: sum(fact.voxels.get(name, 0) for fact in facts) for name in question.classes}
    counts = [by_name[name] for name in question.classes]
    if question.regions:
        table = zip(*question.members, strict=True)
        counts = [sum(n for n, inside in zip(counts, region, strict=True) if inside) for region in table]
    return losses.frequency_weights(counts)


def require_parts(plan: Plan) -> Mapping[str, Survey]:
    """Builds everything that a plan names; answers what the networks cost.

    Raises: BadPlan for a part that there is not, an option it has not, or parts that do not go together.
    """
    found = {}
    for title, one in plan.configurations.items():
        try:
            found[title] = require(one, plan.question)
        except BadPlan as problem:
            where = f"configurations.{title}" + (f", {problem.where}" if problem.where else "")
            raise BadPlan(problem.what, where=where, expected=problem.expected, remedy=problem.remedy) from problem
    return found


def require(one: Configuration, question: Question) -> Survey:
    """As `require_parts`, of one configuration."""
    from autoseg.nets import survey

    parts.OPTIMISERS.get(one.train.optimiser.name)
    parts.RESAMPLERS.build(one.resample)
    parts.SCHEDULES.build(one.train.schedule, steps=one.train.steps)
    for part in one.normalise:
        parts.NORMALISERS.build(part, intensity=None)
    for part in one.train.augment:
        parts.AUGMENTATIONS.build(part, dims=one.dims)
    if one.network.norm.name == "batch" and one.batch < LEAST_BATCH:
        raise BadPlan(
            f"batch norm with a batch of {one.batch}", where="network.norm",
            expected=f"a batch of {LEAST_BATCH} or more", remedy="take instance or group",
        )  # fmt: skip
    found = survey.survey(one.network, len(question.channels), len(question.outputs), one.patch)
    _require_loss(one, question, len(found.outputs))
    return found


def _require_loss(one: Configuration, question: Question, heads: int) -> None:
    """Tries the loss on an image of nothing. Raises: BadPlan where it cannot be computed."""
    import torch

    from autoseg import losses

    loss = losses.build(one.train.loss, question.first, one.train.class_weights)
    if one.train.depth_weights is not None:
        losses.depth_weights(heads, one.train.depth_weights)
    size = (4,) * one.dims
    target = torch.zeros(1, *size, dtype=torch.uint8)
    if question.regions:
        target = losses.as_regions(target, torch.tensor(question.members))
    logits = torch.zeros(1, len(question.outputs), *size, requires_grad=True)
    try:
        value = loss(logits, target)
        value.backward()  # type: ignore[no-untyped-call]
    except BadPlan:
        raise
    except Exception as problem:  # whatever the code of a plug-in raises
        raise BadPlan(f"{type(problem).__name__}: {problem}", where=f"loss {one.train.loss}") from problem
    if not torch.isfinite(value):
        raise BadPlan(f"is {float(value.detach())} on an empty image", where=f"loss {one.train.loss}")
