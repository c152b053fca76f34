"""Weights of another run: what fits is taken, channels and classes are adapted, frozen weights stay."""

from __future__ import annotations

import pytest
import torch

from autoseg.errors import BadUsage
from autoseg.nets import survey
from autoseg.records import Insert, Network, Part
from autoseg.steps.finetune import encoder_of, transfer
from tests.steps.test_train import learner, run

PATCH = (16, 16)
NAMES = ("background", "a", "b")


def made(seed: int, channels: int = 2, outputs: int = 3, features=(4, 8), architecture: str = "unet"):
    torch.manual_seed(seed)
    network = Network.plain(features, ((1, 1), (2, 2)), architecture=Part(name=architecture))
    return survey.build(network, channels, outputs, PATCH)


@pytest.mark.parametrize("architecture", ["unet", "resenc", "unetpp"])
def test_the_same_network_takes_all_and_answers_the_same(architecture: str) -> None:
    first, second = made(0, architecture=architecture), made(1, architecture=architecture)
    found = transfer(second, first.state_dict(), (2, 2, 2), (NAMES, NAMES))
    assert not (found.adapted or found.left or found.unused) and "tensors taken" in found.told
    x = torch.randn(1, 2, *PATCH)
    assert torch.equal(first.eval()(x)[0], second.eval()(x)[0])


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_see_an_even_image_as_before(channels: int) -> None:
    first, second = made(0), made(1, channels=channels)
    found = transfer(second, first.state_dict(), (2, channels, channels), (NAMES, NAMES))
    assert len(found.adapted) == 1 and not found.left
    even = torch.randn(1, 1, *PATCH)
    answers = [net.eval()(even.expand(1, n, -1, -1))[0] for net, n in ((first, 2), (second, channels))]
    assert torch.allclose(*answers, atol=1e-5)


def test_channels_of_an_earlier_stage_begin_with_nothing_and_the_images_as_they_were() -> None:
    first, second = made(0), made(1, channels=5)
    found = transfer(second, first.state_dict(), (2, 5, 2), (NAMES, NAMES))
    assert len(found.adapted) == 1 and not found.left
    image, earlier = torch.randn(1, 2, *PATCH), torch.randn(1, 3, *PATCH)
    answers = first.eval()(image)[0], second.eval()(torch.cat([image, earlier], 1))[0]
    assert torch.allclose(*answers, atol=1e-5)


def test_vectors_of_raters_are_kept_by_the_raters_names() -> None:
    def rated(seed: int, count: int):
        torch.manual_seed(seed)
        insert = Insert(part=Part(name="rater", options={"raters": count}), place="head")
        built = survey.build(Network.plain((4, 8), ((1, 1), (2, 2)), inserts=(insert,)), 2, 3, PATCH)
        for name, value in built.named_parameters():
            if name.endswith("vectors"):
                torch.nn.init.normal_(value)
        return built, next(name for name in built.state_dict() if name.endswith("vectors"))

    (first, name), (second, _), (fresh, _) = rated(0, 2), rated(1, 3), rated(1, 3)
    found = transfer(second, first.state_dict(), (2, 2, 2), (NAMES, NAMES), (("ann", "bo"), ("bo", "cy", "di")))
    assert found.adapted == (name,)
    had, now, new = (net.state_dict()[name] for net in (first, second, fresh))
    assert torch.equal(now[0], had[1]) and torch.equal(now[1:], new[1:])
    (third, _), (strange, _) = rated(2, 3), rated(3, 3)
    kept = third.state_dict()[name].clone()
    found = transfer(
        third, strange.state_dict(), (2, 2, 2), (("x", "y", "z"), ("a", "b", "c")), (("ann",) * 3, ("e",) * 3)
    )
    assert name in found.left and torch.equal(third.state_dict()[name], kept)


def test_heads_keep_the_classes_of_the_same_name() -> None:
    first, second = made(0), made(1, outputs=4)
    fresh = made(1, outputs=4)
    found = transfer(
        second, first.state_dict(), (2, 2, 2), (("background", "liver", "spleen"), ("background", "spleen", "x", "y"))
    )
    assert all(name.startswith("heads.") for name in found.adapted) and not found.left
    name = found.adapted[0]
    had, now, new = (net.state_dict()[name] for net in (first, second, fresh))
    assert torch.equal(now[:2], had[[0, 2]]) and torch.equal(now[2:], new[2:])


def test_as_many_other_classes_are_not_the_same_heads() -> None:
    first, second = made(0, outputs=1), made(1, outputs=1)
    found = transfer(second, first.state_dict(), (2, 2, 2), (("tumour",), ("vessel",)))
    assert found.left and all(name.startswith("heads.") for name in found.left)


def test_wider_stages_are_left_and_nothing_that_fits_is_an_error() -> None:
    wide, fresh = made(1, features=(8, 8)), made(1, features=(8, 8))
    found = transfer(wide, made(0).state_dict(), (2, 2, 2), (NAMES, NAMES))
    assert found.taken and found.left and not found.adapted and "left fresh" in found.told
    assert all(torch.equal(wide.state_dict()[name], fresh.state_dict()[name]) for name in found.left)
    with pytest.raises(BadUsage, match="no tensor of the model fits"):
        transfer(made(0), {"something": torch.ones(3)}, (2, 2, 2), (("a",), NAMES))


def test_frozen_weights_stay_until_their_step_and_the_others_learn() -> None:
    one = learner()
    one.frozen, one.frozen_until = encoder_of(one.network), 4
    before = [p.detach().clone() for p in one.network.parameters()]
    frozen = {id(p) for p in one.frozen}
    run(one, 4)
    still = [torch.equal(p, was) for p, was in zip(one.network.parameters(), before, strict=True)]
    assert still == [id(p) in frozen for p in one.network.parameters()] and any(still) and not all(still)
    run(one, 6)
    assert not any(torch.equal(p, was) for p, was in zip(one.network.parameters(), before, strict=True) if was.ndim > 1)


def test_an_architecture_that_does_not_say_its_encoder_is_told() -> None:
    with pytest.raises(BadUsage, match="--freeze"):
        encoder_of(torch.nn.Conv2d(1, 1, 1))
