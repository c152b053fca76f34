"""Explanations: every field has a reason, sizes say what the next larger and smaller would cost."""

from __future__ import annotations

import pytest

from autoseg.errors import BadUsage
from autoseg.records import Plan, Target
from autoseg.steps.explain import explain
from tests.steps import decathlon

CPU = Target(device="cpu", memory=16 * 10**9, threads=2)


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = decathlon.plan("Task04_Hippocampus", target=CPU)
    return made.model_copy(update={"seconds_per_step": {"2d": 0.5, "3d": 0.25}})


def test_a_field_is_found_by_the_end_of_its_path(plan: Plan) -> None:
    (short,), (whole,) = explain(plan, "3d.patch"), explain(plan, "configurations.3d.patch")
    assert short == whole and short.reason == plan.because["configurations.3d.patch"]
    assert [one.field for one in explain(plan, "patch")] == ["configurations.2d.patch", "configurations.3d.patch"]


@pytest.mark.parametrize("field", ["patch", "batch", "network.features"])
def test_larger_costs_more_and_smaller_less(plan: Plan, field: str) -> None:
    (found,) = explain(plan, f"3d.{field}")
    smaller, same, larger = found.choices
    assert same.memory == plan.configurations["3d"].memory.bytes and same.seconds == pytest.approx(0.25)
    assert smaller.memory < same.memory < larger.memory
    assert smaller.seconds < same.seconds < larger.seconds and smaller.hours < same.hours < larger.hours


def test_twice_the_steps_take_twice_the_time_and_no_more_memory(plan: Plan) -> None:
    half, same, twice = explain(plan, "3d.train.steps")[0].choices
    assert twice.hours == pytest.approx(2 * same.hours) == pytest.approx(4 * half.hours)
    assert half.memory == same.memory == twice.memory


def test_what_was_not_measured_is_not_guessed(plan: Plan) -> None:
    unmeasured = plan.model_copy(update={"seconds_per_step": {}})
    assert all(choice.seconds is None for choice in explain(unmeasured, "3d.batch")[0].choices)


def test_what_the_target_cannot_hold_says_so(plan: Plan) -> None:
    tight = plan.target.model_copy(update={"memory": plan.configurations["3d"].memory.bytes})
    larger = explain(plan.model_copy(update={"target": tight}), "3d.batch")[0].choices[-1]
    assert larger.problem == "more than the target has"


@pytest.mark.parametrize(
    "field", ["normalise.0", "3d.normalise.0.name", "3d.train.loss", "target", "3d.network.strides"]
)
def test_every_decision_has_its_reason(plan: Plan, field: str) -> None:
    assert all(one.reason for one in explain(plan, field))


def test_a_misspelt_field_names_its_nearest(plan: Plan) -> None:
    with pytest.raises(BadUsage, match=r"no field '3d.pach'.*3d.patch"):
        explain(plan, "3d.pach")
