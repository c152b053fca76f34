"""Whether a plan fits an architecture that is no U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from autoseg.errors import BadPlan
from autoseg.records import Network, Shape


def insist(network: Network, **own: object) -> None:
    """Raises: BadPlan for the first field that the plan sets otherwise than the architecture has it."""
    for field, fixed in own.items():
        found = getattr(network, field)
        if found != fixed:
            raise BadPlan(
                f"{field} is {_said(found)}, which {network.architecture.name} cannot have",
                where=f"network.{field}", expected=_said(fixed),
            )  # fmt: skip


def _said(value: object) -> str:
    return str(getattr(value, "text", value))


def totals(strides: Sequence[Shape]) -> list[Shape]:
    """By how much each stage's map is smaller than the input."""
    return list(accumulate(strides, lambda total, stride: tuple(t * s for t, s in zip(total, stride, strict=True))))
