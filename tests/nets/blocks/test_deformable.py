"""Deformable convolution: the plain one at its start, a sampler written by hand everywhere else."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoseg.nets.blocks.deformable import Deformable, DeformableConvolution, bilinear
from autoseg.nets.blocks.plain import Plain
from autoseg.records import Part

few = settings(max_examples=15, deadline=None)
sides = st.sampled_from([1, 3, 5])


def volume(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def read(image: Tensor, y: float, x: float) -> Tensor:
    """(C, height, width) between its pixels, 0 outside: (C,)."""
    total = image.new_zeros(len(image))
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
            total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


@few
@given(st.tuples(sides, sides), st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 7), st.integers(1, 7))
def test_it_starts_as_the_plain_convolution_up_to_the_border(
    kernel: tuple[int, int], stride: tuple[int, int], height: int, width: int
) -> None:
    torch.manual_seed(0)
    layer, x = DeformableConvolution(2, 3, kernel, stride).double(), volume(2, 2, height, width)
    nn.init.normal_(layer.conv.bias)
    assert torch.allclose(layer(x), layer.conv(x))


@pytest.mark.parametrize(("kernel", "stride", "size"), [((3, 3), (2, 1), (4, 3)), ((1, 3), (1, 2), (3, 5))])
def test_it_equals_a_sampler_written_by_hand(
    kernel: tuple[int, int], stride: tuple[int, int], size: tuple[int, int]
) -> None:
    """Zhu 2019, equation 1, one tap of one position after the other; some of them read outside."""
    torch.manual_seed(0)
    layer, x = DeformableConvolution(2, 3, kernel, stride).double(), volume(2, 2, *size)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    learned, out = layer.learned(x).detach(), layer(x).detach()
    weight, bias = layer.conv.weight.detach(), layer.conv.bias.detach()
    assert float(learned.abs().max()) > max(size)
    for sample, row, column in itertools.product(range(2), range(out.shape[2]), range(out.shape[3])):
        total = bias.clone()
        for tap, (i, j) in enumerate(itertools.product(range(kernel[0]), range(kernel[1]))):
            down, right, factor = learned[sample, 3 * tap : 3 * tap + 3, row, column].tolist()
            y = row * stride[0] + i - kernel[0] // 2 + down
            along = column * stride[1] + j - kernel[1] // 2 + right
            total += weight[:, :, i, j] @ read(x[sample], y, along) * 2 / (1 + math.exp(-factor))
        assert torch.allclose(out[sample, :, row, column], total)


@pytest.mark.parametrize("shift", [(0, 1), (-1, 0), (2, -1)])
def test_whole_offsets_read_the_image_moved(shift: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, x = DeformableConvolution(1, 2, (3, 3), (1, 1)).double(), volume(1, 1, 6, 7)
    layer.learned.bias.data = torch.tensor([*shift, 0.0]).double().repeat(9)
    padded = torch.nn.functional.pad(x, (3, 3, 3, 3))
    moved = layer.conv(padded.roll((-shift[0], -shift[1]), (2, 3)))[..., 3:-3, 3:-3]
    assert torch.allclose(layer(x), moved)


def test_reading_at_the_pixels_answers_the_pixels() -> None:
    image = volume(2, 3, 4, 5)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    found = bilinear(image, *(axis.double().expand(2, 1, 4, 5) for axis in (rows, columns)))
    assert torch.allclose(found[:, :, 0], image)


def test_offsets_and_factors_learn_from_the_first_step_on() -> None:
    torch.manual_seed(0)
    layer = DeformableConvolution(2, 3, (3, 3), (1, 1)).double()
    layer(volume(2, 2, 6, 6)).square().sum().backward()
    assert not layer.learned.weight.any() and not layer.learned.bias.any()
    assert (layer.learned.bias.grad != 0).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_offsets_keep_their_precision_in_bf16(kind: torch.dtype) -> None:
    """bf16 has no odd numbers above 256: positions far from the origin would be read from their neighbours."""
    torch.manual_seed(0)
    layer, x = DeformableConvolution(1, 1, (1, 3), (1, 1)), torch.randn(1, 1, 1, 600).to(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(layer(x), layer.conv(x), atol=0.02)


def test_a_block_starts_as_the_plain_block() -> None:
    torch.manual_seed(0)
    norm = Part(name="instance")
    block, plain = (kind(2, 2, 4, (3, 3), (2, 2), norm) for kind in (Deformable, Plain))
    own = {name.replace("conv.", ""): value for name, value in block.state_dict().items() if "learned" not in name}
    plain.load_state_dict(own)
    x = torch.randn(2, 2, 7, 6)
    assert torch.allclose(block(x), plain(x), atol=1e-5)


def test_a_dilated_one_without_offsets_is_the_dilated_convolution() -> None:
    from autoseg.nets.blocks.deformable import DeformableConvolution

    deformable, x = DeformableConvolution(3, 4, (3, 3), (1, 1)), torch.randn(2, 3, 9, 8)
    for layer in (deformable.conv, deformable.learned):
        assert isinstance(layer, nn.Conv2d)
        layer.dilation, layer.padding = (2, 3), (2, 3)
    assert torch.allclose(deformable(x), deformable.conv(x), atol=1e-5)
