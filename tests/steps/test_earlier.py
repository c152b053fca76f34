"""An earlier stage's label on its way to channels, when a patch is predicted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.errors import BadPlan
from autoseg.image import IGNORE, Image
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train
from autoseg.steps.earlier import Earlier, as_channels, input_order
from autoseg.steps.predict import predict

CPU = torch.device("cpu")
HANDS = Question(
    reader="raster", channels=(Channel(name="a", kind="other"),),
    labels={"background": 0, "left": 40, "right": 200, "other": 210},
)  # fmt: skip
NESTED = HANDS.model_copy(update={"regions": {"hands": (40, 200), "right": (200,)}, "written": (40, 200)})


def configuration(*augment: Part, spacing: tuple[float, float] = (1.0, 1.0)) -> Configuration:
    train = Train(
        loss="ce", augment=augment, steps=9, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3
    )
    return Configuration(
        spacing=spacing, patch=(8, 8), batch=2, normalise=(Part(name="none"),), resample=Part(name="linear"),
        network=Network.plain((4,), ((1, 1),)), train=train, memory=Memory(bytes=1, method=""), previous="2d",
    )  # fmt: skip


def test_channels_are_one_hot_of_the_foreground_classes() -> None:
    labels = torch.tensor([[[0, 1, 2], [3, IGNORE, 1]]], dtype=torch.uint8)
    made = as_channels(labels, HANDS)
    assert made.dtype == torch.float32 and made.shape == (1, 3, 2, 3)
    for number in range(3):
        assert torch.equal(made[:, number], (labels == number + 1).float())


def test_channels_are_membership_of_regions() -> None:
    labels = torch.tensor([[0, 1, 2, 3, IGNORE]], dtype=torch.uint8)
    assert as_channels(labels, NESTED).tolist() == [[[0, 1, 1, 0, 0], [0, 0, 1, 0, 0]]]


def test_without_a_background_every_class_has_a_channel() -> None:
    ground = HANDS.model_copy(update={"labels": {"a": 1, "b": 2}})
    labels = torch.tensor([[0, 1, IGNORE]], dtype=torch.uint8)
    assert as_channels(labels, ground).tolist() == [[[1, 0, 0], [0, 1, 0]]]


def test_what_is_packed_comes_out_again() -> None:
    values = np.arange(256, dtype=np.uint8)
    label, earlier = np.repeat(values, 256), np.tile(values, 256)
    one = Earlier(HANDS, ())
    codes = one.packed(label, earlier)
    assert len(np.unique(codes)) == 256**2 and codes.max() == one.outside
    back = one.unpacked(torch.from_numpy(codes).float().round().to(torch.int32))  # as interpolation takes it
    assert np.array_equal(back[0], label) and np.array_equal(back[1], earlier)


# -- prediction ----------------------------------------------------------------------------------------


class Copy(nn.Module):
    """Answers the classes of the earlier label, and nothing of the image."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        given = x[:, 1:]
        return [torch.cat([1 - given.sum(1, keepdim=True), given], 1)]


def sample(shape: tuple[int, int] = (19, 26)) -> tuple[Image, np.ndarray]:
    rng = np.random.default_rng(0)
    values = np.array([0, 40, 200, 210], np.uint8)
    label = values[rng.integers(0, 4, (5, 7))].repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]]
    return Image(rng.normal(size=(1, *shape)).astype(np.float32), (1.0, 1.0)), label


@pytest.mark.parametrize("swap", [(), ([1, 2],)])
def test_a_network_that_copies_the_earlier_label_predicts_it(swap) -> None:
    options = {"swap": list(swap), "swap_axis": 1} if swap else {}
    settings = configuration(Part(name="mirror", options=options))
    image, label = sample()
    for mirror in (True, False):
        made = predict(image, [Copy()], settings, HANDS, CPU, "float32", mirror=mirror, before=label)
        assert np.array_equal(made, label)


def test_the_earlier_label_is_brought_to_the_grid_of_the_configuration() -> None:
    image, label = sample((20, 28))
    made = predict(image, [Copy()], configuration(spacing=(2.0, 2.0)), HANDS, CPU, "float32", before=label)
    assert made.shape == label.shape and (made == label).mean() > 0.85


def test_input_channels_change_places_as_the_outputs_do() -> None:
    assert input_order([0, 2, 1, 3], 2, HANDS) == [0, 1, 3, 2, 4]
    assert input_order([1, 0], 1, NESTED) == [0, 2, 1]
    with pytest.raises(BadPlan, match="exchanges the background"):
        input_order([1, 0, 2, 3], 1, HANDS)
