"""Left and right: classes that a mirrored image shows as each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoseg.errors import BadUsage, nearest
from autoseg.records import Configuration, Part, Plan, Question

WHERE = "--mirror-swap"
TURNS, FARTHEST = "turns", 90.0
ACROSS = 2  # the axis of an image (z, y, x) that runs from left to right
LEFT = re.compile(r"left|(?<![a-z])l(?![a-z])", re.IGNORECASE)


def parsed(texts: Sequence[str], question: Question) -> list[tuple[str, str]]:
    """Pairs of classes of texts like 'left_kidney=right_kidney'. Raises: BadUsage for what spells none."""
    found: list[tuple[str, str]] = []
    for text in texts:
        first, equals, second = (part.strip() for part in text.partition("="))
        if not equals or first == second:
            raise BadUsage(f"{text!r} is no pair of classes", where=WHERE, expected="left_kidney=right_kidney")
        for name in (first, second):
            if name not in question.classes:
                known = ", ".join(question.classes)
                what = f"there is no class {name!r}{nearest(name, question.classes)}"
                raise BadUsage(what, where=WHERE, expected=f"of {known}")
            if question.labels[name] == 0:
                raise BadUsage(f"{name!r} is the background: it has no other side", where=WHERE)
            if any(name in pair for pair in found):
                raise BadUsage(f"the class {name!r} stands in two pairs", where=WHERE)
        found.append((first, second))
    return found


def exchanged(plan: Plan, pairs: Sequence[tuple[str, str]]) -> Plan:
    """The plan, its mirrored patches to exchange the two classes of each pair where they are flipped left to right.

    Slices that are cut across that axis show one side alone: there nothing is exchanged. Turns by 90° go, and rotations
    end at 90°: half a turn is two flips, and cannot both exchange the classes and leave them.

    Raises: BadUsage where a plan mirrors nothing; BadPlan where the classes of regions cannot be exchanged.
    """
    index = [[plan.question.classes.index(name) for name in pair] for pair in pairs]
    made = {title: _exchanged(title, one, index, plan.question) for title, one in plan.configurations.items()}
    names = ", ".join("=".join(pair) for pair in pairs)
    why = f"left and right are exchanged by a flip ({names}), so nothing turns by 180°"
    reasons = {f"configurations.{title}.train.augment": why for title, one in made.items() if _swaps(one)}
    told = {field: "; ".join(filter(None, [plan.because.get(field), reason])) for field, reason in reasons.items()}
    return plan.model_copy(update={"configurations": made, "because": {**plan.because, **told}})


def _exchanged(title: str, one: Configuration, index: Sequence[Sequence[int]], question: Question) -> Configuration:
    from autoseg.steps.tiling import output_orders  # with it comes torch

    axis = one.axes.index(ACROSS) - (3 - one.dims)
    mirrors = [part for part in one.train.augment if part.name == "mirror"]
    if not mirrors:
        raise BadUsage(f"{title} mirrors nothing", where=WHERE, remedy="leave it out, or plan with mirror")
    if axis < 0:
        return one
    options = {**mirrors[0].options, "swap": [list(pair) for pair in index], "swap_axis": axis}
    swapped = Part.model_validate({"name": "mirror", "options": options})
    augment = tuple(
        swapped if part.name == "mirror" else _held(part) for part in one.train.augment if part.name != TURNS
    )
    made = one.model_copy(update={"train": one.train.model_copy(update={"augment": augment})})
    output_orders(made, question)
    return made


def _held(part: Part) -> Part:
    """The part, which rotates by no more than FARTHEST."""
    degrees = part.options.get("degrees")
    if part.name != "affine" or not isinstance(degrees, float | int) or degrees <= FARTHEST:
        return part
    return Part.model_validate({"name": part.name, "options": {**part.options, "degrees": FARTHEST}})


def _swaps(one: Configuration) -> bool:
    return any(part.name == "mirror" and "swap" in part.options for part in one.train.augment)


def likely(classes: Sequence[str]) -> list[tuple[str, str]]:
    """The classes that differ in left and right alone, by name: left_kidney and right_kidney, lung_L and lung_R."""
    lower = {name.lower(): name for name in classes}
    found = []
    for name in classes:
        other = LEFT.sub(lambda met: "right" if len(met[0]) > 1 else "r", name.lower())
        if other != name.lower() and other in lower:
            found.append((name, lower[other]))
    return found
