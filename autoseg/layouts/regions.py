"""Regions: label entries of several values, which may overlap, over the plain values of the label files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def regions_of(entries: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The entries that are regions, in order: all but the one of the value 0 alone, the background."""
    return {name: values for name, values in entries.items() if values != (0,)}


def fields_of(entries: Mapping[str, tuple[int, ...]], written: Sequence[int]) -> dict[str, Any]:
    """The fields `labels`, `regions` and `written` of a task.

    A value is named after the entry that is this value alone, else 'value 2'.
    """
    names = {value: f"value {value}" for values in entries.values() for value in values}
    names |= {values[0]: name for name, values in entries.items() if len(values) == 1}
    labels = {name: value for value, name in sorted(names.items())}
    return {"labels": labels, "regions": regions_of(entries), "written": [*written]}


def written_by_order(regions: Mapping[str, tuple[int, ...]]) -> list[int]:
    """The value of each region's own: the first that no later region holds, or where there is none, the first."""
    values = list(regions.values())
    later = [{value for other in values[place + 1 :] for value in other} for place in range(len(values))]
    return [next((v for v in own if v not in rest), own[0]) for own, rest in zip(values, later, strict=True)]
