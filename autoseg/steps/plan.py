"""From a fingerprint to a plan, with a reason for every decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from autoseg.arrays.intensity import LEVELS, pool
from autoseg.errors import BadData, BadUsage
from autoseg.records import (
    CaseFacts,
    Channel,
    Configuration,
    Fingerprint,
    Memory,
    Part,
    Plan,
    Question,
    Target,
    Train,
)
from autoseg.steps import design, recipe, topology
from autoseg.steps.design import Designed, Unsuited, Variant
from autoseg.steps.topology import BYTES_PER_ELEMENT, Limits, Topology

GIGABYTE = 1e9
CPU_SECONDS = 3600.0
MASK_SHARE = 0.75  # below this median share of the cropped box, z-score looks at non-zero voxels only
SAME_RESOLUTION = 1.5  # rasters whose resolutions differ less are left as they are
# feature-map elements of nnU-Net's reference networks, for 8 GB
GPU_ELEMENTS = {3: 2 * 560e6, 2: 12 * 85e6}
# what two CPU cores train at about four steps a second
CPU_ELEMENTS = {3: 22e6, 2: 42e6}


@dataclass(frozen=True)
class View:
    """How the cases look in one configuration: median shape, spacing and voxels, in the plan's axes."""

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    voxels: float
    axes: tuple[int, int, int]


@dataclass(frozen=True)
class About:
    """What all configurations of a plan are decided from, and the reasons so far."""

    fingerprint: Fingerprint
    question: Question
    target: Target
    variant: Variant
    because: dict[str, str]


def make(
    fingerprint: Fingerprint,
    question: Question,
    target: Target,
    *,
    task: str,
    name: str,
    ids: tuple[str, str],
    variant: Variant | None = None,
) -> Plan:
    """The plan of a task for a machine.

    Args:
        variant: what the user asks of the network and the loss.
        ids: hashes of the fingerprint and of the folds that the plan rests on.
    Raises: BadData when no case can be used.
    """
    facts = list(fingerprint.usable.values())
    if not facts:
        raise BadData("no case can be used", where=task, remedy=f"see autoseg check {task}")
    because: dict[str, str] = {"target": _target_reason(target)}
    if fingerprint.flat:
        views = {"2d": _in_plane(_view(facts, (0, 1, 2)))}
    else:
        volume = _view(facts)
        views = {"2d": _in_plane(volume), "3d": volume}
    normalise = _normalise(question, facts, because)
    about = About(fingerprint, question, target, variant or Variant(), because)
    configurations = _configurations(views, about, normalise)
    return Plan(
        task=task, name=name, fingerprint=ids[0], folds=ids[1], target=target, question=question,
        configurations=configurations, because=because,
    )  # fmt: skip


def schedule_for(plan: Plan, seconds_per_step: Mapping[str, float]) -> Plan:
    """The plan with its steps: 100,000 on a GPU; on a CPU what fits an hour at the measured speed."""
    because, configurations = dict(plan.because), dict(plan.configurations)
    for title, configuration in plan.configurations.items():
        field = f"configurations.{title}.train.steps"
        if plan.target.device == "cpu" and title in seconds_per_step:
            steps = max(100, round(CPU_SECONDS / seconds_per_step[title] / 100) * 100)
            because[field] = f"60 minutes at the {seconds_per_step[title]:.3f} s per step measured on this machine"
        else:
            steps, because[field] = recipe.GPU_STEPS, "100,000 steps on an accelerator; --budget makes it fit a time"
        train = configuration.train.model_copy(update={"steps": steps})
        configurations[title] = configuration.model_copy(update={"train": train})
    return plan.model_copy(
        update={
            "because": because,
            "configurations": configurations,
            "seconds_per_step": dict(seconds_per_step),
        }
    )


def configuration_of(plan: Plan, title: str) -> Configuration:
    """The configuration of that name. Raises: BadUsage that says what there is."""
    if title in plan.configurations:
        return plan.configurations[title]
    there = ", ".join(plan.configurations)
    if title.startswith("3d") and "3d" not in plan.configurations:
        what = f"{plan.task} is a task of flat images: there is no {title} configuration"
    else:
        what = f"plan {plan.name} has no configuration {title!r}"
    raise BadUsage(what, expected=f"one of {there}")


# -- what the cases look like --------------------------------------------------------------------------


