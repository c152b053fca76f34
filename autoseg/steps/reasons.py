"""Why a plan is what it is: the sentences for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoseg.records import Target
from autoseg.steps import design, topology
from autoseg.steps.design import Designed, Room, Variant
from autoseg.steps.limits import CPU_MINUTES, GIGABYTE, Rules, preset, steps_aimed

if TYPE_CHECKING:
    from autoseg.steps.plan import View


def size(here: str, view: View, room: Room, made: Designed, because: dict[str, str]) -> None:
    """Of patch, batch, width and stages."""
    limits, found = room.limits, made.found
    because[f"{here}.patch"] = (
        f"median image {view.size}; the largest patch of its proportions that keeps a step within "
        f"{limits.elements / 1e6:.0f} M feature-map elements"
    )
    plain = topology.fit(view.shape, view.spacing, room.weigh, limits, view.voxels)
    if (plain.patch, plain.batch) != (found.patch, found.batch):
        asked = f"{'×'.join(map(str, plain.patch))} by {plain.batch}"
        because[f"{here}.patch"] += f"; {asked} for the plain U-Net, changed for this network's memory or divisor"
    because[f"{here}.batch"] = f"what fits beside the patch, at most {limits.share:.0%} of the data set's voxels"
    because[f"{here}.network.features"] = f"{limits.base}, doubled per stage up to {limits.cap}"
    because[f"{here}.network.strides"] = f"axes are halved while they have {2 * topology.SMALLEST} voxels or more"


def network(here: str, asked: Variant, machine: Target, made: Designed, because: dict[str, str]) -> None:
    """Of what the user asked for."""
    if asked.architecture != design.PLAIN:
        because[f"{here}.network.architecture"] = "asked for"
    if asked.block is not None:
        because[f"{here}.network.block"] = "asked for"
    if asked.block and asked.block.name == "repvgg" and made.found.batch < design.LEAST_BATCH:
        because[f"{here}.network.block"] += (
            f"; its branches have batch norm, which wants {design.LEAST_BATCH} samples or more, and the batch has "
            f"{made.found.batch}"
        )
    if asked.architecture.name == "resenc" and machine.device != "cpu":
        because[f"{here}.network.architecture"] += f", sized as nnU-Net's preset {preset(machine)}"
    if asked.inserts:
        because[f"{here}.network.inserts"] = "asked for"


def target(machine: Target, rules: Rules) -> str:
    """Of the machine, and what it means for the plan."""
    memory = f"{machine.memory / GIGABYTE:.1f} GB"
    if rules == "nnunet":
        return f"{memory}: nnU-Net's rules, its limits scaled from 8 GB"
    if machine.device == "cpu":
        minutes = machine.minutes or CPU_MINUTES
        return (
            f"a CPU with {machine.threads} threads and {memory} free, {minutes:g} minutes a fold: "
            f"about {steps_aimed(minutes):,.0f} steps, as large as that leaves time for; "
            "plan again with --budget 2h for more time, with --device cuda --memory 8GB for a GPU"
        )
    return f"{machine.device} with {memory}: nnU-Net's rule, its limits scaled from 8 GB"


def spacing(here: str, view: View, because: dict[str, str]) -> None:
    """Of spacing and axes."""
    because[f"{here}.spacing"] = "median of the cases; a much coarser, shorter axis takes its 10th percentile"
    if view.axes != (0, 1, 2):
        because[f"{here}.axes"] = "slices are cut across the axis of the largest spacing"
