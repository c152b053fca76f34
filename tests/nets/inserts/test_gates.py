"""Gates per channel and position, and what all inserts that gate have in common."""

from __future__ import annotations

from itertools import product
from math import log2

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import BadPlan
from autoseg.nets.inserts.gates import CBAM, ECA, SCSE, SE, excitation, outline
from autoseg.parts import INSERTS
from autoseg.records import Part

SIZES = [(4, 5), (3, 4, 2)]
NAMES = ["se", "eca", "scse", "cbam", "coord", "polarized", "polarized_seq", "scconv"]
every = pytest.mark.parametrize("name", NAMES)


def insert(name: str, channels: int, size: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = INSERTS.build(
        name, dims=len(size), channels=channels, size=size, norm=Part(name="instance"), encoder=()
    )
    return made


def drawn(module: nn.Module) -> nn.Module:
    """The module in double precision, every weight random: biases and scales as well."""
    torch.manual_seed(1)
    for weight in module.double().parameters():
        nn.init.normal_(weight, std=0.5)
    return module


def feature(channels: int, size: tuple[int, ...]) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def matrix(convolution: nn.Module) -> Tensor:
    """A 1-wide convolution's weights as (out, in)."""
    weight = convolution.weight
    assert isinstance(weight, Tensor)
    return weight.flatten(1)


def excited(block: nn.Sequential, pooled: Tensor) -> Tensor:
    return (pooled @ matrix(block[0]).T).clamp(min=0) @ matrix(block[2]).T


def correlated(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of (B, in, *S) to one channel, offset by offset, zeros around the map; weight (in, *kernel)."""
    size, reach = maps.shape[2:], [k // 2 for k in weight.shape[1:]]
    padded = nn.functional.pad(maps, [r for reach_ in reversed(reach) for r in (reach_, reach_)])
    total = bias.expand(maps.shape[0], *size).clone()
    for offset in product(*(range(k) for k in weight.shape[1:])):
        window = padded[(..., *(slice(o, o + n) for o, n in zip(offset, size, strict=True)))]
        total += torch.einsum("bc...,c->b...", window, weight[(slice(None), *offset)])
    return total


def spread(gate: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C) for every position."""
    return gate.reshape(*gate.shape, *[1] * len(size))


# -- the formulas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 6, 80])
def test_se_is_its_formula(size: tuple[int, ...], channels: int) -> None:
    module, x = drawn(SE(len(size), channels)), feature(channels, size)
    assert isinstance(module, SE)
    gate = excited(module.excite, x.flatten(2).mean(2)).sigmoid()
    assert torch.allclose(module(x), x * spread(gate, size))


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(1, 16, 4), (64, 16, 4), (96, 16, 6), (96, 2, 48)])
def test_a_squeeze_keeps_at_least_four_channels(channels: int, reduction: int, hidden: int) -> None:
    assert matrix(excitation(2, channels, reduction)[0]).shape == (hidden, channels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 9, 80, 300])
def test_eca_is_its_formula(size: tuple[int, ...], channels: int) -> None:
    module, x = drawn(ECA(channels)), feature(channels, size)
    assert isinstance(module, ECA)
    weight, pooled = matrix(module.excite)[0], x.flatten(2).mean(2)
    half, gate = len(weight) // 2, torch.zeros_like(pooled)
    for channel in range(channels):
        for k, w in enumerate(weight):
            if 0 <= channel + k - half < channels:
                gate[:, channel] += w * pooled[:, channel + k - half]
    assert torch.allclose(module(x), x * spread(gate.sigmoid(), size))


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16, 32, 64, 128, 256, 320, 512, 2048])
@pytest.mark.parametrize(("gamma", "b"), [(2.0, 1.0), (1.0, 0.0)])
def test_eca_is_as_wide_as_the_nearest_odd_number(channels: int, gamma: float, b: float) -> None:
    exact = abs(log2(channels) / gamma + b / gamma)
    odd = range(1, 31, 2)
    assert matrix(ECA(channels, gamma, b).excite).shape[1] == min(odd, key=lambda k: (abs(k - exact), -k))


def test_eca_is_as_wide_as_in_the_paper() -> None:
    widths = [matrix(ECA(channels).excite).shape[1] for channels in (64, 128, 256, 512)]
    assert widths == [3, 5, 5, 5]  # the even 4 of 128 channels is rounded up


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 5, 20])
@pytest.mark.parametrize("join", ["sum", "max"])
def test_scse_is_its_formula(size: tuple[int, ...], channels: int, join: str) -> None:
    module, x = drawn(SCSE(len(size), channels, join=join)), feature(channels, size)
    assert isinstance(module, SCSE)
    by_channel = x * spread(excited(module.channel.excite, x.flatten(2).mean(2)).sigmoid(), size)
    score = torch.einsum("bc...,oc->bo...", x, matrix(module.position))
    by_position = x * score.sigmoid()
    both = by_channel + by_position if join == "sum" else torch.where(by_channel > by_position, by_channel, by_position)
    assert torch.allclose(module(x), both)


def test_scse_has_the_defaults_of_its_paper() -> None:
    module = SCSE(2, 20)
    assert matrix(module.channel.excite[0]).shape == (10, 20)
    same = SCSE(2, 20, reduction=2, join="sum")
    same.load_state_dict(module.state_dict())
    x = torch.randn(1, 20, 3, 4)
    assert torch.equal(module(x), same(x))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "kernel"), [(1, 7), (80, 7), (5, 3)])
