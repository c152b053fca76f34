"""Sliding windows: covering, weighting, mirroring, and the image's own grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg.errors import BadPlan
from autoseg.image import Image
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train
from autoseg.steps.predict import predict, predict_logits
from autoseg.steps.tiling import Flips, gaussian, mean_logits, mirror_axes, output_orders, tiles

CPU = torch.device("cpu")
QUESTION = Question(reader="raster", channels=(Channel(name="a", kind="other"),), labels={"background": 0, "a": 200})


class Threshold(nn.Module):
    """Class 1 where the input is positive: a network that sees one voxel at a time."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat([-x, x], 1)]


class Gradient(nn.Module):
    """Answers the position within its window along the last axis: not the same when mirrored."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        ramp = torch.arange(x.shape[-1], dtype=x.dtype).expand_as(x)
        return [torch.cat([ramp, -ramp], 1)]


def configuration(patch=(8, 8), mirror: tuple[int, ...] | None = None) -> Configuration:
    dims = len(patch)
    network = Network.plain((4,), ((1,) * dims,))
    augment = () if mirror is None else (Part(name="mirror", options={"axes": list(mirror)}),)
    train = Train(
        loss="ce", augment=augment, steps=9, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3
    )
    return Configuration(
        spacing=(1.0,) * dims, patch=patch, batch=3, normalise=(Part(name="none"),), resample=Part(name="spline"),
        network=network, train=train, memory=Memory(bytes=1, method=""),
    )  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(st.integers(8, 60), min_size=3, max_size=3),
    st.lists(st.integers(1, 8), min_size=3, max_size=3),
    st.floats(0.1, 1),
)
def test_tiles_cover_everything_and_lie_inside(shape: list[int], patch: list[int], step: float) -> None:
    covered = np.zeros(shape, bool)
    for start in tiles(shape, patch, step):
        assert all(s >= 0 and s + p <= n for s, p, n in zip(start, patch, shape, strict=True))
        covered[tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))] = True
    assert covered.all()


def test_tiles_are_nnunets() -> None:
    assert [z for z, *_ in tiles((110, 64, 64), (64, 64, 64), 0.5)] == [0, 23, 46]
    assert tiles((8, 8, 8), (8, 8, 8), 0.5) == [(0, 0, 0)]


def test_the_gaussian_is_symmetric_and_never_zero() -> None:
    bell = gaussian((8, 9, 16))
    assert torch.equal(bell, bell.flip([0, 1, 2])) and bell.max() == 1 and bell.min() > 1e-12


@pytest.mark.parametrize("shape", [(1, 20, 31), (6, 5, 9)])
@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
def test_where_all_tiles_agree_the_stitched_logits_are_the_networks(shape, patch) -> None:
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    logits = predict_logits(array, [Threshold()], configuration(patch), 2, CPU, "float32", 0.5)
    assert torch.allclose(logits[1], torch.from_numpy(array[0]), atol=1e-5)


def test_mirroring_averages_over_all_flips() -> None:
    window = torch.randn(2, 1, 4, 6)
    plain = Gradient()(window)[0]
    assert torch.equal(mean_logits([Gradient()], window, Flips()), plain)
    mirrored = mean_logits([Gradient()], window, Flips((0, 1)))
    assert torch.allclose(mirrored, (plain + plain.flip(3)) / 2)


def test_several_networks_are_averaged() -> None:
    window = torch.randn(2, 1, 4, 6)
    both = mean_logits([Threshold(), Gradient()], window, Flips())
    assert torch.allclose(both, (Threshold()(window)[0] + Gradient()(window)[0]) / 2)


def test_only_axes_that_were_mirrored_in_training_are_mirrored() -> None:
    assert mirror_axes(configuration()) == ()
    assert mirror_axes(configuration(mirror=(1,))) == (1,)


class Sides(nn.Module):
    """Class 1 left and class 2 right of a window's middle, where the input is positive: mirrored, they exchange."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        ramp = (torch.arange(x.shape[-1], dtype=x.dtype) - (x.shape[-1] - 1) / 2).expand_as(x)
        return [torch.cat([-x, x - ramp, x + ramp], 1)]


def swapping(*pairs: list[int], axes: tuple[int, ...] = (0, 1)) -> Configuration:
    mirror = Part(name="mirror", options={"axes": list(axes), "swap": list(pairs), "swap_axis": 1})
    made = configuration()
    return made.model_copy(update={"train": made.train.model_copy(update={"augment": (mirror,)})})


