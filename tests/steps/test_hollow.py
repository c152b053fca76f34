"""Tensors without numbers pass for those that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoseg.steps.hollow import Hollow, hollowed


def hollow(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return Hollow(torch.empty(shape, dtype=dtype, device="meta"))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.shape, a.dtype, a.stride(), a.device) == (b.shape, b.dtype, b.stride(), b.device)


STEPS = {
    "convolution": lambda x: F.conv2d(x, torch.ones(6, 4, 3, 3), stride=2),
    "transposed": lambda x: F.conv_transpose2d(x, torch.ones(4, 6, 2, 2), stride=2),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x),
    "layer norm": lambda x: F.layer_norm(x, [16]),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "interpolation": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(16, 16)),
    "product": lambda x: x @ x.transpose(-1, -2),
    "view": lambda x: x.permute(0, 2, 3, 1)[..., 1:],
    "sums": lambda x: torch.cat([x.sum(1, keepdim=True), x.amax(1, keepdim=True)], 1).softmax(1),
    "in place": lambda x: F.leaky_relu((x + 1).clone(), 0.01, inplace=True) * 2,
    "a number": lambda x: x * float(torch.ones(()).item()),
    "pooling": lambda x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 3),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("half", [False, True])
def test_answers_and_gradients_are_shaped_as_with_numbers(name: str, half: bool) -> None:
    real = torch.ones(2, 4, 16, 16, requires_grad=True)
    fake = hollow(2, 4, 16, 16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        answers = [STEPS[name](x) for x in (real, fake)]
    assert same(*answers)
    for answer in answers:
        answer.sum().backward()
    assert real.grad is not None and fake.grad is not None and same(real.grad, fake.grad)


def test_what_one_operation_writes_into_and_looks_at_shares_memory() -> None:
    x = hollow(4, 8)
    assert x.view(8, 4).meta.untyped_storage()._cdata == x.meta.untyped_storage()._cdata
    assert x.add_(1) is x
    assert (x + 1).meta.untyped_storage()._cdata != x.meta.untyped_storage()._cdata


def test_a_module_becomes_hollow_with_its_buffers() -> None:
    module = hollowed(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert all(isinstance(t, Hollow) for t in (*module.parameters(), *module.buffers()))
    assert all(p.requires_grad and isinstance(p, nn.Parameter) for p in module.parameters())
    module(hollow(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None and same(p.grad, p) for p in module.parameters())
