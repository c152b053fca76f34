"""Attention between all positions: its formula, its position codes, its limit."""

from __future__ import annotations

from itertools import product
from math import cos, sin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.nets.inserts.attention import SelfAttention, divided, offsets, relative, waves
from autoseg.nets.survey import survey
from autoseg.parts import INSERTS
from autoseg.records import Insert, Network, Part

SIZES = pytest.mark.parametrize("size", [(5, 3), (2, 3, 4), (1, 1)])
POSITIONS = pytest.mark.parametrize("position", ["sinusoidal", "learned"])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def made(size: tuple[int, ...], position: str, scale: float) -> SelfAttention:
    insert = SelfAttention(len(size), 6, size, heads=2, position=position)
    torch.nn.init.constant_(insert.scale, scale)
    if insert.table is not None:
        torch.nn.init.normal_(insert.table)
    return insert


def code_by_hand(channels: int, size: tuple[int, ...]) -> Tensor:
    """Channel by channel: the axes take turns, sines before cosines, then the next slower wave."""
    dims, code = len(size), torch.zeros(channels, *size)
    waves_per_axis = -(-channels // (2 * dims))
    for channel, *place in product(range(channels), *map(range, size)):
        turn, axis = divmod(channel, dims)
        angle = place[axis] / 10000 ** (turn // 2 / waves_per_axis)
        code[(channel, *place)] = cos(angle) if turn % 2 else sin(angle)
    return code


def bias_by_hand(table: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pair by pair: the entry of the offset between the two."""
    places = list(product(*map(range, size)))
    table = table.reshape(-1, *(2 * n - 1 for n in size))
    bias = torch.zeros(len(table), len(places), len(places))
    for (i, here), (j, there) in product(enumerate(places), repeat=2):
        offset = [t - h + n - 1 for h, t, n in zip(here, there, size, strict=True)]
        bias[:, i, j] = table[(slice(None), *offset)]
    return bias


@SIZES
@POSITIONS
def test_self_attention_equals_its_formula(size: tuple[int, ...], position: str) -> None:
    insert, x = made(size, position, 0.7), torch.randn(2, 6, *size)
    bias = 0.0 if insert.table is None else bias_by_hand(insert.table, size)
    tokens = (x + code_by_hand(6, size) if insert.table is None else x).flatten(2)
    projected = insert.project.weight.flatten(1) @ tokens
    query, key, value = projected.reshape(2, 3, 2, 3, -1).unbind(1)  # two heads of three channels
    logits = torch.einsum("bhdi,bhdj->bhij", query, key) / 3**0.5 + bias
    seen = torch.einsum("bhij,bhdj->bhdi", logits.softmax(-1), value).reshape(2, 6, -1)
    mixed = insert.mix.weight.flatten(1) @ seen + insert.mix.bias[:, None]
    assert torch.allclose(insert(x), x + 0.7 * mixed.reshape(x.shape), atol=1e-5)


@SIZES
@POSITIONS
def test_it_starts_as_the_identity(size: tuple[int, ...], position: str) -> None:
    x = torch.randn(2, 8, *size)
    assert torch.equal(SelfAttention(len(size), 8, size, position=position)(x), x)


@pytest.mark.parametrize(("channels", "size"), [(7, (3, 4)), (12, (4, 3)), (1, (5,)), (3, (2, 4, 3)), (13, (3, 2, 2))])
def test_the_code_is_that_of_the_formula_and_tells_all_positions_apart(channels: int, size: tuple[int, ...]) -> None:
    code = waves(channels, size)
    assert torch.allclose(code, code_by_hand(channels, size), atol=1e-6)
    apart = torch.cdist(code.flatten(1).T, code.flatten(1).T) + torch.eye(code[0].numel())
    assert float(apart.min()) > 0.05


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_the_bias_of_a_pair_is_that_of_its_offset(size: list[int]) -> None:
    table = offsets(2, size)
    assert torch.equal(relative(table, size), bias_by_hand(table, tuple(size)))


@given(st.integers(1, 40), st.integers(1, 40))
def test_as_many_heads_as_divide_the_channels(channels: int, heads: int) -> None:
    assert divided(channels, heads) == max(h for h in range(1, heads + 1) if channels % h == 0)


@pytest.mark.parametrize("options", [{"heads": 0}, {"position": "absolute"}, {"limit": 11}])
def test_what_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(
        BadPlan, match=r"insert 'self_attention': .*(heads is 0|'absolute'|12 positions .* limit of 11)"
    ):
        INSERTS.build(Part(name="self_attention", options=options), dims=2, channels=4, size=(4, 3))


def network(inserts: tuple[Insert, ...]) -> Network:
    return Network(
        architecture=Part(name="unet"), block=Part(name="plain"), decoder_block=Part(name="plain"),
        norm=Part(name="instance"), features=(4, 6, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3,
        depths=(1, 1, 1), decoder_depths=(1, 1), inserts=inserts,
    )  # fmt: skip


def test_a_map_above_the_limit_is_named_with_its_stage_and_the_remedy() -> None:
    insert = Insert(part=Part(name="self_attention"), place="encoder")
    with pytest.raises(BadPlan) as told:
        survey(network((insert,)), 1, 2, (128, 64))
    assert "encoder stage 0" in str(told.value)
    assert "8192 positions is above the limit of 4096; take a deeper stage, or window_attention" in str(told.value)
    deeper = insert.model_copy(update={"stages": (1, 2)})
    weights = survey(network((deeper,)), 1, 2, (128, 64)).parameters - survey(network(()), 1, 2, (128, 64)).parameters
    assert weights == 6 * 18 + 6 * 6 + 6 + 1


@SIZES
@POSITIONS
def test_every_parameter_learns(size: tuple[int, ...], position: str) -> None:
    insert = made(size, position, 0.7)
    insert(torch.randn(2, 6, *size)).square().sum().backward()
    still = [name for name, p in insert.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == (["table"] if position == "learned" and max(size) == 1 else [])  # one position has one weight


@pytest.mark.parametrize("size", [(5, 3), (2, 3, 4)])
@POSITIONS
def test_layout_and_precision_do_not_matter(size: tuple[int, ...], position: str) -> None:
    insert, x = made(size, position, 0.7), torch.randn(2, 6, *size)
    expected = insert(x)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[len(size)]
    assert torch.allclose(insert.to(memory_format=layout)(x.to(memory_format=layout)), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = insert(x)
        low.square().sum().backward()
    assert (low.float() - expected).norm() < 0.03 * expected.norm()
    assert torch.equal(insert.eval()(x), insert.train()(x))
    assert insert.to("meta")(x.to("meta")).shape == x.shape
