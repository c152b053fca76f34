"""What all records share: they are frozen, and a misspelt field is an error that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from autoseg.errors import AutosegError, BadFile, BadPlan, nearest

R = TypeVar("R", bound="Record")
Spacing = tuple[float, ...]
Shape = tuple[int, ...]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN or inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Part(Record):
    """A named, replaceable piece: the only dynamic thing in a plan. `name` is looked up in `parts.py`."""

    name: str
    options: dict[str, JsonValue] = {}

    @property
    def text(self) -> str:
        """As it is written on the command line: tversky(alpha=0.3,beta=0.7)."""
        options = ",".join(f"{name}={json.dumps(value)}" for name, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


def parse(kind: type[R], text: str | bytes, where: str, error: type[AutosegError] = BadFile) -> R:
    """The record that `text` spells. Every fault is named, with the fields nearest to a misspelt one."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as problems:
        raise error(_faults(kind, problems), where=where) from None


def amend(record: R, changes: Mapping[str, Any], where: str = "") -> R:
    """`record` with dotted fields replaced: `amend(plan, {"configurations.2d.train.steps": 500})`.

    Raises: BadPlan naming the field, and the nearest ones, when it does not exist or the value is not valid.
    """
    fields = json.loads(record.model_dump_json())
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = fields
        for name in parents:
            place = _step(place, name, path, where)
        if parents[-1:] != ["options"]:  # what options a part has, the part knows
            _step(place, last, path, where)
        place[int(last) if isinstance(place, list) else last] = value
    return parse(type(record), json.dumps(fields), where, BadPlan)


def _step(place: Any, name: str, path: str, where: str) -> Any:
    if isinstance(place, list):
        known = [str(i) for i in range(len(place))]
    else:
        known = list(place) if isinstance(place, dict) else []
    if name not in known:
        remedy = "the fields here are: " + ", ".join(known) if known else "there is nothing below this field"
        raise BadPlan(f"no field {name!r} in {path!r}{nearest(name, known)}", where=where, remedy=remedy)
    return place[int(name)] if isinstance(place, list) else place[name]


def _faults(kind: type[Record], problems: ValidationError) -> str:
    lines = []
    for problem in problems.errors(include_url=False):
        path = ".".join(str(p) for p in problem["loc"]) or "the file"
        hint = nearest(str(problem["loc"][-1]), _names(kind)) if problem["type"] == "extra_forbidden" else ""
        message = (
            "is not a known field"
            if problem["type"] == "extra_forbidden"
            else problem["msg"].removeprefix("Value error, ")
        )
        lines.append(f"{path}: {message}{hint}")
    return "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")


def _names(kind: type[Record]) -> set[str]:
    names: set[str] = set(kind.model_fields)
    for other in Record.__subclasses__():
        names |= set(other.model_fields)
    return names


def digest(record: Record) -> str:
    """Sixteen hex digits that change when the record does."""
    fields = json.dumps(record.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()[:16]
