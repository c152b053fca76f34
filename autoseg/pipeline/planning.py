"""From a task to its plan."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from autoseg import spelling
from autoseg.errors import BadPlan, BadUsage
from autoseg.pipeline.clock import Clock, measured_rates, tried, with_pace
from autoseg.pipeline.folds import FoldsWish, folds_of
from autoseg.pipeline.tasks import measure
from autoseg.pipeline.voice import Voice
from autoseg.records import (
    Insert,
    Network,
    Part,
    Plan,
    Target,
    amend,
    digest,
)
from autoseg.steps import design, explain, likeness, sides, suited
from autoseg.steps import plan as planning
from autoseg.steps.design import Variant
from autoseg.steps.explain import Explanation
from autoseg.steps.limits import Rules
from autoseg.store import Home, save_record, save_text

PATIENCE = 86_400.0  # seconds to wait for another process that preprocesses the same


def make_plan(
    home: Home,
    task: str,
    voice: Voice,
    *,
    name: str = "default",
    device: str = "auto",
    memory: int | None = None,
    variant: Variant | None = None,
    changes: Mapping[str, Any] | None = None,
    folds: FoldsWish | None = None,
    workers: int | None = None,
    rules: Rules = "default",
    minutes: float | None = None,
    swaps: Sequence[str] = (),
) -> Plan:
    """Measures the task, decides, writes the plan and makes it current.

    Args:
        swaps: pairs of classes that a mirrored image shows as each other: left=right.
        minutes: that the training of one fold may take; None leaves it to the device.
    """
    file = home.plan_file(task, name)
    with ThreadPoolExecutor(1) as aside:
        ready = aside.submit(_load_estimate)
        dataset, measured = measure(home, task, voice, workers)
        ready.result()
    bad = {fault.case for fault in measured.all_faults if fault.fatal}
    for fault in measured.faults:
        if fault.fault == likeness.MISSING_CLASS:
            voice.say(f"{fault.fault}: {fault.detail}")
    if bad:
        voice.say(f"{len(bad)} of {len(dataset.cases)} cases cannot be used and are left out: autoseg check {task}")
    pairs = sides.parsed(swaps, dataset.question())
    if raters := dataset.question().raters:
        drawn_by = [f"{rater} ({sum(rater in case.labels for case in dataset.cases)} cases)" for rater in raters]
        voice.say(f"labels of {len(raters)} raters: {', '.join(drawn_by)}; scores are against each case's first")
    drawn = folds_of(home, task, dataset, measured, voice, folds or FoldsWish())
    target, here = target_of(device, memory)
    ids = (digest(measured), digest(drawn))
    made = partial(planning.make, measured, dataset.question(), task=task, name=name, ids=ids, rules=rules)
    target = target.model_copy(update={"minutes": minutes})
    clock = Clock(device) if here else None
    if clock is None and minutes is not None:
        what = "the speed of another machine is not known"
        raise BadUsage(what, where="--budget", remedy="plan there, or give the budget to autoseg train")
    if clock is None or rules == "nnunet":
        plan = made(target, variant=variant)
    else:
        plan = _decided(made, with_pace(home, task, name, target, voice), clock, variant, voice)
    if pairs:
        plan = sides.exchanged(plan, pairs)
    elif alike := sides.likely(plan.question.classes):
        told = " ".join(f"{sides.WHERE} {shlex.quote(f'{left}={right}')}" for left, right in alike[:3])
        voice.say(f"classes look like left and right of each other; mirrored images keep them so with {told}")
    plan = _amended(plan, changes or {})
    suited.require_parts(plan)
    plan = planning.schedule_for(plan, clock.speeds(plan, voice) if clock else {})
    plan = _amended(plan, changes or {})  # again, as the steps may be among the changes
    plan = plan.model_copy(update={"because": {"folds": drawn.rule, **plan.because}})
    save_record(home.folds_file(task), drawn)
    save_record(file, plan)
    for title in plan.configurations:  # of the plan that was here before
        home.drawing_file(task, name, title).unlink(missing_ok=True)
    home.make_current(task, name)
    return plan


def _load_estimate() -> None:
    """Estimates the memory of a small step: what that imports takes seconds, in which workers measure."""
    from autoseg.steps import memory

    network = Network.plain((4, 8), ((1, 1), (2, 2)))
    memory.estimate(
        network, 1, 2, (8, 8), 2, device="cpu", precision=memory.precision_on("cpu"), optimiser=Part(name="sgd")
    )


def _decided(made: Callable[..., Plan], target: Target, clock: Clock, variant: Variant | None, voice: Voice) -> Plan:
    """The plan for this machine: for the speed of its CPU, or for steps that its GPU was seen to hold."""
    if target.device == "cuda":
        return tried(partial(made, variant=variant), target, clock.bytes, f"measured on {clock.name}", voice)
    if target.device == "cpu" and not target.rates:
        target = measured_rates(made(target), clock, voice)
    return made(target, variant=variant)


def _amended(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """The plan as the user wants it. Raises: BadPlan for a field that there is not."""
    if not changes:
        return plan
    changes = {_path(plan, field): value for field, value in changes.items()}
    made = amend(plan, changes, where="--set")
    sized = {
        title: one.model_copy(update={"memory": design.memory_of(one, made.question, made.target)})
        for title, one in made.configurations.items()
    }
    made = made.model_copy(update={"configurations": sized})
    if (made.task, made.name) != (plan.task, plan.name):
        raise BadPlan("task and name of a plan are not set by hand", where="--set", remedy="give --as NAME")
    return made.model_copy(update={"because": {**made.because, **dict.fromkeys(changes, "set by hand")}})


def _path(plan: Plan, field: str) -> str:
    """The field's path; that of a configuration may leave out the word: 3d.batch."""
    return f"configurations.{field}" if field.split(".")[0] in plan.configurations else field


