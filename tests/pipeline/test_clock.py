"""What is measured on this machine, with steps that are said to last or take so much."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import BadPlan
from autoseg.pipeline.clock import Clock, measured_rates, tried, with_pace
from autoseg.records import Configuration, Plan, Question, Target
from autoseg.steps.limits import CPU_RATE
from autoseg.store import Home, save_record
from tests.steps import decathlon

TASK = "Task04_Hippocampus"
CPU = Target(device="cpu", memory=16 * 10**9, threads=2)


class Said:
    """A voice that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Fixed(Clock):
    """A machine that trains so many times as fast as the one that the rates were taken from."""

    factor = 1.0

    def seconds(self, one: Configuration, question: Question) -> float:
        from autoseg.steps.topology import Topology, elements

        network = one.network
        found = Topology(one.patch, network.strides, network.kernels, network.features)
        return elements(found, len(question.outputs)) * one.batch / (CPU_RATE[one.dims] * self.factor)


def draft(target: Target = CPU) -> Plan:
    return decathlon.plan(TASK, target=target)


@pytest.mark.parametrize(("factor", "rounded"), [(1.0, 1.0), (1.1, 1.0), (0.9, 1.0), (2.0, 2.0), (4.4, 4.0)])
def test_the_speed_is_measured_in_coarse_steps(factor: float, rounded: float) -> None:
    clock, voice = Fixed("cpu"), Said()
    clock.factor = factor
    found = measured_rates(draft(), clock, voice)  # type: ignore[arg-type]
    assert found.rates == pytest.approx({"2": CPU_RATE[2] * rounded, "3": CPU_RATE[3] * rounded})
    assert bool(voice.lines) == (rounded != 1)


def test_variants_are_planned_at_the_speed_and_for_the_time_of_the_first_plan(tmp_path: Path) -> None:
    home, voice = Home(tmp_path), Said()
    assert with_pace(home, TASK, "wide", CPU, voice) == CPU  # type: ignore[arg-type]
    rates = {"2": 1e8, "3": 2e8}
    first = draft(CPU.model_copy(update={"rates": rates, "minutes": 30.0}))
    save_record(home.plan_file(TASK, "default"), first)
    found = with_pace(home, TASK, "wide", CPU, voice)  # type: ignore[arg-type]
    assert (found.rates, found.minutes) == (rates, 30.0) and "30 minutes" in voice.lines[0]
    again = with_pace(home, TASK, "default", CPU, voice)  # type: ignore[arg-type]
    assert (again.rates, again.minutes) == (rates, None)
    other = CPU.model_copy(update={"threads": 64})
    assert with_pace(home, TASK, "wide", other, voice) == other  # type: ignore[arg-type]


def test_a_plan_that_takes_more_than_the_estimate_is_made_again_for_less() -> None:
    def taken(one: Configuration, question: Question) -> int:
        return round(1.7 * one.memory.bytes)

    target, voice = decathlon.GPU, Said()
    free = draft(target)
    target = target.model_copy(
        update={"memory": round(1.2 * max(c.memory.bytes for c in free.configurations.values()))}
    )
    made = tried(draft, target, taken, "measured", voice)  # type: ignore[arg-type]
    assert made.target == target and voice.lines
    assert all(one.memory.bytes <= 0.95 * target.memory for one in made.configurations.values())
    assert {one.memory.method for one in made.configurations.values()} == {"measured"}
    assert made.configurations["2d"].batch < free.configurations["2d"].batch


def test_a_machine_on_which_nothing_fits_is_told() -> None:
    with pytest.raises(BadPlan, match="--memory"):
        tried(draft, decathlon.GPU, lambda one, question: 10**12, "measured", Said())  # type: ignore[arg-type]
