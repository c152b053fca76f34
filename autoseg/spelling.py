"""The text form of parts: `cbam`, `tversky(alpha=0.3)`, `dice+0.5*ce`."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from autoseg.errors import BadPlan
from autoseg.records import Part

NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*")


def spelled(text: str, where: str = "") -> Part:
    """The part that a text such as `cbam` or `tversky(alpha=0.3, beta=0.7)` spells; values are JSON or bare words.

    Raises: BadPlan for anything else.
    """
    name = NAME.match(text)
    rest = text[name.end() :].strip() if name else ""
    if name is None or (rest and not (rest.startswith("(") and rest.endswith(")"))):
        raise BadPlan(f"{text!r} is no part", where=where, expected="NAME or NAME(option=value, ...)")
    options: dict[str, Any] = {}
    rest = rest[1:-1].strip()
    while rest:
        key = re.match(r"([A-Za-z_]\w*)\s*=\s*", rest)
        if key is None:
            raise BadPlan(f"{rest!r} in {text!r} is no option", where=where, expected="option=value")
        if key[1] in options:
            raise BadPlan(f"{text!r} gives {key[1]} twice", where=where)
        options[key[1]], rest = _value(rest[key.end() :], text, where)
    try:
        return Part(name=name[1], options=options)
    except ValidationError:  # 1e400 is read as infinity
        raise BadPlan(f"{text!r} holds a number without end", where=where, expected="a finite one") from None


def _value(rest: str, text: str, where: str) -> tuple[Any, str]:
    """The value that `rest` begins with, and what comes after the comma behind it."""
    word = re.match(r"[A-Za-z_][\w.]*", rest)
    try:
        value, end = json.JSONDecoder(parse_constant=_no_number).raw_decode(rest)
    except ValueError:
        if word is None:
            raise BadPlan(f"{rest!r} in {text!r} is no value", where=where, expected="JSON or a word") from None
        value, end = word[0], word.end()
    after = rest[end:].strip()
    if after and not after.startswith(","):
        raise BadPlan(f"{after!r} in {text!r} is in the way", where=where, expected="a comma between options")
    return value, after[1:].strip()


def weighed(text: str, where: str = "") -> list[tuple[float, Part]]:
    """The (factor, part) of every term of a text such as `dice+0.5*tversky(alpha=0.3)`. Raises: BadPlan."""
    found = []
    for piece in terms(text):
        factor, _, rest = piece.partition("*") if "*" in piece.partition("(")[0] else ("1", "*", piece)
        try:
            weight = float(factor)
        except ValueError:
            weight = 0.0
        if not (0 < weight < float("inf") and rest.strip()):
            expected = "for example dice+ce or 0.3*ce+0.7*dice, with factors above 0"
            raise BadPlan(f"{text!r} is not a weighted sum", where=where, expected=expected)
        found.append((weight, spelled(rest, where)))
    return found


def _no_number(constant: str) -> Any:
    raise ValueError(constant)


def terms(text: str) -> list[str]:
    """The pieces between the plus signs of a text that stand outside all brackets."""
    pieces, depth = [""], 0
    for sign in re.findall(r'"(?:\\.|[^"\\])*"|.', text, re.DOTALL):  # what is quoted is one sign
        depth += (sign in ("(", "[")) - (sign in (")", "]"))
        if sign == "+" and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += sign
    return [piece.strip() for piece in pieces]
