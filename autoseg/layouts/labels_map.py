"""What `--labels-map` says: the classes behind the values or colours of label files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoseg.errors import BadUsage
from autoseg.layouts import regions
from autoseg.layouts.common import is_number

LABELS_MAP = "--labels-map"
IGNORE, BACKGROUND = "ignore", "background"
IGNORED = 255  # the value of colours that are to be ignored
LONGEST = 1000  # values in a range
EXPECTED = "value=name like 255=road, 128..255=road, '#3c1098=road' or 60/16/152=road"


def fields_of(text: str) -> dict[str, Any]:
    """The fields of the classes of a task by '255=road,254=road,0=background,7=ignore', regions by '2=whole+core'.

    A range 128..255 is every value in it. Colours stand for the values that they are given here: 0 for `background`,
    255 for `ignore`, and 1, 2, ... for the other names, in order.

    Raises: BadUsage for a text that says something else.
    """
    entries = [_entry(entry) for entry in text.split(",")]
    coloured = {key: name for key, name in entries if _is_colour(key)}
    if not coloured:
        return _classes(_named([(value, name) for key, name in entries for value in _values(key)]))
    if len(coloured) < len(entries):
        raise BadUsage(
            "names both values and colours, or a colour twice", where=LABELS_MAP, expected="colours once each"
        )
    values = _numbered(list(coloured.values()))
    colours = {_hexadecimal(key): values[name] for key, name in coloured.items()}
    if len(colours) < len(coloured):
        raise BadUsage("names a colour twice", where=LABELS_MAP)
    return {**_classes({value: name for name, value in values.items()}), "colours": colours}


def _entry(text: str) -> tuple[str, str]:
    key, _, name = (part.strip() for part in text.partition("="))
    if not (_is_colour(key) or _values(key)) or not all(part.strip() for part in name.split("+")):
        raise BadUsage(f"{text.strip()!r}", where=LABELS_MAP, expected=EXPECTED)
    return key, name


def _values(key: str) -> Sequence[int]:
    """The values that 7 or 128..255 names; none for anything else."""
    if is_number(key):
        return [int(key)]
    first, dots, last = key.partition("..")
    if not dots or not is_number(first) or not is_number(last):
        return []
    values = range(int(first), int(last) + 1)
    if len(values) > LONGEST:
        raise BadUsage(f"the range {key} has {len(values)} values", where=LABELS_MAP, expected=f"at most {LONGEST}")
    return values


def _is_colour(key: str) -> bool:
    if re.fullmatch("#[0-9a-fA-F]{6}", key):
        return True
    parts = key.split("/")
    return len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts)


def _hexadecimal(colour: str) -> str:
    """#3c1098 for #3C1098 and 60/16/152."""
    return colour.lower() if colour.startswith("#") else "#" + "".join(f"{int(part):02x}" for part in colour.split("/"))


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """The value of every name of a colour."""
    fixed = {name: {BACKGROUND: 0, IGNORE: IGNORED}.get(name.lower()) for name in dict.fromkeys(names)}
    others = (name for name, value in fixed.items() if value is None)
    return {name: value for name, value in fixed.items() if value is not None} | {
        name: number for number, name in enumerate(others, 1)
    }


def _named(entries: Sequence[tuple[int, str]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for value, name in entries:
        if value in names:
            raise BadUsage(f"the value {value} is named twice", where=LABELS_MAP)
        names[value] = name
    return names


def _classes(names: Mapping[int, str]) -> dict[str, Any]:
    """The fields of the classes by what each value is called, in that order."""
    ignored = [value for value, name in names.items() if name.lower() == IGNORE]
    if len(ignored) > 1:
        raise BadUsage(f"{ignored[0]} and {ignored[1]} are both ignored", where=LABELS_MAP, expected="one value")
    values: dict[str, list[int]] = {}
    for value, name in names.items():
        for part in name.split("+") if value not in ignored else ():
            values.setdefault(part.strip(), []).append(value)
    ignore = next(iter(ignored), None)
    if any("+" in name for name in names.values()):
        entries = {name: tuple(several) for name, several in values.items()}
        written = regions.written_by_order(regions.regions_of(entries))
        return {**regions.fields_of(entries, written), "ignore": ignore}
    merged = {value: first for first, *further in values.values() for value in further}
    return {"labels": {name: first for name, (first, *_) in values.items()}, "merged": merged, "ignore": ignore}