def test_cbam_is_its_formula(size: tuple[int, ...], channels: int, kernel: int) -> None:
    module, x = drawn(CBAM(len(size), channels, kernel=kernel)), feature(channels, size)
    assert isinstance(module, CBAM)
    flat = x.flatten(2)
    gate = (excited(module.excite, flat.mean(2)) + excited(module.excite, flat.max(2).values)).sigmoid()
    gated = x * spread(gate, size)
    maps = torch.stack([gated.mean(1), gated.max(1).values], dim=1)
    weight, bias = module.look.weight, module.look.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor) and weight.shape[2:] == (kernel,) * len(size)
    assert torch.allclose(module(x), gated * correlated(maps, weight[0], bias)[:, None].sigmoid())


def test_an_outline_is_mean_and_maximum() -> None:
    x = torch.tensor([[[[1.0, -2.0]], [[3.0, -4.0]]]])
    assert outline(x).tolist() == [[[[2.0, -3.0]], [[3.0, -2.0]]]]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se", {"reduction": 0}),
        ("scse", {"reduction": 0}),
        ("cbam", {"reduction": 0}),
        ("coord", {"reduction": 0}),
        ("eca", {"gamma": 0}),
        ("scse", {"join": "mean"}),
        ("cbam", {"kernel": 4}),
        ("cbam", {"kernel": -1}),
        ("scconv", {"alpha": 1.0}),
        ("scconv", {"alpha": 0.0}),
        ("scconv", {"threshold": 1.5}),
        ("scconv", {"groups": 0}),
        ("scconv", {"squeeze": 0}),
        ("scconv", {"norm_groups": 0}),
    ],
)
def test_a_value_without_meaning_is_refused_by_name(name: str, options: dict[str, object]) -> None:
    (option,) = options
    with pytest.raises(BadPlan, match=rf"insert '{name}': .*{option}.*expected"):
        INSERTS.build(Part(name=name, options=options), dims=2, channels=8)  # type: ignore[arg-type]


# -- laws of them all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["se", "eca", "scse", "polarized", "polarized_seq"])
@pytest.mark.parametrize("size", SIZES)
def test_gates_without_a_neighbourhood_commute_with_a_shuffle_of_the_positions(
    name: str, size: tuple[int, ...]
) -> None:
    module, x = drawn(insert(name, 6, size)), feature(6, size)
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(3))

    def shuffled(y: Tensor) -> Tensor:
        return y.flatten(2)[:, :, order].reshape(y.shape)

    assert not torch.allclose(shuffled(x), x)
    assert torch.allclose(module(shuffled(x)), shuffled(module(x)))


@pytest.mark.parametrize(
    ("name", "most"),
    [("se", 1), ("eca", 1), ("cbam", 1), ("coord", 1), ("polarized_seq", 1), ("polarized", 2), ("scse", 2)],
)
@pytest.mark.parametrize("size", SIZES)
def test_gates_lie_between_zero_and_one(name: str, most: int, size: tuple[int, ...]) -> None:
    x = feature(6, size)
    gate = (drawn(insert(name, 6, size))(x) / x).detach()
    assert (gate > 0).all() and (gate < most).all()
    assert gate.max() - gate.min() > 0.01


@every
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 3), (1, 1, 1), (3, 1, 2)])
def test_every_shape_is_kept_down_to_one_channel_and_one_position(name: str, size: tuple[int, ...]) -> None:
    for channels in (1, 2, 5, 8):
        module, x = insert(name, channels, size), torch.randn(1, channels, *size)
        out = module(x)
        assert out.shape == x.shape and out.isfinite().all()
        assert module.to("meta")(x.to("meta")).shape == x.shape


@every
def test_training_and_prediction_are_the_same_and_the_samples_apart(name: str) -> None:
    module, x = insert(name, 6, (4, 5)), feature(6, (4, 5)).float()
    out = module.train()(x)
    assert torch.equal(module.eval()(x), out)
    assert torch.allclose(module(x[:1]), out[:1], atol=1e-6)


@every
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_reaches_every_weight(name: str, size: tuple[int, ...]) -> None:
    module = insert(name, 8, size)
    module(feature(8, size).float()).square().sum().backward()
    idle = [title for title, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@every
@pytest.mark.parametrize("size", SIZES)
def test_the_layout_in_memory_changes_nothing(name: str, size: tuple[int, ...]) -> None:
    module, x = insert(name, 6, size), feature(6, size).float()
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    expected = module(x)
    assert torch.allclose(module.to(memory_format=layout)(x.to(memory_format=layout)), expected, atol=1e-5)


@every
@pytest.mark.parametrize("size", SIZES)
def test_half_the_precision_goes_in_and_comes_out(name: str, size: tuple[int, ...]) -> None:
    module, x = insert(name, 8, size), feature(8, size).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    off = (out.float() - module(x.float())).abs()
    assert off.mean() < 0.02  # SCConv's hard threshold may fall differently at single positions


@every
def test_the_input_is_left_as_it_was(name: str) -> None:
    x = feature(6, (4, 5)).float()
    before = x.clone()
    insert(name, 6, (4, 5))(x)
    assert torch.equal(x, before)
