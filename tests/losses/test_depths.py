"""The text form of a loss, regions made of classes, and deep supervision."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.losses import (
    as_regions,
    build,
    cross_entropy,
    depth_weights,
    each_depth,
    edge,
    over_depths,
    soft_dice,
    tversky,
    weighed_sum,
)
from autoseg.losses.targets import sized

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 10**6)
edges = st.integers(1, 9)


def example(seed: int, *size: int) -> tuple[Tensor, Tensor]:
    """Logits (2, 3, *size) and class indices."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, *size, generator=generator) * 3
    return logits, torch.randint(3, (2, *size), generator=generator, dtype=torch.uint8)


# -- the text form -------------------------------------------------------------------------------------


def test_a_text_is_a_weighted_sum() -> None:
    logits, target = example(0, 4, 4)
    dice, ce = soft_dice(1)(logits, target), cross_entropy(1)(logits, target)
    overlap = tversky(1, alpha=0.2, beta=0.9)(logits, target)
    for text, expected in {
        "ce": ce,
        "dice+ce": dice + ce,
        " 0.3 * dice + 2*ce ": 0.3 * dice + 2 * ce,
        "ce+ce": 2 * ce,
        "1e3*ce": 1000 * ce,
        "0.3*ce+0.7*tversky(alpha=0.2,beta=0.9)": 0.3 * ce + 0.7 * overlap,
        "dice( background = true ) + dice(over=sample)": soft_dice(0)(logits, target)
        + soft_dice(1, over="sample")(logits, target),
    }.items():
        assert torch.allclose(build(text, first=1)(logits, target), expected)


@pytest.mark.parametrize("text", ["", "+", "dice+", "-1*ce", "ce*2", "0.3*", "0*dice", "1e999*ce", "nan*ce"])
def test_what_is_no_weighted_sum_is_refused(text: str) -> None:
    with pytest.raises(BadPlan, match="is not a weighted sum"):
        build(text, first=1)


@pytest.mark.parametrize("text", ["dice ce", "dice-ce", "dice(2)", "dice(over=batch", "2 ce"])
def test_what_is_no_part_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(BadPlan) as told:
        build(f"ce+{text}", first=1)
    assert str(told.value).startswith(f"loss {f'ce+{text}'!r}: ")


def test_an_unknown_loss_or_option_is_named() -> None:
    with pytest.raises(BadPlan, match=r"unknown loss 'dicee' \(did you mean dice"):
        build("dicee+ce", first=1)
    with pytest.raises(BadPlan, match=r"loss 'tversky' has no option 'alfa' \(did you mean alpha\?\)"):
        build("ce+tversky(alfa=0.3)", first=1)


def test_the_weights_reach_the_losses_that_take_them() -> None:
    logits, target = example(1, 4, 4)
    doubled = torch.nn.functional.cross_entropy(logits, target.long(), torch.tensor([1.0, 2.0, 1.0]))
    expected = cross_entropy(1)(logits, target) + doubled
    assert torch.allclose(build("ce+wce", 1, (1.0, 2.0, 1.0))(logits, target), expected)


# -- regions of classes --------------------------------------------------------------------------------


@few
@given(seeds, st.integers(1, 5), st.integers(1, 4))
def test_regions_are_unions_of_classes(seed: int, classes: int, regions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes + 1, (2, 3, 4), generator=generator, dtype=torch.uint8)
    target[target == classes] = IGNORE
    members = torch.randint(2, (classes, regions), generator=generator, dtype=torch.uint8)
    found = as_regions(target, members)
    assert found.shape == (2, regions, 3, 4) and found.dtype == torch.uint8
    for b, r, y, x in itertools.product(range(2), range(regions), range(3), range(4)):
        value = int(target[b, y, x])
        assert found[b, r, y, x] == (IGNORE if value == IGNORE else members[value, r])
    assert torch.equal(as_regions(target.long(), members.bool()), found)


# -- deep supervision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depths", range(1, 8))
def test_weights_halve_sum_to_one_and_end_with_none(depths: int) -> None:
    weights = depth_weights(depths)
    assert sum(weights) == pytest.approx(1) and len(weights) == depths
    used = weights if depths == 1 else weights[:-1]
    assert depths == 1 or weights[-1] == 0
    assert all(a == pytest.approx(2 * b) for a, b in itertools.pairwise(used))


def test_given_weights_are_normalised_and_fit_the_heads() -> None:
    assert depth_weights(3, (1, 0, 3)) == [0.25, 0, 0.75]
    logits, target = example(0, 4, 4)
    for weights in ((1.0,), (1.0, 1.0, 1.0), (1.0, -0.5), (0.0, 0.0), (1.0, math.nan), (1.0, math.inf), ()):
        with pytest.raises(BadPlan, match=r"depth_weights: .* cannot weigh 2 heads"):
            over_depths(cross_entropy(1), [logits, logits], target, weights)


