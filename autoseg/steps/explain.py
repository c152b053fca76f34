"""Why a field of a plan is what it is, and what the next larger and smaller choices would cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autoseg.errors import AutosegError, BadUsage, nearest
from autoseg.records import Configuration, Part, Plan, amend
from autoseg.steps import design, preprocess

PREFIX = "configurations."


@dataclass(frozen=True)
class Choice:
    """A value that a field might have.

    `memory`: bytes of a training step by estimate; `seconds` of a step and `hours` of a fold, scaled by the network's
    FLOPs from what was measured, None where nothing was; `problem`: why it cannot be had.
    """

    value: str
    memory: int | None = None
    seconds: float | None = None
    hours: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Explanation:
    """A field, its value and the reason; where it has an order, the choices from smaller to larger with its own."""

    field: str
    value: str
    reason: str
    choices: tuple[Choice, ...] = ()


def explain(plan: Plan, field: str) -> list[Explanation]:
    """Of every field that is meant: its dotted path, or the end of one (3d.patch, batch).

    Raises: BadUsage for a field that there is not; it names the nearest.
    """
    known = {**dict.fromkeys(plan.because, ""), **dict(_fields(json.loads(plan.model_dump_json())))}
    known.pop("because", None)
    meant = [name for name in known if name == field or name.endswith(f".{field}")]
    if not meant:
        short = sorted({name.removeprefix(PREFIX) for name in known})
        what = f"no field {field!r} in plan {plan.name}{nearest(field, short)}"
        raise BadUsage(what, where="--explain", remedy="name its path or the end of it, for example 3d.patch")
    return [_explained(plan, name, known[name]) for name in sorted(meant)]


def _fields(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every dotted path of a plan that a reason or a user may name, with its value."""
    named = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in named:
        here = f"{path}{name}"
        if name not in ("because", "question"):
            yield here, _text(value)
            if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
                yield from _fields(value, f"{here}.")


def _text(value: Any) -> str:
    if isinstance(value, dict) and {*value} == {"name", "options"}:
        return Part(**value).text
    return json.dumps(value) if isinstance(value, dict | list | bool) or value is None else f"{value}"


def _explained(plan: Plan, field: str, value: str) -> Explanation:
    reason = plan.because.get(field) or _inherited(plan, field)
    parts = field.split(".")
    title, tail = (parts[1], ".".join(parts[2:])) if field.startswith(PREFIX) and len(parts) > 2 else ("", "")
    values = _neighbours(plan.configurations[title], tail) if title in plan.configurations else []
    choices = tuple(_choice(plan, title, field, one) for one in values)
    return Explanation(field, value, reason, choices)


def _inherited(plan: Plan, field: str) -> str:
    """The reason of the nearest field above, or of a channel's normalisation."""
    parts = field.split(".")
    if "normalise" in parts:
        return "; ".join(reason for name, reason in plan.because.items() if name.startswith("normalise."))
    above = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((plan.because[name] for name in above if name in plan.because), "as nnU-Net has it")


def _neighbours(one: Configuration, tail: str) -> list[Any]:
    """The next smaller value of a field, its own and the next larger; none for a field without an order."""
    if tail == "patch":
        return _patches(one)
    if tail == "batch":
        return [*([one.batch // 2] if one.batch > 1 else []), one.batch, one.batch * 2]
    if tail == "network.features":
        features = one.network.features
        return [[max(1, n // 2) for n in features], [*features], [2 * n for n in features]]
    if tail == "train.steps":
        return [one.train.steps // 2, one.train.steps, one.train.steps * 2]
    return []


def _patches(one: Configuration) -> list[list[int]]:
    """With a step less along the axis that is longest in millimetres, as it is, a step more along the shortest."""
    divisor = one.network.divisor
    length = [edge * s for edge, s in zip(one.patch, one.spacing, strict=True)]
    longest, shortest = length.index(max(length)), length.index(min(length))
    smaller, larger = list(one.patch), list(one.patch)
    smaller[longest] -= divisor[longest]
    larger[shortest] += divisor[shortest]
    return [*([smaller] if min(smaller) > 0 else []), list(one.patch), larger]


def _choice(plan: Plan, title: str, field: str, value: Any) -> Choice:
    shown = "×".join(map(str, value)) if field.endswith(".patch") else _text(value).strip("[]")
    try:
        changed = amend(plan, {field: value}, where=field)
        one = changed.configurations[title]
        memory = design.memory_of(one, plan.question, plan.target).bytes
        here = plan.configurations[title]
        scale = _work(one, plan) / _work(here, plan) if one.patch != here.patch or one.network != here.network else 1.0
        scale *= one.batch / here.batch
    except AutosegError as problem:
        return Choice(shown, problem=problem.what)
    measured = plan.seconds_per_step.get(title)
    seconds = None if measured is None else measured * scale
    hours = None if seconds is None else seconds * one.train.steps / 3600
    too_much = "" if memory <= plan.target.memory else "more than the target has"
    return Choice(shown, memory, seconds, hours, too_much)


def _work(one: Configuration, plan: Plan) -> float:
    """FLOPs of one sample forward."""
    from autoseg.nets import survey

    channels = preprocess.inputs(one.normalise, plan.question, one.previous)
    return float(survey.survey(one.network, channels, len(plan.question.outputs), one.patch).flops)