def variant(network: str | None, block: str | None, insert: str | None, loss: str | None) -> Variant:
    """What the texts of the command line ask of a plan. Raises: BadPlan for what they do not spell."""
    if insert is not None and not insert.strip():
        raise BadUsage("names nothing", where="--insert", expected="PART@PLACE")
    return Variant(
        architecture=spelling.spelled(network, "--network") if network is not None else design.PLAIN,
        block=spelling.spelled(block, "--block") if block is not None else None,
        inserts=_inserts(insert) if insert is not None else (),
        loss=loss,
    )


def _inserts(text: str) -> tuple[Insert, ...]:
    from autoseg.nets import places

    return places.parse(text)


def explained(home: Home, task: str, name: str, field: str) -> list[Explanation]:
    """Why a field of a plan that is made is what it is."""
    return explain.explain(home.plan(task, name), field)


def draw(home: Home, plan: Plan) -> list[Path]:
    """Draws the network of every configuration beside the plan; answers the files."""
    from autoseg.nets import drawing

    files = []
    for title, found in suited.require_parts(plan).items():
        one, file = plan.configurations[title], home.drawing_file(plan.task, plan.name, title)
        save_text(file, drawing.svg(one.network, found, one.patch, f"{plan.task} · {plan.name} · {title}"))
        files.append(file)
    return files


def target_of(device: str, memory: int | None) -> tuple[Target, bool]:
    """The machine to plan for, and whether it is this one. Another machine's memory must be told."""
    from autoseg.steps import device as devices

    try:
        chosen = devices.choose(device)
    except BadUsage as problem:
        kind: Any = device.split(":")[0]
        if memory is not None and kind in ("cuda", "mps"):
            return Target(device=kind, memory=memory), False
        remedy = "to plan for another machine give its memory too: --memory 8GB"
        raise BadUsage(problem.what, where=problem.where, expected=problem.expected, remedy=remedy) from None
    found: Any = chosen.type
    threads = None if found != "cpu" else _threads()
    return Target(device=found, memory=memory or devices.memory(chosen), threads=threads), True


def _threads() -> int:
    import torch

    return torch.get_num_threads()
