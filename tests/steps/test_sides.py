"""Left and right: which classes are exchanged by which flip."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.errors import BadPlan, BadUsage
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Channel, Configuration, Memory, Network, Part, Plan, Question, Target, Train
from autoseg.steps.sides import exchanged, likely, parsed

LABELS = {"background": 0, "left hip": 3, "right hip": 7, "spine": 9}
HIPS = Question(reader="nifti", channels=(Channel(name="a", kind="ct"),), labels=LABELS)


def configuration(dims: int, axes=(0, 1, 2), mirrored=None) -> Configuration:
    parts = (Part(name="noise"), Part(name="mirror", options=mirrored or {}))
    settings = Train(
        loss="ce", augment=parts, steps=9, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3
    )
    return Configuration(
        spacing=(1.0,) * dims, axes=axes, patch=(8,) * dims, batch=2, normalise=(Part(name="ct"),),
        resample=Part(name="keep"), network=Network.plain((2,), ((1,) * dims,)), train=settings,
        memory=Memory(bytes=1, method=""),
    )  # fmt: skip


def plan(question: Question = HIPS, **configurations: Configuration) -> Plan:
    return Plan(
        task="Task01_Hips", name="default", fingerprint="", folds="", target=Target(device="cpu", memory=1),
        question=question, configurations=configurations,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "axes", "expected"),
    [
        (3, (0, 1, 2), 2),
        (3, (2, 0, 1), 0),
        (3, (1, 2, 0), 1),
        (2, (0, 1, 2), 1),
        (2, (1, 2, 0), 0),
        (2, (2, 0, 1), None),
    ],
)
def test_the_flip_that_exchanges_is_along_the_images_last_axis_wherever_the_patch_has_it(dims, axes, expected) -> None:
    made = exchanged(plan(one=configuration(dims, axes)), [("left hip", "right hip")])
    mirror = AUGMENTATIONS.build(made.configurations["one"].train.augment[1], dims=dims)
    assert mirror.swap_axis == expected and mirror.swap == (((1, 2),) if expected is not None else ())
    assert ("left hip=right hip" in made.because.get("configurations.one.train.augment", "")) == (expected is not None)
    assert made.configurations["one"].train.augment[0] == Part(name="noise")


def test_a_plan_without_mirrors_or_with_other_axes_is_refused() -> None:
    one = configuration(3)
    still = one.model_copy(update={"train": one.train.model_copy(update={"augment": ()})})
    with pytest.raises(BadUsage, match="3d mirrors nothing"):
        exchanged(plan(**{"3d": still}), [("left hip", "right hip")])
    with pytest.raises(BadPlan, match="swap_axis 2 is not among"):
        exchanged(plan(one=configuration(3, mirrored={"axes": [0]})), [("left hip", "right hip")])


def test_half_of_a_region_cannot_be_exchanged() -> None:
    regions = {"bones": (3, 7, 9), "left": (3,)}
    question = HIPS.model_copy(update={"regions": regions, "written": (9, 3)})
    with pytest.raises(BadPlan, match="mirror exchanges"):
        exchanged(plan(question, one=configuration(3)), [("left hip", "right hip")])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["left hip"], "'left hip' is no pair"),
        (["spine=spine"], "is no pair"),
        (["left hop=right hip"], r"no class 'left hop' \(did you mean left hip\?\)"),
        (["left hip=right hip", "right hip=spine"], "'right hip' stands in two pairs"),
    ],
)
def test_what_spells_no_pairs_is_refused(texts, said) -> None:
    with pytest.raises(BadUsage, match=said):
        parsed(texts, HIPS)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("background", "left hip", "right hip", "spine"), [("left hip", "right hip")]),
        (("kidney_R", "kidney_L"), [("kidney_L", "kidney_R")]),
        (("LeftLung", "RightLung", "liver"), [("LeftLung", "RightLung")]),
        (("cleft", "skull", "lesion"), []),
        (("left hip", "spine"), []),
    ],
)
def test_names_that_differ_in_left_and_right_alone_are_found(classes, expected) -> None:
    assert likely(classes) == expected


def test_no_way_of_moving_a_patch_both_exchanges_the_classes_and_does_not() -> None:
    """Flips, turns and rotations of a flat plan: the same exact matrix always has the same classes."""
    one = configuration(2, mirrored={})
    parts = (Part(name="affine", options={"degrees": 180.0}), Part(name="turns"), *one.train.augment)
    wild = one.model_copy(update={"train": one.train.model_copy(update={"augment": parts})})
    augment = exchanged(plan(one=wild), [("left hip", "right hip")]).configurations["one"].train.augment
    assert [part.name for part in augment] == ["affine", "noise", "mirror"]
    assert augment[0].options["degrees"] == 90.0
    mirror, rng = AUGMENTATIONS.build(augment[2], dims=2), np.random.default_rng(0)
    met: dict[bytes, set[bool]] = {}
    for _ in range(200):
        matrix = mirror.matrix(rng, (8, 8))
        met.setdefault(matrix.tobytes(), set()).add(bool(mirror.exchanged(matrix)))
    assert len(met) == 4 and all(len(swapped) == 1 for swapped in met.values())


def test_the_background_has_no_other_side() -> None:
    with pytest.raises(BadUsage, match="'background' is the background"):
        parsed(["background=spine"], HIPS)
