"""Pooling pyramids and dilated convolutions: their formulas, any size, a single position."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.inserts.context import ASPP, SPPF, dilations
from autoseg.records import Part

INSTANCE, LAYER = Part(name="instance"), Part(name="layer")
SIZES = [(9, 6), (3, 4, 5)]
BOTH = pytest.mark.parametrize("kind", [SPPF, ASPP])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def unit_by_hand(unit: nn.Sequential, x: Tensor, dilation: tuple[int, ...], measured: int = 2) -> Tensor:
    """Convolution tap by tap, a norm over the axes from `measured` on (1 the channels), leaky ReLU."""
    weight, bias = unit[0].weight, unit[0].bias
    size, reach = x.shape[2:], [d * (k // 2) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    padded = F.pad(x, [r for pair in zip(reversed(reach), reversed(reach), strict=True) for r in pair])
    out = bias.reshape(1, -1, *[1] * len(size)).expand(len(x), -1, *size)
    for tap in product(*(range(k) for k in weight.shape[2:])):
        seen = padded
        for axis, (t, d, n) in enumerate(zip(tap, dilation, size, strict=True)):
            seen = seen.narrow(2 + axis, t * d, n)
        out = out + torch.einsum("oi,bi...->bo...", weight[(slice(None), slice(None), *tap)], seen)
    axes = list(range(measured, x.ndim))
    out = (out - out.mean(axes, keepdim=True)) / (out.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    return torch.where(out > 0, out, 0.01 * out)


@pytest.mark.parametrize("size", SIZES)
def test_sppf_is_a_pyramid_of_pools_of_width_5_9_and_13(size: tuple[int, ...]) -> None:
    insert, x, one = SPPF(len(size), 6, size, INSTANCE), torch.randn(2, 6, *size), (1,) * len(size)
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[len(size)]
    small = unit_by_hand(insert.squeeze, x, one)
    assert small.shape[1] == 3
    levels = [small] + [pool(small, width, stride=1, padding=width // 2) for width in (5, 9, 13)]
    assert torch.allclose(insert(x), unit_by_hand(insert.mix, torch.cat(levels, dim=1), one), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_aspp_equals_its_formula(size: tuple[int, ...]) -> None:
    dims = len(size)
    insert, x = ASPP(dims, 5, size, INSTANCE, rates=(1, 2), channels_out=4), torch.randn(2, 5, *size)
    fine, coarse = [tuple(min(rate, n // 2) for n in size) for rate in (1, 2)]
    branches = zip(insert.branches, ((1,) * dims, fine, coarse), strict=True)
    seen = [unit_by_hand(branch, x, rate) for branch, rate in branches]
    mean = unit_by_hand(insert.whole, x.mean(list(range(2, 2 + dims)), keepdim=True), (1,) * dims, measured=1)
    expected = unit_by_hand(insert.mix, torch.cat([*seen, mean.expand_as(seen[0])], dim=1), (1,) * dims, 1)
    assert expected.shape == (2, 4, *size)
    assert torch.allclose(insert(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((36, 100), [(6, 6), (12, 12), (18, 18)]),
        ((18, 33), [(3, 5), (6, 11), (9, 16)]),
        ((4, 1), [(1, 1)] * 2 + [(2, 1)]),
    ],
)
def test_dilations_are_scaled_down_per_axis(size: tuple[int, ...], expected: list[tuple[int, ...]]) -> None:
    assert dilations((6, 12, 18), size) == expected


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(2, 80))
def test_every_position_reaches_another(rates: list[int], edge: int) -> None:
    for (rate,) in dilations(rates, (edge,)):
        assert all(place >= rate or place + rate < edge for place in range(edge))


@pytest.mark.parametrize("rates", [(), (6, 0)])
def test_what_is_no_rate_is_refused(rates: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected numbers above 0"):
        ASPP(2, 4, (8, 8), INSTANCE, rates=rates)


@BOTH
@pytest.mark.parametrize("size", [*SIZES, (7, 1), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("norm", ["instance", "layer", "group"])
def test_any_size_goes_through_and_every_parameter_learns(kind: type, size: tuple[int, ...], norm: str) -> None:
    insert, x = kind(len(size), 6, size, Part(name=norm)), torch.randn(2, 6, *size)
    out = insert.train()(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    still = [name for name, p in insert.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("0.bias") for name in still)  # instance norm takes a constant away again
    assert norm != "layer" or not still


@pytest.mark.parametrize("size", [(6, 4), (1, 1)])
def test_a_batch_of_one_trains_with_batch_norm(size: tuple[int, ...]) -> None:
    insert = ASPP(2, 4, size, Part(name="batch"))
    assert insert.train()(torch.randn(1, 4, *size)).isfinite().all()
