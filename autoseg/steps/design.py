"""The network of a variant: what the user asked for on the topology that the planning rules found."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from autoseg import parts, spelling
from autoseg.errors import BadPlan
from autoseg.records import CaseFacts, Configuration, Insert, Network, Part, Plan, Question
from autoseg.steps import preprocess, topology
from autoseg.steps.topology import Limits, Topology

if TYPE_CHECKING:
    from autoseg.nets.survey import Survey

PLAIN = Part(name="unet")
ROUNDS = 4  # in which a patch is found that a costlier network fits into
LEAST_BATCH = 8  # of batch norm
BYTES_PER_PARAMETER = 16  # weight, gradient and two numbers of the optimiser, in float32


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
    parameters: int


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
    return Designed(found, network, factor, _parameters(network, question, found.patch))


def _parameters(network: Network, question: Question, patch: tuple[int, ...]) -> int:
    from autoseg.nets import survey

    return survey.survey(network, len(question.channels), len(question.outputs), patch).parameters


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

    names = [spelling.spelled(piece.rpartition("*")[2], "--loss").name for piece in spelling.terms(loss)]
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
        needed, there = found[title].parameters * BYTES_PER_PARAMETER, plan.target.memory
        if needed > there:
            raise BadPlan(
                f"its weights, their gradients and the optimiser need {needed / 1e9:.1f} GB",
                where=f"configurations.{title}", expected=f"at most the {there / 1e9:.1f} GB of the target",
                remedy="take a smaller network",
            )  # fmt: skip
    return found


def require(one: Configuration, question: Question) -> Survey:
    """As `require_parts`, of one configuration."""
    from autoseg.nets import survey

    _require_optimiser(one)
    parts.RESAMPLERS.build(one.resample)
    for part in one.normalise:
        parts.NORMALISERS.build(part, intensity=None)
    for part in one.train.augment:
        parts.AUGMENTATIONS.build(part, dims=one.dims)
    if one.network.norm.name == "batch" and one.batch < LEAST_BATCH:
        raise BadPlan(
            f"batch norm with a batch of {one.batch}", where="network.norm",
            expected=f"a batch of {LEAST_BATCH} or more", remedy="take instance or group",
        )  # fmt: skip
    channels = preprocess.inputs(one.normalise, question, one.previous)
    found = survey.survey(one.network, channels, len(question.outputs), one.patch)
    _require_loss(one, question, len(found.outputs))
    return found


def _require_optimiser(one: Configuration) -> None:
    import torch

    parts.OPTIMISERS.build(one.train.optimiser, parameters=[torch.nn.Parameter(torch.zeros(1))])
    schedule = parts.SCHEDULES.build(one.train.schedule, steps=one.train.steps)
    for step in (0, one.train.steps - 1):
        try:
            factor = float(schedule(step))
        except Exception as problem:  # whatever the code of a plug-in raises
            raise BadPlan(f"{type(problem).__name__}: {problem}", where="train.schedule") from problem
        if not 0 <= factor < float("inf"):
            raise BadPlan(f"the rate's factor at step {step} is {factor}", where="train.schedule", expected="0 to 1")


def _require_loss(one: Configuration, question: Question, heads: int) -> None:
    """Tries the loss on noise. Raises: BadPlan where it cannot be computed."""
    import torch

    from autoseg import losses

    loss = losses.build(one.train.loss, question.first, one.train.class_weights)
    if one.train.depth_weights is not None:
        losses.depth_weights(heads, one.train.depth_weights)
    size, generator = (4,) * one.dims, torch.Generator().manual_seed(0)
    target = torch.randint(0, len(question.classes), (1, *size), generator=generator).to(torch.uint8)
    if question.regions:
        target = losses.as_regions(target, torch.tensor(question.members))
    logits = torch.randn(1, len(question.outputs), *size, generator=generator).requires_grad_()
    try:
        value = loss(logits, target)
        value.backward()  # type: ignore[no-untyped-call]
    except BadPlan:
        raise
    except Exception as problem:  # whatever the code of a plug-in raises
        raise BadPlan(f"{type(problem).__name__}: {problem}", where=f"loss {one.train.loss}") from problem
    slope = logits.grad
    if not torch.isfinite(value) or slope is None or not torch.isfinite(slope).all():
        said = f"is {float(value.detach()):g} on noise, or its gradient is not finite"
        raise BadPlan(said, where=f"loss {one.train.loss}", expected="finite numbers")
