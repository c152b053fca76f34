"""Three branches in training, one convolution in prediction, the same answer."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.blocks.repvgg import Branches, RepVGG, fuse
from autoseg.nets.survey import build
from autoseg.records import Network, Part, Shape

NORM = nn.modules.batchnorm._BatchNorm


def used(network: nn.Module, *size: int) -> nn.Module:
    """The network with weights and running statistics as after some training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, NORM):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    for _ in range(3):
        network.train()(torch.randn(4, *size) * 2 + 1)
    return network.eval()


def test_the_branches_are_summed_before_the_activation() -> None:
    torch.manual_seed(0)
    block = RepVGG(2, 3, 3, (3, 3), (1, 1), convs=1).double().train()
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    (one,) = block.layers

    def normed(x: Tensor) -> Tensor:
        axes = (0, 2, 3)
        return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()

    point = torch.einsum("bi...,oi->bo...", x, one.point.weight[:, :, 0, 0])
    y = normed(F.conv2d(x, one.wide.weight, padding=1)) + normed(point) + normed(x)
    assert torch.allclose(block(x), torch.where(y > 0, y, 0.01 * y))


def test_the_identity_stands_where_the_shape_stays() -> None:
    assert [one.same_norm is None for one in RepVGG(2, 4, 4, (3, 3), (1, 1)).layers] == [False, False]
    assert [one.same_norm is None for one in RepVGG(2, 4, 4, (3, 3), (1, 2)).layers] == [True, False]
    assert [one.same_norm is None for one in RepVGG(2, 3, 4, (3, 3), (1, 1)).layers] == [True, False]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_fused_block_answers_the_same(dims: int) -> None:
    kernels: list[Shape] = [(3,) * dims, (1,) + (3,) * (dims - 1), (1,) * dims, (5,) * dims]
    strides: list[Shape] = [(1,) * dims, (2,) * dims, (1,) + (2,) * (dims - 1)]
    for kernel, stride, source in itertools.product(kernels, strides, (3, 4)):
        size = (source, *(5, 6, 7)[:dims])
        block, x = used(RepVGG(dims, source, 4, kernel, stride), *size), torch.randn(2, *size)
        with torch.no_grad():
            assert torch.allclose(fuse(block)(x), block(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("strides", [((1, 1), (2, 2), (1, 2)), ((1, 1, 1), (1, 2, 2), (2, 2, 2))])
def test_a_network_answers_the_same_with_its_blocks_fused(strides: tuple[Shape, ...]) -> None:
    dims, block = len(strides[0]), Part(name="repvgg")
    plan = Network(
        architecture=Part(name="unet"), block=block, decoder_block=block, norm=Part(name="batch"), features=(4, 6, 8),
        strides=strides, kernels=((3,) * dims,) * 3, depths=(1, 2, 1), decoder_depths=(1, 1),
    )  # fmt: skip
    patch = (8,) * dims
    network = used(build(plan, 2, 3, patch), 2, *patch)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fused, x = fuse(network), torch.randn(2, 2, *patch)
    with torch.no_grad():
        (expected,), (got,) = network(x), fused(x)
    assert float(expected.std()) > 0.1
    assert torch.allclose(got, expected, atol=1e-4, rtol=0)
    assert not any(isinstance(module, Branches | NORM) for module in fused.modules())
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()) and len(after) == len(before)
    branches = sum(isinstance(module, Branches) for module in network.modules())
    assert branches == 2 * (1 + 2 + 1 + 1 + 1)
    convolutions = [sum(hasattr(m, "kernel_size") for m in net.modules()) for net in (network, fused)]
    assert convolutions[0] - convolutions[1] == branches


def test_in_training_the_fused_answer_differs() -> None:
    """Batch statistics are not running statistics: the equality holds for prediction alone."""
    block, x = used(RepVGG(2, 4, 4, (3, 3), (1, 1)), 4, 6, 6).train(), torch.randn(4, 4, 6, 6)
    fused = fuse(block)
    assert block.training and not fused.training
    assert not torch.allclose(fused(x), block(x), atol=1e-2)


def test_a_network_without_such_blocks_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    x = torch.randn(1, 1, 5, 5)
    assert torch.equal(fuse(network)(x), network(x))
