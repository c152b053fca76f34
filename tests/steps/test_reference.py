"""The reference plans: the planner still gives them, and by nnU-Net's rules it gives nnU-Net's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.records import Plan, parse
from tests.steps import decathlon

REFERENCE = Path(__file__).resolve().parents[2] / "plans" / "reference"
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore"}
each = pytest.mark.parametrize("task", decathlon.TASKS)


def test_all_ten_are_here() -> None:
    assert len(decathlon.TASKS) == 10 == len(list(REFERENCE.glob("*.json")))


@each
def test_nnunets_rules_give_nnunets_plan(task: str) -> None:
    made, wanted = decathlon.plan(task, "nnunet"), decathlon.facts(task)["nnunet"]
    assert {*made.configurations} - {"3d_cascade"} == {*wanted}
    assert ("3d_cascade" in made.configurations) == decathlon.facts(task)["cascade"]
    for title, theirs in wanted.items():
        ours = made.configurations[title]
        assert ours.spacing == pytest.approx(theirs["spacing"], rel=1e-5)
        assert [*ours.patch] == theirs["patch"] and ours.batch == theirs["batch"]
        assert np.array_equal(ours.network.strides, theirs["strides"])
        assert np.array_equal(ours.network.kernels, theirs["kernels"])
        assert [*ours.network.features] == theirs["features"]
        assert [part.name for part in ours.normalise] == [SCHEMES[name] for name in theirs["normalise"]]
        assert [part.options.get("masked", False) for part in ours.normalise] == theirs["masked"]


@each
def test_the_planner_still_gives_the_reference_plan(task: str) -> None:
    stored = parse(Plan, (REFERENCE / f"{task}.json").read_text(encoding="utf-8"), task)
    made = decathlon.plan(task)
    assert without_memory(made) == without_memory(stored)
    for title, one in made.configurations.items():  # what torch takes may change a little with its version
        assert one.memory.bytes == pytest.approx(stored.configurations[title].memory.bytes, rel=0.1)


def without_memory(plan: Plan) -> Plan:
    free = {t: one.model_copy(update={"memory": None}) for t, one in plan.configurations.items()}
    return plan.model_copy(update={"configurations": free})