def test_one_depth_is_the_loss_itself_and_a_head_that_weighs_nothing_is_not_looked_at() -> None:
    logits, target = example(0, 8, 8)
    loss = cross_entropy(1)
    assert torch.equal(over_depths(loss, [logits], target), loss(logits, target))
    lost = torch.full((2, 3, 4, 4), math.nan)
    assert torch.equal(over_depths(loss, [logits, lost], target), loss(logits, target))
    assert torch.equal(over_depths(loss, [lost, logits], target, (0, 2)), loss(logits, target))


def test_every_head_that_counts_is_told_before_it_is_weighed() -> None:
    logits, target = example(0, 8, 8)
    heads, loss = [logits, logits * 2, logits.flip(1)], build("dice+ce", 1)
    found = list(each_depth(loss, heads, target, (3, 0, 1)))
    assert [(head, weight) for head, weight, _ in found] == [(0, 0.75), (2, 0.25)]
    assert all(torch.equal(value, loss(heads[head], target)) for head, _, value in found)
    assert torch.equal(weighed_sum(found), over_depths(loss, heads, target, (3, 0, 1)))


def test_coarser_depths_see_the_nearest_labels_and_ignore_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(16).reshape(1, 4, 4) % 3
    target[0, 3, 3] = IGNORE
    target = target.to(torch.uint8)
    fine, half, rest = (torch.randn(1, 3, n, n, generator=generator) for n in (4, 2, 1))
    loss = cross_entropy(1)
    expected = 2 / 3 * loss(fine, target) + 1 / 3 * loss(half, target[:, 1::2, 1::2])
    assert torch.allclose(over_depths(loss, [fine, half, rest], target), expected)


@few
@given(seeds, st.lists(st.tuples(edges, edges), min_size=2, max_size=3))
def test_a_target_is_brought_to_size_by_the_nearest_centre(seed: int, pairs: list[tuple[int, int]]) -> None:
    there, wanted = zip(*pairs, strict=True)
    target = torch.randint(256, (2, *there), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    expected = target
    for axis, (n, m) in enumerate(pairs, 1):
        away = [[abs(Fraction(2 * j + 1, 2 * n) - Fraction(2 * i + 1, 2 * m)) for j in range(n)] for i in range(m)]
        index = [max(j for j in range(n) if row[j] == min(row)) for row in away]  # of two that are as near, the later
        expected = expected.index_select(axis, torch.tensor(index))
    assert torch.equal(sized(target, wanted), expected)
    assert torch.equal(sized(target[:, None], wanted), expected[:, None])
    assert sized(target, there) is target


def test_half_precision_heads_are_summed_in_float32() -> None:
    logits, target = example(0, 8, 8)
    value = over_depths(cross_entropy(1), [logits.bfloat16()], target)
    assert value.dtype == torch.float32
    assert torch.equal(value, cross_entropy(1)(logits.bfloat16().float(), target))


def test_heads_of_one_size_are_averaged() -> None:
    logits, target = example(0, 4, 6)
    heads, loss = [logits, logits * 2, logits - logits.flip(1)], build("dice+ce", 1)
    expected = torch.stack([loss(head, target) for head in heads]).mean()
    assert torch.allclose(over_depths(loss, heads, target, (1, 1, 1)), expected)


def test_with_members_the_heads_are_of_regions() -> None:
    logits, target = example(3, 4, 4)
    target[0, 0, 0] = IGNORE
    members = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.uint8)
    heads, loss = [logits[:, :2], logits[:, 1:, ::2, ::2]], build("dice+bce", 0)
    small = target[:, 1::2, 1::2]
    expected = 0.6 * loss(heads[0], as_regions(target, members)) + 0.4 * loss(heads[1], as_regions(small, members))
    assert torch.allclose(over_depths(loss, heads, target, (3, 2), members), expected)
    assert torch.allclose(over_depths(loss, heads, as_regions(target, members), (3, 2)), expected)


class Edged(list[Tensor]):
    """Heads with their edges."""

    def __init__(self, heads: list[Tensor], edges: list[Tensor]) -> None:
        super().__init__(heads)
        self.edges = edges


@pytest.mark.parametrize("members", [None, torch.tensor([[0, 1, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.bool)])
def test_edges_cost_ten_times_their_error(members: Tensor | None) -> None:
    logits, target = example(4, 6, 8)
    target[1, 2, 3] = IGNORE
    small = target[:, 1::2, 1::2]
    sides = [torch.rand(2, 3, 6, 8), torch.rand(2, 3, 3, 4).bfloat16(), torch.full((2, 3, 3, 4), math.nan)]
    heads, loss = [logits, logits[..., ::2, ::2], logits[..., ::2, ::2]], cross_entropy(1)
    expected = over_depths(loss, heads, target, (1, 3, 0), members)
    for weight, found, seen in zip((0.25, 0.75), sides, (target, small), strict=False):
        classes = torch.stack([seen == k for k in range(3)], 1).float()
        if members is not None:
            classes = (as_regions(seen, members) == 1).float()
        counts = (seen != IGNORE)[:, None].expand_as(classes)
        expected = expected + weight * 10 * (found.float() - edge(classes))[counts].square().mean()
    assert torch.allclose(over_depths(loss, Edged(heads, sides), target, (1, 3, 0), members), expected)
