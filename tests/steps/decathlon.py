"""The ten tasks of the Medical Segmentation Decathlon as fingerprints: numbers that others measured and published."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.arrays.intensity import LEVELS
from autoseg.records import CaseFacts, Channel, Fingerprint, Intensity, Plan, Question, Target
from autoseg.steps import plan as planning
from autoseg.steps.limits import Rules

FOLDER = Path(__file__).parent / "fixtures"
TASKS = sorted(file.stem for file in FOLDER.glob("Task*.json"))
POINTS = {0.0: "min", 0.5: "percentile_00_5", 50.0: "median", 99.5: "percentile_99_5", 100.0: "max"}
GPU = Target(device="cuda", memory=8 * 10**9)


@cache
def facts(task: str) -> dict[str, Any]:
    """What the fixture holds."""
    found: dict[str, Any] = json.loads((FOLDER / f"{task}.json").read_text())
    return found


def question(task: str) -> Question:
    """Channels with the kinds that their names tell, and labels."""
    from autoseg.layouts.kinds import kinds_of

    names = facts(task)["channels"]
    channels = [Channel(name=name, kind=kind) for name, kind in zip(names, kinds_of(names), strict=True)]
    return Question(reader="nifti", channels=tuple(channels), files=len(names), labels=facts(task)["labels"])


def fingerprint(task: str) -> Fingerprint:
    """The cases; what was measured of the intensities is the same in each, as only their pool was published."""
    found = facts(task)
    intensities = tuple(map(_intensity, found["intensities"]))
    cases = {}
    for number, (shape, spacing) in enumerate(zip(found["shapes"], found["spacings"], strict=True)):
        whole = (max(1, round(shape[0] / found["kept"])), *shape[1:])
        cases[f"{number:03d}"] = CaseFacts(
            sha256=f"{number:03d}", shape=whole, cropped=tuple(shape), spacing=tuple(spacing),
            valid=intensities, foreground=intensities,
        )  # fmt: skip
    return Fingerprint(question="published", flat=False, cases=cases)


def _intensity(found: dict[str, float]) -> Intensity:
    quantiles = np.interp(LEVELS, list(POINTS), [found[name] for name in POINTS.values()])
    return Intensity(mean=found["mean"], sd=found["std"], quantiles=tuple(float(q) for q in quantiles))


def plan(task: str, rules: Rules = "default", target: Target = GPU) -> Plan:
    """What the planner makes of it for a GPU of 8 GB."""
    ids = ("published", "published")
    made = planning.make(fingerprint(task), question(task), target, task=task, name="default", ids=ids, rules=rules)
    return planning.schedule_for(made, {})
