"""Attention inside windows: its formula with explicit masks, for any size."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.nets.inserts.window import WindowAttention, joined, parted
from autoseg.parts import INSERTS
from autoseg.records import Part

# whole and cut windows, a window above the map along one axis or both, windows of even and odd edges, of one position
CASES = [((5, 7), 3), ((6, 6), 3), ((8, 5), 4), ((4, 9), 7), ((2, 3), 4), ((3, 4), 1), ((3, 4, 5), 2), ((4, 4, 3), 3)]
EVERY = pytest.mark.parametrize(("size", "window"), CASES)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def made(size: tuple[int, ...], window: int | None) -> WindowAttention:
    """Awake: the scales differ from zero, the biases are large."""
    insert = WindowAttention(len(size), 6, size, window=window, heads=2)
    for one, scale in ((insert.still, 0.7), (insert.shifted, 1.3)):
        torch.nn.init.constant_(one.scale, scale)
        torch.nn.init.normal_(one.table)
    return insert


def by_hand(one: torch.nn.Module, x: Tensor, window: int, shifted: bool) -> Tensor:
    """Attention over all pairs of real positions, masked but for those in one window of the grid, shifted or not."""
    size = x.shape[2:]
    edges = [min(window, n) for n in size]
    shifts = [e // 2 if shifted and e < n else 0 for e, n in zip(edges, size, strict=True)]
    places = list(product(*map(range, size)))
    table = one.table.reshape(2, *(2 * e - 1 for e in edges))
    bias = torch.full((2, len(places), len(places)), float("-inf"))
    for (i, here), (j, there) in product(enumerate(places), repeat=2):
        pairs = list(zip(here, there, edges, shifts, strict=True))
        if all((h - s) // e == (t - s) // e for h, t, e, s in pairs):
            bias[:, i, j] = table[(slice(None), *(t - h + e - 1 for h, t, e, _ in pairs))]
    projected = one.project.weight.flatten(1) @ x.flatten(2)
    query, key, value = projected.reshape(len(x), 3, 2, 3, -1).unbind(1)  # two heads of three channels
    weights = (torch.einsum("bhdi,bhdj->bhij", query, key) / 3**0.5 + bias).softmax(-1)
    seen = torch.einsum("bhij,bhdj->bhdi", weights, value).reshape(len(x), 6, -1)
    mixed = one.mix.weight.flatten(1) @ seen + one.mix.bias[:, None]
    return one.scale * mixed.reshape(x.shape)


@EVERY
def test_both_passes_equal_attention_with_explicit_masks(size: tuple[int, ...], window: int) -> None:
    insert, x = made(size, window), torch.randn(2, 6, *size)
    first = x + by_hand(insert.still, x, window, shifted=False)
    expected = first + by_hand(insert.shifted, first, window, shifted=True)
    assert torch.allclose(insert(x), expected, atol=1e-5)


@EVERY
def test_it_starts_as_the_identity(size: tuple[int, ...], window: int) -> None:
    x = torch.randn(2, 8, *size)
    assert torch.equal(WindowAttention(len(size), 8, size, window=window)(x), x)


def test_windows_are_7_wide_in_2d_and_5_in_3d_and_at_most_the_map() -> None:
    assert made((20, 5), None).shifted.edges == (7, 5) and made((20, 5), None).shifted.shifts == (3, 0)
    assert made((2, 9, 5), None).shifted.edges == (2, 5, 5) and made((2, 9, 5), None).shifted.shifts == (0, 2, 0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=2, max_size=3))
def test_windows_are_cut_out_and_put_back(axes: list[tuple[int, int]]) -> None:
    edges, size = [edge for edge, _ in axes], [edge * count for edge, count in axes]
    x = torch.randn(2, 3, *size)
    cells = parted(x, edges)
    corner = x[(slice(None), slice(None), *(slice(edge) for edge in edges))]
    assert torch.equal(cells[:: len(cells) // 2].reshape(corner.shape), corner)
    assert torch.equal(joined(cells, edges, size), x)


@EVERY
def test_every_parameter_learns(size: tuple[int, ...], window: int) -> None:
    insert = made(size, window)
    insert(torch.randn(2, 6, *size)).square().sum().backward()
    still = {name.split(".", 1)[1] for name, p in insert.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == ({"table"} if window == 1 else set())  # the only position of a window has the weight 1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in insert.parameters())


@pytest.mark.parametrize("options", [{"window": 0}, {"heads": 0}])
def test_what_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadPlan, match=r"insert 'window_attention': (window|heads) is 0, expected 1 or more"):
        INSERTS.build(Part(name="window_attention", options=options), dims=2, channels=4, size=(4, 3))
