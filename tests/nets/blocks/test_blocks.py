"""What every block of the table keeps: shapes, gradients, precisions, its place in a network."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import BadPlan
from autoseg.nets.survey import build, survey
from autoseg.parts import BLOCKS, NORMS
from autoseg.records import Network, Part, Shape

BOTH = [(name, dims) for name in BLOCKS for dims in (2, 3) if (name, dims) != ("deformable", 3)]
every = pytest.mark.parametrize(("name", "dims"), BOTH)
DEAD = {("poolformer", "norm1.bias")}  # the mean of a constant minus the constant is 0


def made(name: str, channels: tuple[int, int], kernel: Shape, stride: Shape, norm: str = "layer") -> nn.Module:
    torch.manual_seed(0)
    source, width = channels
    block: nn.Module = BLOCKS.build(
        name, dims=len(kernel), channels_in=source, channels_out=width, kernel=kernel, stride=stride,
        norm=Part(name=norm),
    )  # fmt: skip
    return block


def stirred(block: nn.Module) -> nn.Module:
    """The block with weights that are all different from their start."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def network(name: str, dims: int, **options: Any) -> Network:
    flat, block = (1,) * dims, Part(name=name, options=options)
    return Network(
        architecture=Part(name="unet"), block=block, decoder_block=block, norm=Part(name="instance"),
        features=(4, 6, 8), strides=(flat, (2,) * dims, (1,) * (dims - 1) + (2,)),
        kernels=((1,) * (dims - 2) + (3, 3), (3,) * dims, (3,) * dims), depths=(1, 2, 1), decoder_depths=(1, 1),
    )  # fmt: skip


@every
def test_a_block_rounds_the_shape_up(name: str, dims: int) -> None:
    flat, size = (1,) * dims, (7, 5, 6)[:dims]
    for kernel, stride, channels in (
        ((3,) * dims, (2,) * dims, (1, 4)),
        ((3,) * dims, flat, (6, 5)),
        ((1,) + (3,) * (dims - 1), (1,) + (2,) * (dims - 1), (4, 4)),
        ((1,) + (3,) * (dims - 1), flat, (4, 4)),
        (flat, (3, *flat[1:]), (2, 8)),
    ):
        out = made(name, channels, kernel, stride)(torch.randn(2, channels[0], *size))
        assert list(out.shape) == [2, channels[1], *(-(-n // s) for n, s in zip(size, stride, strict=True))]


@every
@pytest.mark.parametrize("norm", list(NORMS))
def test_a_block_takes_every_norm_and_its_answer_is_finite(name: str, dims: int, norm: str) -> None:
    block, x = made(name, (3, 8), (3,) * dims, (2,) * dims, norm), torch.randn(2, 3, *(5,) * dims)
    assert block.train()(x).isfinite().all()
    assert block.eval()(x[:1]).isfinite().all()


@every
@pytest.mark.parametrize("same", [True, False])
def test_the_gradient_reaches_every_weight_and_the_input(name: str, dims: int, same: bool) -> None:
    channels, stride = ((16, 16), (1,) * dims) if same else ((3, 16), (1,) * (dims - 1) + (2,))
    block = stirred(made(name, channels, (3,) * dims, stride)).double().train()
    x = torch.randn(2, channels[0], *(5,) * dims, dtype=torch.float64, requires_grad=True)
    out = block(x)
    (out * torch.randn_like(out)).sum().backward()
    idle = {key for key, weight in block.named_parameters() if weight.grad is None or weight.grad.abs().max() < 1e-9}
    assert {(name, key) for key in idle} <= DEAD
    assert x.grad is not None and (x.grad.flatten(2) != 0).all()


@every
def test_a_block_leaves_its_input_as_it_is(name: str, dims: int) -> None:
    for channels, norm in itertools.product(((4, 4), (4, 8)), ("layer", "instance")):
        block, x = made(name, channels, (3,) * dims, (1,) * dims, norm), torch.randn(2, 4, *(4,) * dims)
        before = x.clone()
        block(x)
        assert torch.equal(x, before)


@every
def test_a_block_works_in_bf16_and_with_channels_last(name: str, dims: int) -> None:
    block = stirred(made(name, (4, 8), (3,) * dims, (2,) * dims)).eval()
    x = torch.randn(2, 4, *(6,) * dims)
    expected = block(x).detach()
    last: Any = torch.channels_last if dims == 2 else torch.channels_last_3d
    other = block.to(memory_format=last)(x.to(memory_format=last)).detach()
    assert torch.allclose(other, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = block(x).detach()
        block.train()(x).float().square().mean().backward()
    assert float((low - expected).abs().mean()) < 0.05 * float(expected.abs().mean())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in block.parameters())


@every
def test_a_network_of_such_blocks_can_be_surveyed_and_answers(name: str, dims: int) -> None:
    plan, patch = network(name, dims), (4,) * (dims - 1) + (8,)
    found = survey(plan, 2, 3, patch)
    assert found.outputs[0] == (3, *patch) and found.kept > 0
    net = build(plan, 2, 3, patch).train()
    assert found.parameters == sum(p.numel() for p in net.parameters())
    outputs: list[Tensor] = net(torch.randn(2, 2, *patch))
    assert [tuple(output.shape[1:]) for output in outputs] == list(found.outputs)


def test_in_3d_deformable_is_refused() -> None:
    with pytest.raises(BadPlan, match="block 'deformable': deformable convolution is there in 2D only"):
        survey(network("deformable", 3), 1, 2, (4, 4, 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {"convs": 0}),
        ("separable", {"convs": 0}),
        ("repvgg", {"convs": 0}),
        ("deformable", {"convs": -1}),
        ("dilated", {"rates": []}),
        ("dilated", {"rates": [1, 0]}),
        ("bottleneck", {"squeeze": 0}),
        ("resnext", {"cardinality": 0}),
        ("resnext", {"squeeze": 0}),
        ("resnest", {"radix": 1}),
        ("resnest", {"cardinality": 0}),
        ("resnest", {"squeeze": 0}),
        ("convnext", {"edge": 4}),
        ("convnext", {"edge": 1}),
        ("convnext", {"expansion": 0}),
        ("convnext", {"scale": -1.0}),
        ("poolformer", {"edge": 2}),
        ("poolformer", {"expansion": 0}),
        ("poolformer", {"scale": 2.0}),
    ],
)
def test_a_refused_option_names_the_block_and_the_option(name: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(BadPlan, match=f"block '{name}': .*{option} "):
        survey(network(name, 2, **options), 1, 2, (4, 8))
