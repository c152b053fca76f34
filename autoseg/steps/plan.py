"""From a fingerprint to a plan, with a reason for every decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from autoseg.errors import BadData, BadUsage
from autoseg.records import (
    CaseFacts,
    Configuration,
    Fingerprint,
    Part,
    Plan,
    Question,
    Target,
    Train,
)
from autoseg.steps import design, preprocess, raters, reasons, recipe, topology
from autoseg.steps import normalise as normalising
from autoseg.steps.design import Room, Unsuited, Variant
from autoseg.steps.limits import CPU_MINUTES, Rules, limits_of, weigh_of, widened
from autoseg.steps.topology import Topology

SAME_RESOLUTION = 1.5  # rasters whose resolutions differ less are left as they are
MOST_AIMED = 0.9  # share of the patches that are aimed at labelled voxels where few are
LOWRES_SHARE = 0.25  # of the median image that a patch covers; below it there is a configuration of low resolution
LOWRES_GAIN = 2.0  # voxels that it must have fewer


@dataclass(frozen=True)
class View:
    """How the cases look in one configuration: median shape, spacing and voxels of all, in the plan's axes."""

    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    voxels: float
    axes: tuple[int, int, int]

    @property
    def size(self) -> str:
        """The shape as people write it."""
        return "×".join(str(round(edge)) for edge in self.shape)


@dataclass(frozen=True)
class About:
    """What all configurations of a plan are decided from, and the reasons so far."""

    fingerprint: Fingerprint
    question: Question
    target: Target
    rules: Rules
    variant: Variant
    normalise: tuple[Part, ...]
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
    rules: Rules = "default",
) -> Plan:
    """The plan of a task for a machine.

    Args:
        variant: what the user asks of the network and the loss.
        ids: hashes of the fingerprint and of the folds that the plan rests on.
        rules: "nnunet" gives what nnU-Net's planner would.
    Raises: BadData when no case can be used; BadPlan when no network fits the machine.
    """
    facts = list(fingerprint.usable.values())
    if not facts:
        raise BadData("no case can be used", where=task, remedy=f"see autoseg check {task}")
    because: dict[str, str] = {"target": reasons.target(target, rules)}
    if fingerprint.flat:
        views = {"2d": _in_plane(_view(facts, (0, 1, 2)))}
    else:
        volume = _view(facts)
        views = {"2d": _in_plane(volume), "3d": volume}
    normalise = {"default": normalising.decide, "nnunet": normalising.nnunet}[rules](question, facts, because)
    asked = raters.asked(variant or Variant(), question, because)
    about = About(fingerprint, question, target, rules, asked, normalise, because)
    return Plan(
        task=task, name=name, fingerprint=ids[0], folds=ids[1], rules=rules, target=target, question=question,
        configurations=_configurations(views, about), because=because,
    )  # fmt: skip


def schedule_for(plan: Plan, seconds_per_step: Mapping[str, float]) -> Plan:
    """The plan with its steps: what fits the time at the measured speed; 100,000 where no time is given on a GPU."""
    because, configurations = dict(plan.because), dict(plan.configurations)
    minutes = plan.target.minutes or (CPU_MINUTES if plan.target.device == "cpu" else None)
    for title, configuration in plan.configurations.items():
        field = f"configurations.{title}.train.steps"
        if plan.rules == "nnunet":
            steps, because[field] = recipe.NNUNET_STEPS, "1,000 epochs of 250, as nnU-Net's"
        elif minutes is not None and title in seconds_per_step:
            steps = max(100, round(minutes * 60 / seconds_per_step[title] / 100) * 100)
            speed = f"{seconds_per_step[title]:.3f} s per step measured on this machine"
            because[field] = f"{minutes:g} minutes at the {speed}"
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
    shapes = [[round(s / t * n) for n, s, t in zip(f.cropped, f.spacing, spacing, strict=True)] for f in facts]
    shape = [max(1.0, float(n)) for n in np.median(shapes, 0)]
    return View(tuple(spacing[a] for a in axes), tuple(shape[a] for a in axes), len(facts) * prod(shape), axes)


def _in_plane(view: View) -> View:
    return View(view.spacing[1:], view.shape[1:], view.voxels, view.axes)


def _lowered(view: View, full: Configuration, about: About) -> View | None:
    """The view at which a patch covers a quarter of the median image; None where it is no gain."""
    covered, spacing, shape = prod(full.patch), view.spacing, view.shape
    room = _room(view, about)
    while covered / prod(shape) < LOWRES_SHARE:
        spacing = topology.coarser(spacing)
        shape = tuple(n * s / t for n, s, t in zip(view.shape, view.spacing, spacing, strict=True))
        rounded = [max(1, round(n)) for n in shape]
        tried = topology.fit(rounded, spacing, room.weigh, room.limits, view.voxels * prod(shape) / prod(view.shape))
        covered = prod(tried.patch)
    gain = prod(view.shape) / prod(shape)
    if gain < LOWRES_GAIN:
        return None
    return View(spacing, tuple(float(max(1, round(n))) for n in shape), view.voxels / gain, view.axes)


# -- decisions -----------------------------------------------------------------------------------------


