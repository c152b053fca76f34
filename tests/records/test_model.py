"""What a model says of itself has to go together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autoseg.records import Member, PackedModel, alike
from tests.store.test_archive import QUESTION, settings


def member(number: int = 0, **fields: Any) -> Member:
    made = Member(
        configuration="2d", fold=number, seed=0, settings=settings(), steps=1, precision="float32",
        weights=f"weights_{number:03d}.safetensors", size=1, sha256="0" * 64,
    )  # fmt: skip
    return made.model_copy(update=fields)


def model(*members: Member, **fields: Any) -> PackedModel:
    common = {
        "version": "0", "created": "2026-01-02", "task": "t", "plan": "p", "decisions": "d", "measured": "m",
        "question": QUESTION, "configurations": ("2d",), "members": members,
    }  # fmt: skip
    return PackedModel(**{**common, **fields})


def test_members_of_a_configuration_come_in_their_order() -> None:
    made = model(member(1), member(0), member(2, configuration="other"))
    assert [one.fold for one in made.members_of("2d")] == [1, 0]


def test_seeds_and_steps_may_differ_and_nothing_else() -> None:
    train = settings().train
    longer = settings(train=train.model_copy(update={"steps": 9, "seed": 4}))
    assert alike(longer) == alike(settings())
    assert len(model(member(0), member(1, settings=longer)).members) == 2
    with pytest.raises(ValidationError, match="trained with different plans"):
        model(member(0), member(1, settings=settings(batch=7)))


def test_a_cascade_needs_its_earlier_stage_in_the_model() -> None:
    later = member(1, configuration="fine", settings=settings(previous="2d"))
    assert model(member(0), later, configurations=("fine",)).configurations == ("fine",)
    with pytest.raises(ValidationError, match="fine goes on from 2d, of which there is no member"):
        model(later, configurations=("fine",))
    circle = member(0, settings=settings(previous="fine"))
    with pytest.raises(ValidationError, match="goes on from none"):
        model(circle, later, configurations=("fine",))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"weights": "../weights_000.safetensors"}, "cannot name a file"),
        ({"weights": "weights_000.safetensors\n"}, "cannot name a file"),
        ({"weights": "model.json"}, "cannot name a file"),
        ({"settings": settings(normalise=())}, "takes 0 of 1 channels"),
        ({"configuration": "3d"}, "no member is of the configuration '2d'"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        model(member(0, **fields))


def test_two_members_do_not_share_weights() -> None:
    with pytest.raises(ValidationError, match="same weights"):
        model(member(0), member(0, fold=1))
