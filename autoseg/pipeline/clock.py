"""How fast this machine trains, and in how much memory: measured in a few steps on random images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from autoseg.errors import AutosegError, BadPlan
from autoseg.pipeline.voice import Voice
from autoseg.records import Configuration, Memory, Plan, Question, Target
from autoseg.steps import design, preprocess
from autoseg.steps.limits import rate_of, rounded_rate
from autoseg.steps.topology import Topology, elements
from autoseg.store import Home

TRIES = 6
SHARED = 0.7  # of the processors' time: below it something else runs on them


@dataclass
class Clock:
    """Seconds of training steps on a device of this machine; each kind of step is measured once.

    `busy` is set when something else was seen to run on the CPU: the seconds are then those of our own work.
    """

    device: str
    known: dict[str, float] = field(default_factory=dict)
    busy: bool = False

    def seconds(self, one: Configuration, question: Question) -> float:
        """Of one step of the configuration."""
        channels = preprocess.inputs(one.normalise, question, one.previous)
        said = one.model_dump(mode="json", include={"network", "patch", "batch"})
        key = json.dumps([said, channels, one.train.loss, one.train.optimiser.text])
        if key not in self.known:
            self.known[key] = round(self._measured(one, question), 4)
        return self.known[key]

    def _measured(self, one: Configuration, question: Question) -> float:
        from autoseg.steps import device as devices
        from autoseg.steps import speed

        device = devices.choose(self.device)
        found = speed.speed_of(one, question, device, devices.precision(device, one.train.precision))
        if device.type != "cpu" or found.share >= SHARED:
            return found.seconds
        self.busy = True
        return found.seconds * found.share

    @property
    def name(self) -> str:
        """What the GPU is called."""
        import torch

        from autoseg.steps import device as devices

        return torch.cuda.get_device_name(devices.choose(self.device))

    def bytes(self, one: Configuration, question: Question) -> int:
        """That a few steps of the configuration take; more than there is where they run out."""
        from autoseg.steps import device as devices
        from autoseg.steps import memory

        device = devices.choose(self.device)
        return memory.measured(one, question, device, devices.precision(device, one.train.precision))

    def speeds(self, plan: Plan, voice: Voice) -> dict[str, float]:
        """Of every configuration of a plan. A cascade's step is taken to last as long as that of `3d`."""
        titles = [title for title, one in plan.configurations.items() if one.previous is None]
        listed = voice.track(titles, len(titles), "measuring speed")
        found = {title: self.seconds(plan.configurations[title], plan.question) for title in listed}
        return found | ({"3d_cascade": found["3d"]} if "3d_cascade" in plan.configurations else {})


def with_pace(home: Home, task: str, name: str, target: Target, voice: Voice) -> Target:
    """The target with the speeds that the task's first plan found, and for a variant that plan's time.

    Every variant of a task is so planned alike, and keeps the same patch.
    """
    try:
        first = home.plan(task, "default").target
    except AutosegError:  # none yet, or one that this version cannot read
        return target
    if (first.device, first.threads) != (target.device, target.threads):
        return target
    minutes = target.minutes
    if minutes is None and first.minutes is not None and name != "default":
        minutes = first.minutes
        voice.say(f"planning for {minutes:g} minutes a fold, as the plan default does")
    return target.model_copy(update={"rates": first.rates, "minutes": minutes})


def measured_rates(draft: Plan, clock: Clock, voice: Voice) -> Target:
    """The draft's target with what a step of the plain U-Net works off per second, measured on this machine."""
    rates = {}
    for one in (draft.configurations[title] for title in ("2d", "3d") if title in draft.configurations):
        network = one.network
        made = Topology(one.patch, network.strides, network.kernels, network.features, one.batch)
        worked = elements(made, len(draft.question.outputs)) * one.batch
        rates[str(one.dims)] = rounded_rate(worked / clock.seconds(one, draft.question), one.dims)
    if clock.busy:
        voice.say("something else runs on this machine: speeds are estimates, and the plan assumes usual ones")
        return draft.target
    if any(rates[dims] != rate_of(draft.target, int(dims)) for dims in rates):
        shown = ", ".join(f"{rate / 1e6:.0f} M ({dims}D)" for dims, rate in rates.items())
        voice.say(f"this machine trains {shown} feature-map elements per second; planning for that")
    return draft.target.model_copy(update={"rates": rates})


def tried(
    make: Callable[[Target], Plan],
    target: Target,
    measure: Callable[[Configuration, Question], int],
    told: str,
    voice: Voice,
) -> Plan:
    """The plan whose training steps were taken and fit the target; the memory in it is what they took.

    What takes more is planned again for as much less memory, at most TRIES times.

    Args:
        measure: bytes that a few steps of a configuration take; more than there is where they run out.
        told: the method that the plan names.
    Raises: BadPlan when nothing was found that fits.
    """
    allowed, room = design.SAFE_MEASURED * target.memory, float(target.memory)
    for _ in range(TRIES):
        plan = make(target.model_copy(update={"memory": int(room)}))
        taken = {
            title: measure(one, plan.question) for title, one in plan.configurations.items() if one.previous is None
        }
        if max(taken.values()) <= allowed:
            sized = {
                title: one.model_copy(update={"memory": Memory(bytes=taken[title], method=told)})
                for title, one in plan.configurations.items()
                if title in taken
            }
            return plan.model_copy(update={"configurations": {**plan.configurations, **sized}, "target": target})
        room *= allowed / max(taken.values())
        voice.say(f"a training step took {max(taken.values()) / 1e9:.1f} GB; planning for less")
    raise BadPlan(
        "no training step was found that fits", where="--memory", expected=f"{target.memory / 1e9:.1f} GB",
        remedy="give less memory, so that the plan leaves more room",
    )  # fmt: skip
