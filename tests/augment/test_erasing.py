"""Hiding: exactly what was drawn, never everything, and nothing beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.augment.erasing import ChannelDropout, Cutout, within
from autoseg.errors import BadPlan
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Part

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10**6)


@few
@given(seeds, st.sampled_from([(9, 7), (1, 8), (5, 6, 7)]))
def test_cutout_zeroes_exactly_its_boxes(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    part = Cutout(len(shape), probability=1.0, count=2, size=(0.2, 0.6))
    plan = [part.draw(rng, 2) for _ in range(3)]
    images = 1 + torch.rand(3, 2, *shape)
    out = part.act(images, [one for one in plan if one is not None])
    for one, before, after in zip(plan, images, out, strict=True):
        assert one is not None and 1 <= len(one["boxes"]) <= 2
        hidden = torch.zeros(shape, dtype=torch.bool)
        for box in one["boxes"]:
            hidden[within(box, shape)] = True
        assert torch.equal(after, torch.where(hidden, 0.0, before))


@few
@given(seeds, st.sampled_from([(10, 30), (1, 8), (5, 6, 7)]))
def test_boxes_lie_inside_and_have_the_size_that_is_asked(seed: int, shape: tuple[int, ...]) -> None:
    drawn = Cutout(len(shape), probability=1.0, size=(0.1, 0.5)).draw(np.random.default_rng(seed), 1)
    assert drawn is not None
    for box in drawn["boxes"]:
        for edge, size in zip(within(box, shape), shape, strict=True):
            assert 0 <= edge.start < edge.stop <= size
            assert edge.stop - edge.start <= max(1, size / 2)


def test_boxes_reach_both_ends() -> None:
    assert within([[0.0, 0.5], [1.0, 0.25]], (8, 8)) == (slice(0, 4), slice(6, 8))
    assert within([[0.9, 0.0], [0.5, 1.0]], (1, 8)) == (slice(0, 1), slice(0, 8))


@few
@given(seeds, st.integers(2, 5), st.floats(0.05, 0.99))
def test_dropout_zeroes_whole_channels_and_never_all(seed: int, channels: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    part = ChannelDropout(2, probability=1.0, share=share)
    images = 1 + torch.rand(1, channels, 3, 4)
    for drawn in filter(None, (part.draw(rng, channels) for _ in range(20))):
        assert 0 < len(drawn["lost"]) < channels
        out = part.act(images, [drawn])[0]
        for channel in range(channels):
            expected = images[0, channel] * (channel not in drawn["lost"])
            assert torch.equal(out[channel], expected)


def test_channels_are_lost_as_often_as_the_share_says_and_each_may_be_spared() -> None:
    rng = np.random.default_rng(0)
    part = ChannelDropout(2, probability=1.0, share=0.3)
    lost = sum(len(drawn["lost"]) if (drawn := part.draw(rng, 20)) else 0 for _ in range(500))
    assert lost / (20 * 500) == pytest.approx(0.3, abs=0.02)
    mostly = ChannelDropout(2, probability=1.0, share=0.99)
    spared = [set(range(3)) - set((mostly.draw(rng, 3) or {"lost": []})["lost"]) for _ in range(60)]
    assert set().union(*(one for one in spared if len(one) == 1)) == {0, 1, 2}


def test_a_channel_that_is_alone_is_never_lost() -> None:
    rng = np.random.default_rng(0)
    part = ChannelDropout(2, probability=1.0, share=0.9)
    assert all(part.draw(rng, 1) is None for _ in range(20))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cutout", {"probability": -0.1}, "probability is -0.1"),
        ("cutout", {"count": 0}, "count is 0, not 1 or more boxes"),
        ("cutout", {"size": [0.2, 1.1]}, "size is"),
        ("cutout", {"size": [0.3, 0.2]}, "size is"),
        ("channel_dropout", {"share": 1.0}, "share is 1.0"),
        ("channel_dropout", {"share": 0.0}, "share is 0.0"),
        ("channel_dropout", {"probability": 2.0}, "probability is 2.0"),
        ("band_jitter", {"gain": [1.1, 1.3]}, "1, which changes nothing, is not within"),
        ("band_jitter", {"gain": [-0.5, 1.3]}, "gain is"),
        ("band_jitter", {"offset": -0.1}, "offset is -0.1"),
    ],
)
def test_impossible_values_are_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadPlan, match=told):
        AUGMENTATIONS.build(Part(name=name, options=options), dims=3)