def _view(facts: Sequence[CaseFacts], axes: tuple[int, int, int] | None = None) -> View:
    spacing = topology.target_spacing([f.spacing for f in facts], [f.cropped for f in facts])
    axes = axes or topology.slice_axes(spacing)
    shapes = [[round(n * s / t) for n, s, t in zip(f.cropped, f.spacing, spacing, strict=True)] for f in facts]
    shape = [max(1, round(float(n))) for n in np.median(shapes, 0)]
    return View(tuple(spacing[a] for a in axes), tuple(shape[a] for a in axes), len(facts) * float(prod(shape)), axes)


def _in_plane(view: View) -> View:
    return View(view.spacing[1:], view.shape[1:], view.voxels, view.axes)


# -- decisions -----------------------------------------------------------------------------------------


def _configurations(views: Mapping[str, View], about: About, normalise: tuple[Part, ...]) -> dict[str, Configuration]:
    """Those that the architecture can be had in. Raises: BadPlan when there is none."""
    made, refused = {}, None
    for title, view in views.items():
        try:
            made[title] = _configuration(title, view, about, normalise)
        except Unsuited as problem:
            refused = problem
            about.because[f"configurations.{title}"] = f"left out: {problem.what}"
    if refused and not made:
        raise refused
    return made


def _configuration(title: str, view: View, about: About, normalise: tuple[Part, ...]) -> Configuration:
    limits = limits_of(about.target, len(view.shape))
    made = design.design(about.variant, view.shape, view.spacing, about.question, limits, view.voxels)
    found, because, here = made.found, about.because, f"configurations.{title}"
    _explain_spacing(here, view, because)
    _explain_size(here, view, about, limits, found)
    _explain_network(here, about, made)
    return Configuration(
        spacing=view.spacing, axes=view.axes, patch=found.patch, batch=found.batch, normalise=normalise,
        resample=_resample(here, about.fingerprint, because), network=made.network,
        train=_train(here, found, about), memory=_memory(made, about.question),
    )  # fmt: skip


def _memory(made: Designed, question: Question) -> Memory:
    total = topology.elements(made.found, len(question.outputs)) * made.found.batch * made.factor
    weights = made.parameters * design.BYTES_PER_PARAMETER
    factor = f" × {made.factor:.2f}" if made.factor != 1 else ""
    method = f"feature-map elements × 8 bytes{factor} + parameters × {design.BYTES_PER_PARAMETER} bytes"
    return Memory(bytes=int(total * BYTES_PER_ELEMENT) + weights, method=method)


def _explain_size(here: str, view: View, about: About, limits: Limits, found: Topology) -> None:
    because, size = about.because, "×".join(map(str, view.shape))
    because[f"{here}.patch"] = (
        f"median image {size}; the largest patch of its proportions that keeps a step within "
        f"{limits.elements / 1e6:.0f} M feature-map elements"
    )
    plain = topology.fit(view.shape, view.spacing, len(about.question.outputs), limits, view.voxels)
    if (plain.patch, plain.batch) != (found.patch, found.batch):
        asked = f"{'×'.join(map(str, plain.patch))} by {plain.batch}"
        because[f"{here}.patch"] += f"; {asked} for the plain U-Net, changed for this network's memory or divisor"
    because[f"{here}.batch"] = "what fits beside the patch, at most 5 % of the data set's voxels"
    because[f"{here}.network.features"] = f"{limits.base}, doubled per stage up to {limits.cap}"
    because[f"{here}.network.strides"] = f"axes are halved while they have {2 * topology.SMALLEST} voxels or more"


def _explain_network(here: str, about: About, made: Designed) -> None:
    asked = about.variant
    if asked.architecture != design.PLAIN:
        about.because[f"{here}.network.architecture"] = "asked for"
    if asked.block is not None:
        about.because[f"{here}.network.block"] = "asked for"
    if asked.block and asked.block.name == "repvgg" and made.found.batch < design.LEAST_BATCH:
        about.because[f"{here}.network.block"] += (
            f"; its branches have batch norm, which wants {design.LEAST_BATCH} samples or more, and the batch has "
            f"{made.found.batch}"
        )
    if asked.inserts:
        about.because[f"{here}.network.inserts"] = "asked for"
    if made.factor != 1:
        about.because[f"{here}.memory"] = (
            f"a training step keeps {made.factor:.2f} times what the plain U-Net of this topology keeps"
        )