HANDS = Question(
    reader="raster", channels=QUESTION.channels, labels={"background": 0, "left": 40, "right": 200, "other": 210}
)


def test_what_exchanges_classes_when_mirrored_predicts_the_same_with_and_without_mirroring() -> None:
    window = torch.randn(2, 1, 4, 6)
    plain = Sides()(window)[0]
    assert torch.allclose(mean_logits([Sides()], window, Flips((0, 1), {1: [0, 2, 1]})), plain, atol=1e-6)
    assert not torch.allclose(mean_logits([Sides()], window, Flips((0, 1))), plain, atol=0.1)
    image = Image(np.random.default_rng(0).normal(size=(1, 20, 31)).astype(np.float32), (1.0, 1.0))
    question = Question(reader="raster", channels=QUESTION.channels, labels={"background": 0, "left": 40, "right": 200})
    settings = swapping([1, 2])
    with_flips, without = (
        predict(image, [Sides()], settings, question, CPU, "float32", mirror=mirror) for mirror in (True, False)
    )
    assert np.array_equal(with_flips, without) and set(np.unique(without)) == {0, 40, 200}


def test_the_outputs_of_exchanged_classes_change_places_and_regions_with_them() -> None:
    assert output_orders(configuration(mirror=(1,)), HANDS) == {}
    assert output_orders(swapping([1, 2]), HANDS) == {1: [0, 2, 1, 3]}
    regions = {"hands": (40, 200), "a": (200,), "b": (40,), "far": (210,)}
    nested = HANDS.model_copy(update={"regions": regions, "written": (40, 200, 40, 210)})
    assert output_orders(swapping([1, 2]), nested) == {1: [0, 2, 1, 3]}


@pytest.mark.parametrize("pair", [[1, 4], [7, 8]])
def test_an_exchange_of_classes_that_are_not_there_is_refused(pair: list[int]) -> None:
    with pytest.raises(BadPlan, match=r"mirror exchanges .*; expected indices below 4"):
        output_orders(swapping(pair), HANDS)


def test_an_exchange_of_half_a_region_is_refused() -> None:
    nested = HANDS.model_copy(update={"regions": {"left": (40,), "others": (200, 210)}, "written": (40, 200)})
    with pytest.raises(BadPlan, match="turn each of left, others into one"):
        output_orders(swapping([1, 2]), nested)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 2.0)])
def test_the_prediction_lies_on_the_images_grid_in_the_tasks_values(spacing) -> None:
    image = -np.ones((1, 12, 20, 16), np.float32)
    image[0, 2:10, 4:16, 4:12] = 1
    label = predict(
        Image(image, spacing), [Threshold()], configuration((8, 8, 8)), QUESTION, CPU, "float32", mirror=False
    )
    assert label.shape == (12, 20, 16) and set(np.unique(label)) == {0, 200}
    assert ((label == 200) == (image[0] > 0)).mean() > (0.999 if spacing == (1.0, 1.0, 1.0) else 0.9)


class Rings(nn.Module):
    """Nested regions of the input: above 0, above 1, above 2."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat([x, x - 1, x - 2], 1)]


def test_regions_are_written_over_each_other_in_the_tasks_values() -> None:
    question = Question(
        reader="raster", channels=QUESTION.channels, labels={"background": 0, "edge": 40, "ring": 200, "dot": 7},
        regions={"all": (40, 200, 7), "inner": (200, 7), "dot": (7,)}, written=(40, 200, 7),
    )  # fmt: skip
    image = np.full((1, 20, 20), -1, np.float32)
    for inset, height in ((2, 0.5), (5, 1.5), (8, 2.5)):
        image[0, inset:-inset, inset:-inset] = height
    label = predict(Image(image, (1.0, 1.0)), [Rings()], configuration(), question, CPU, "float32", mirror=False)
    expected = np.select([image[0] > 2, image[0] > 1, image[0] > 0], [7, 200, 40], 0)
    assert label.dtype == np.uint8 and np.array_equal(label, expected)


def test_one_pixel_is_predicted() -> None:
    label = predict(
        Image(np.ones((1, 1, 1), np.uint8), (1.0, 1.0)), [Threshold()], configuration(), QUESTION, CPU, "float32"
    )
    assert label.tolist() == [[200]]