def _configurations(views: Mapping[str, View], about: About) -> dict[str, Configuration]:
    """Those that the architecture can be had in. Raises: BadPlan when there is none."""
    made, refused = {}, None
    for title, view in views.items():
        try:
            made[title] = _configuration(title, view, about)
        except Unsuited as problem:
            refused = problem
            about.because[f"configurations.{title}"] = f"left out: {problem.what}"
    if refused and not made:
        raise refused
    if "3d" in made and (lower := _lowered(views["3d"], made["3d"], about)):
        made["3d_lowres"] = _configuration("3d_lowres", lower, about)
        made["3d_cascade"] = _configuration("3d_cascade", views["3d"], about, "3d_lowres")
        share = prod(made["3d"].patch) / prod(views["3d"].shape)
        about.because["configurations.3d_lowres"] = (
            f"a patch of 3d covers {share:.1%} of the median image, less than {LOWRES_SHARE:.0%}: "
            f"here the image has {lower.size} voxels"
        )
        about.because["configurations.3d_cascade"] = "3d, given the prediction of 3d_lowres beside the image"
    return made


def _configuration(title: str, view: View, about: About, previous: str | None = None) -> Configuration:
    room, here = _room(view, about, previous), f"configurations.{title}"
    made = design.design(about.variant, room)
    reasons.spacing(here, view, about.because)
    reasons.size(here, view, room, made, about.because)
    reasons.network(here, about.variant, about.target, made, about.because)
    return Configuration(
        spacing=tuple(round(s, 6) for s in view.spacing), axes=view.axes, patch=made.found.patch,
        batch=made.found.batch, normalise=about.normalise,
        resample=_resample(here, about.fingerprint, about.because), network=made.network,
        train=_train(here, made.found, about, previous), memory=made.memory, previous=previous,
    )  # fmt: skip


def _room(view: View, about: About, previous: str | None = None) -> Room:
    asked, dims = about.variant.architecture.name, len(view.shape)
    outputs = about.question.outputs
    weigh = weigh_of(asked, about.target, about.rules, _counted(about) if about.rules == "nnunet" else len(outputs))
    limits = limits_of(about.target, dims, about.rules, asked)
    if about.target.device == "cpu" and about.rules == "default":
        fitted = (topology.fit(view.shape, view.spacing, weigh, one, view.voxels) for one in (limits, widened(limits)))
        narrow, wide = fitted
        limits = widened(limits) if wide.patch == narrow.patch else limits
    channels = preprocess.inputs(about.normalise, about.question, previous)
    return Room(
        view.shape, view.spacing, view.voxels, channels, len(outputs), limits, weigh, about.target,
        recipe.optimiser(about.target, about.rules), binding=about.rules == "default",
    )  # fmt: skip


def _counted(about: About) -> int:
    """Classes as nnU-Net counts them for its estimate: every entry of its label list, background and ignore too."""
    question = about.question
    named = len(question.regions) + 1 if question.regions else len(question.labels)
    return named + (question.ignore is not None)


def _resample(here: str, fingerprint: Fingerprint, because: dict[str, str]) -> Part:
    if fingerprint.flat:
        spacings = np.array([facts.spacing[1:] for facts in fingerprint.usable.values()])
        ratio = float((spacings.max(0) / spacings.min(0)).max())
        if ratio < SAME_RESOLUTION:
            because[f"{here}.resample"] = f"none: resolutions differ {ratio:.2f}-fold, less than {SAME_RESOLUTION}"
            return Part(name="keep")
    because[f"{here}.resample"] = "cubic B-spline; nearest neighbour along an axis 3 times coarser"
    return Part(name="spline")


def _train(here: str, found: Topology, about: About, previous: str | None) -> Train:
    facts = list(about.fingerprint.usable.values())
    asked = about.variant.loss
    loss = asked if asked is not None else ("dice+bce" if about.question.regions else "dice+ce")
    about.because[f"{here}.train.loss"] = "asked for" if asked else "as nnU-Net's"
    weights = design.class_weights(loss, facts, about.question)
    if weights:
        about.because[f"{here}.train.class_weights"] = "by the frequency of the classes"
    made = recipe.train(here, found.patch, about.target, about.rules, about.fingerprint.flat, about.because)
    known = [f for f in facts if f.voxels]
    labelled = sum(sum(f.voxels.values()) for f in known) / sum(prod(f.cropped) for f in known) if known else 1.0
    aimed = made.foreground
    if labelled < preprocess.SPARSE:
        aimed = round(min(MOST_AIMED, 1 - labelled), 2)
        about.because[f"{here}.train.foreground"] = (
            f"{labelled:.1%} of the voxels are labelled: most patches are aimed at them"
        )
    augment = made.augment
    if previous is not None:
        augment = (*augment, *recipe.mistakes(here, previous, about.because))
    changed = {"loss": loss, "class_weights": weights, "foreground": aimed, "augment": augment}
    return made.model_copy(update=changed)


def hours(plan: Plan, title: str) -> float | None:
    """Hours the configuration's steps take at the measured speed; None when it was not measured."""
    speed = plan.seconds_per_step.get(title)
    return None if speed is None else speed * plan.configurations[title].train.steps / 3600


def steps_in(budget: float, seconds_per_step: float) -> int:
    """Steps that fit into a budget of seconds; at least one."""
    return max(1, ceil(budget / seconds_per_step) - 1)
