"""How a configuration is trained: augmentation, optimiser, schedule."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.records import Part, Target, Train
from autoseg.steps import topology
from autoseg.steps.limits import Rules

GPU_STEPS = 100_000
NNUNET_STEPS = 250_000


def optimiser(target: Target, rules: Rules) -> Part:
    """AdamW for the few thousand steps of a CPU, else nnU-Net's SGD."""
    return Part(name="adamw" if target.device == "cpu" and rules == "default" else "sgd")


def train(here: str, patch: Sequence[int], target: Target, rules: Rules, flat: bool, because: dict[str, str]) -> Train:
    """The training of a configuration, nnU-Net's where the machine allows; its reasons go to `because`."""
    chosen = optimiser(target, rules)
    because[f"{here}.train.optimiser"] = (
        "AdamW gets further in the few thousand steps a CPU has time for"
        if chosen.name == "adamw"
        else "SGD as nnU-Net's"
    )
    return Train(
        loss="dice+ce",
        augment=augmentations(patch, flat, here, because),
        steps=GPU_STEPS,
        optimiser=chosen,
        schedule=Part(name="poly"),
        foreground=0.33,
    )


def augmentations(patch: Sequence[int], flat: bool, here: str, because: dict[str, str]) -> tuple[Part, ...]:
    """nnU-Net's augmentations; pictures and rasters also turn by 90°, anisotropic patches only within slices."""
    planar = len(patch) == 3 and max(patch) / min(patch) > topology.ANISOTROPY
    if planar:
        because[f"{here}.train.augment"] = "turned and scaled within slices only: the patch is 3 times wider than deep"
    free = len(patch) == 2 or planar
    aspect = max(patch[-2:]) / min(patch[-2:])
    degrees = 180.0 if free and aspect <= 1.5 else 15.0 if len(patch) == 2 else 30.0
    options: dict[str, object] = {"degrees": degrees, **({"planar": True} if planar else {})}
    low = {"planar": True} if planar else {}
    return (
        Part(name="affine", options=options),  # type: ignore[arg-type]
        *([Part(name="turns")] if flat else []),
        Part(name="mirror"),
        Part(name="noise"),
        Part(name="blur"),
        Part(name="brightness"),
        Part(name="contrast"),
        Part(name="low_resolution", options=low),  # type: ignore[arg-type]
        Part(name="gamma", options={"probability": 0.1, "invert": True}),
        Part(name="gamma", options={"probability": 0.3}),
    )


def mistakes(here: str, previous: str, because: dict[str, str]) -> tuple[Part, ...]:
    """What a cascade's training does to the label of its earlier stage, as nnU-Net's does."""
    field = f"{here}.train.augment"
    why = f"the label of {previous} is given with mistakes put in, so that it is not just copied"
    because[field] = f"{because[field]}; {why}" if field in because else why
    return Part(name="morphology"), Part(name="forget")
