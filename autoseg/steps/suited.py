"""Whether what a plan names is there, and goes together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoseg import parts
from autoseg.errors import BadPlan
from autoseg.records import Configuration, Plan, Question
from autoseg.steps import preprocess
from autoseg.steps.design import LEAST_BATCH, memory_of, safe

if TYPE_CHECKING:
    from autoseg.nets.survey import Survey


def require_parts(plan: Plan) -> Mapping[str, Survey]:
    """Builds everything that a plan names; answers what the networks cost.

    Raises: BadPlan for a part that there is not, an option it has not, or parts that do not go together.
    """
    return {title: require_one(plan, title) for title in plan.configurations}


def require_one(plan: Plan, title: str) -> Survey:
    """As `require_parts`, of one configuration; a plan may have been edited by hand."""
    one = plan.configurations[title]
    try:
        found = require(one, plan.question)
    except BadPlan as problem:
        where = f"configurations.{title}" + (f", {problem.where}" if problem.where else "")
        raise BadPlan(problem.what, where=where, expected=problem.expected, remedy=problem.remedy) from problem
    if plan.rules == "default":
        _require_memory(f"configurations.{title}", one, plan)
    return found


def _require_memory(here: str, one: Configuration, plan: Plan) -> None:
    """Raises: BadPlan where a training step needs more than the target has; it says which batch would fit."""
    from autoseg.steps import memory

    def needed(batch: int) -> int:
        return memory_of(one.model_copy(update={"batch": batch}), plan.question, plan.target).bytes

    there = plan.target.memory
    if needed(one.batch) <= there:
        return
    fitting = memory.largest(lambda batch: needed(batch) <= safe(plan.target) * there, 0, one.batch - 1)
    raise BadPlan(
        f"a training step needs {needed(one.batch) / 1e9:.1f} GB by estimate",
        where=f"{here}.batch, which is {one.batch}", expected=f"at most the {there / 1e9:.1f} GB of the target",
        remedy=f"the largest batch that fits is {fitting}" if fitting else "take a smaller patch or network",
    )  # fmt: skip


def require(one: Configuration, question: Question) -> Survey:
    """As `require_parts`, of one configuration."""
    from autoseg.nets import survey
    from autoseg.steps import earlier, tiling

    _require_optimiser(one)
    parts.RESAMPLERS.build(one.resample)
    for part in one.normalise:
        parts.NORMALISERS.build(part, intensity=None)
    for part in one.train.augment:
        _require_classes(parts.AUGMENTATIONS.build(part, dims=one.dims), question)
    parts.SAMPLINGS.build(one.train.sampling, present=[set()])
    if one.network.norm.name == "batch" and one.batch < LEAST_BATCH:
        raise BadPlan(
            f"batch norm with a batch of {one.batch}", where="network.norm",
            expected=f"a batch of {LEAST_BATCH} or more", remedy="take instance or group",
        )  # fmt: skip
    orders = tiling.output_orders(one, question)
    for order in orders.values() if one.previous is not None else ():
        earlier.input_order(order, len(question.channels), question)
    channels = preprocess.inputs(one.normalise, question, one.previous)
    found = survey.survey(one.network, channels, len(question.outputs), one.patch)
    _require_loss(one, question, len(found.outputs))
    _require_raters(one, question)
    return found


def _require_classes(part: Any, question: Question) -> None:
    """Raises: BadPlan where objects are to be pasted that the task does not have, or onto no background."""
    if not hasattr(part, "pasted"):
        return
    if not question.background:
        raise BadPlan("copy_paste needs a background to paste onto: no class has the value 0", where="train.augment")
    if bad := [index for index in part.classes if index >= len(question.classes)]:
        last = len(question.classes) - 1
        raise BadPlan(f"copy_paste names the classes {bad}", where="train.augment", expected=f"indices of 1 to {last}")


def _require_raters(one: Configuration, question: Question) -> None:
    """Raises: BadPlan for fewer vectors than there are raters."""
    for insert in one.network.inserts:
        if insert.part.name == "rater" and (count := insert.part.options.get("raters", 2)) != len(question.raters):
            raise BadPlan(
                f"{insert.text} has {count} vectors, the task {len(question.raters)} raters", where="network.inserts",
                expected=f"rater(raters={len(question.raters)})" if question.raters else "no vectors of raters",
            )  # fmt: skip


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