def limits_of(target: Target, dims: int) -> Limits:
    """What the target machine allows for networks of that many dimensions."""
    if target.device == "cpu":
        speed = CPU_ELEMENTS[dims] * min(8.0, max(0.5, (target.threads or 2) / 2))
        ceiling = target.memory / 2 / BYTES_PER_ELEMENT
        return Limits(min(speed, ceiling), 16, 256, {3: 2, 2: 4}[dims], ceiling)
    return Limits(GPU_ELEMENTS[dims] * target.memory / (8 * GIGABYTE), 32, {3: 320, 2: 512}[dims], 2)


def _target_reason(target: Target) -> str:
    memory = f"{target.memory / GIGABYTE:.1f} GB"
    if target.device == "cpu":
        return (
            f"a CPU with {target.threads} threads and {memory} free: half of nnU-Net's width, and a batch that "
            "trains at a few steps per second; plan again with --device cuda --memory 8GB for a GPU"
        )
    return f"{target.device} with {memory}: nnU-Net's rule, its limits scaled from 8 GB"


def _explain_spacing(here: str, view: View, because: dict[str, str]) -> None:
    because[f"{here}.spacing"] = "median of the cases; a much coarser, shorter axis takes its 10th percentile"
    if view.axes != (0, 1, 2):
        because[f"{here}.axes"] = "slices are cut across the axis of the largest spacing"


def _resample(here: str, fingerprint: Fingerprint, because: dict[str, str]) -> Part:
    if fingerprint.flat:
        spacings = np.array([facts.spacing[1:] for facts in fingerprint.usable.values()])
        ratio = float((spacings.max(0) / spacings.min(0)).max())
        if ratio < SAME_RESOLUTION:
            because[f"{here}.resample"] = f"none: resolutions differ {ratio:.2f}-fold, less than {SAME_RESOLUTION}"
            return Part(name="keep")
    because[f"{here}.resample"] = "cubic B-spline; nearest neighbour along an axis 3 times coarser"
    return Part(name="spline")


def _normalise(question: Question, facts: Sequence[CaseFacts], because: dict[str, str]) -> tuple[Part, ...]:
    share = float(np.median([prod(f.cropped) / prod(f.shape) for f in facts]))
    parts = []
    for number, channel in enumerate(question.channels):
        part, reason = _normaliser(number, channel, facts, share)
        parts.append(part)
        because[f"normalise.{number}"] = f"{channel.name} is {channel.kind}: {reason}"
    return tuple(parts)


def _normaliser(number: int, channel: Channel, facts: Sequence[CaseFacts], share: float) -> tuple[Part, str]:
    if channel.kind == "ct":
        known = [i for f in facts if f.foreground and (i := f.foreground[number]) is not None]
        if known:
            pooled = pool(known)
            low, high = (float(np.interp(p, LEVELS, pooled.quantiles)) for p in (0.5, 99.5))
            return (
                Part(name="ct", options={"lower": low, "upper": high, "mean": pooled.mean, "sd": pooled.sd}),
                f"clipped to {low:.0f}..{high:.0f} HU of the foreground",
            )
    if share < MASK_SHARE:
        return Part(
            name="zscore", options={"masked": True}
        ), f"z-score of the non-zero voxels, as a median {1 - share:.0%} of an image is empty border"
    return Part(name="zscore"), "z-score of each image"


def _train(here: str, found: Topology, about: About) -> Train:
    facts = list(about.fingerprint.usable.values())
    asked = about.variant.loss
    loss = asked if asked is not None else ("dice+bce" if about.question.regions else "dice+ce")
    about.because[f"{here}.train.loss"] = "asked for" if asked else "as nnU-Net's"
    weights = design.class_weights(loss, facts, about.question)
    if weights:
        about.because[f"{here}.train.class_weights"] = "by the frequency of the classes"
    made = recipe.train(here, found.patch, about.target, about.fingerprint.flat, about.because)
    return made.model_copy(update={"loss": loss, "class_weights": weights})


def hours(plan: Plan, title: str) -> float | None:
    """Hours the configuration's steps take at the measured speed; None when it was not measured."""
    speed = plan.seconds_per_step.get(title)
    return None if speed is None else speed * plan.configurations[title].train.steps / 3600


def steps_in(budget: float, seconds_per_step: float) -> int:
    """Steps that fit into a budget of seconds; at least one."""
    return max(1, ceil(budget / seconds_per_step) - 1)
