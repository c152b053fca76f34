"""Fusions of a skip and the decoder's feature."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import BadPlan
from autoseg.nets.joins import AttentionGate, CGAFusion, Concat
from autoseg.parts import JOINS
from autoseg.records import Part

SIZES = [(4, 5), (3, 4, 2)]
every = pytest.mark.parametrize("name", ["concat", "attention_gate", "cga_fusion"])


def fusion(name: str, channels: int, size: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = JOINS.build(name, dims=len(size), channels=channels, size=size, norm=Part(name="instance"))
    return made


def drawn(module: nn.Module) -> None:
    """In double precision, every weight random."""
    torch.manual_seed(1)
    for weight in module.double().parameters():
        nn.init.normal_(weight, std=0.5)


def pair(channels: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    skip, up = torch.randn(2, 2, channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return skip, up


def parameters(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = convolution.weight, convolution.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight, bias


def matrix(convolution: nn.Module) -> Tensor:
    weight = convolution.weight
    assert isinstance(weight, Tensor)
    return weight.flatten(1)


def mixed(convolution: nn.Module, x: Tensor) -> Tensor:
    """A 1-wide convolution."""
    out = torch.einsum("oc,bc...->bo...", matrix(convolution), x)
    bias = convolution.bias
    return out if not isinstance(bias, Tensor) else out + bias.reshape(-1, *[1] * (x.ndim - 2))


def correlated(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of (B, in, *S) to one channel, offset by offset, zeros around the map; weight (in, *kernel)."""
    size, reach = maps.shape[2:], weight.shape[1] // 2
    padded = nn.functional.pad(maps, [reach] * 2 * len(size))
    total = bias.expand(maps.shape[0], *size).clone()
    for offset in product(*(range(k) for k in weight.shape[1:])):
        window = padded[(..., *(slice(o, o + n) for o, n in zip(offset, size, strict=True)))]
        total += torch.einsum("bc...,c->b...", window, weight[(slice(None), *offset)])
    return total


def test_concatenation_puts_the_decoder_feature_first() -> None:
    skip, up = pair(3, (4, 5))
    out = Concat(3)(skip, up)
    assert torch.equal(out[:, :3], up) and torch.equal(out[:, 3:], skip)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_the_attention_gate_is_its_formula(size: tuple[int, ...], channels: int) -> None:
    module, (skip, up) = AttentionGate(len(size), channels), pair(channels, size)
    drawn(module)
    hidden = (mixed(module.of_skip, skip) + mixed(module.of_up, up)).clamp(min=0)
    gate = 1 / (1 + (-mixed(module.score, hidden)).exp())
    out = module(skip, up)
    assert torch.equal(out[:, :channels], up)
    assert torch.allclose(out[:, channels:], skip * gate)
    assert (gate > 0).all() and (gate < 1).all() and gate.shape == (2, 1, *size)


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(1, 2, 1), (7, 2, 3), (8, 2, 4), (8, 1, 8), (3, 8, 1)])
def test_the_attention_gate_looks_at_half_the_channels(channels: int, reduction: int, hidden: int) -> None:
    module = AttentionGate(2, channels, reduction)
    assert matrix(module.of_skip).shape == matrix(module.of_up).shape == (hidden, channels)
    assert module.of_skip.bias is None
    assert reduction != 2 or matrix(AttentionGate(2, channels).of_skip).shape == (hidden, channels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "kernel"), [(1, 7), (3, 3), (40, 1)])
def test_content_guided_fusion_is_its_formula(size: tuple[int, ...], channels: int, kernel: int) -> None:
    module, (skip, up) = CGAFusion(len(size), channels, kernel=kernel), pair(channels, size)
    drawn(module)
    both = skip + up
    outline = torch.stack([both.mean(1), both.max(1).values], dim=1)
    weight, bias = parameters(module.position)
    pooled = both.flatten(2).mean(2)
    by_channel = (pooled @ matrix(module.channel[0]).T).clamp(min=0) @ matrix(module.channel[2]).T
    coarse = correlated(outline, weight[0], bias)[:, None] + by_channel.reshape(2, channels, *[1] * len(size))
    weight, bias = parameters(module.refine)
    fine = torch.stack(
        [
            correlated(torch.stack([both[:, c], coarse[:, c]], dim=1), weight[c], bias[c : c + 1])
            for c in range(channels)
        ],
        dim=1,
    ).sigmoid()
    assert weight.shape == (channels, 2, *(kernel,) * len(size))
    assert torch.allclose(module(skip, up), mixed(module.mix, both + fine * skip + (1 - fine) * up))


def test_content_guided_fusion_has_the_defaults_of_its_paper() -> None:
    module = CGAFusion(2, 64)
    assert matrix(module.channel[0]).shape == (8, 64)
    assert parameters(module.position)[0].shape == (1, 2, 7, 7)
    assert parameters(module.refine)[0].shape == (64, 2, 7, 7)


@pytest.mark.parametrize("size", SIZES)
def test_where_skip_and_decoder_agree_the_weights_do_not_matter(size: tuple[int, ...]) -> None:
    module, (skip, _) = CGAFusion(len(size), 5), pair(5, size)
    drawn(module)
    assert torch.allclose(module(skip, skip), mixed(module.mix, 3 * skip))


@every
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 3), (1, 1, 1), (3, 1, 2)])
def test_every_fusion_answers_the_channels_that_it_promised(name: str, size: tuple[int, ...]) -> None:
    for channels in (1, 2, 8):
        module = fusion(name, channels, size)
        skip, up = torch.randn(2, 1, channels, *size)
        out = module(skip, up)
        assert out.shape == (1, module.channels_out, *size) and out.isfinite().all()
        assert module.to("meta")(skip.to("meta"), up.to("meta")).shape == out.shape


@every
def test_training_and_prediction_are_the_same_and_both_features_left_as_they_were(name: str) -> None:
    module, (skip, up) = fusion(name, 8, (4, 5)), (x.float() for x in pair(8, (4, 5)))
    before = skip.clone(), up.clone()
    assert torch.equal(module.train()(skip, up), module.eval()(skip, up))
    assert torch.equal(skip, before[0]) and torch.equal(up, before[1])


@every
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_reaches_every_weight_and_both_features(name: str, size: tuple[int, ...]) -> None:
    module = fusion(name, 8, size)
    skip, up = (x.float().requires_grad_() for x in pair(8, size))
    module(skip, up).square().sum().backward()
    idle = [title for title, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == [] and skip.grad is not None and up.grad is not None


@every
@pytest.mark.parametrize("size", SIZES)
def test_layout_and_half_the_precision_change_nothing(name: str, size: tuple[int, ...]) -> None:
    module = fusion(name, 8, size)
    skip, up = (x.bfloat16() for x in pair(8, size))
    expected = module(skip.float(), up.float())
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    module = module.to(memory_format=layout)
    there = module(skip.float().to(memory_format=layout), up.float().to(memory_format=layout))
    assert torch.allclose(there, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(skip, up)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("attention_gate", "reduction", 0), ("cga_fusion", "reduction", 0), ("cga_fusion", "kernel", 2)],
)
def test_a_value_without_meaning_is_refused_by_name(name: str, option: str, value: int) -> None:
    with pytest.raises(BadPlan, match=rf"fusion '{name}': {option} is {value}"):
        JOINS.build(Part(name=name, options={option: value}), dims=2, channels=8)
