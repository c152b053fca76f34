"""A batch in pieces has the gradients of the batch at once, whatever its loss."""

from __future__ import annotations

import contextlib

import pytest
import torch

from autoseg import losses
from autoseg.nets import survey
from autoseg.nets.places import parse
from autoseg.records import Network, Part
from autoseg.steps.backward import backward, is_out_of_memory

LABELS = torch.randint(0, 3, (5, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def gradients(network: Network, loss: str, pieces: int) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(0)
    module = survey.build(network, 2, 3, (16, 16)).double().train()
    images = torch.randn(5, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss_of = losses.build(loss, 1)
    value = backward(
        module, images, lambda outputs: losses.over_depths(loss_of, outputs, LABELS), 7, contextlib.nullcontext, pieces
    )
    return float(value.detach()), [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("loss", ["dice+ce", "0.5*tversky+focal", "dice+topk"])
@pytest.mark.parametrize("architecture", ["unet", "unetpp", "ggnet"])
@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_pieces_have_the_gradients_of_the_whole(loss: str, architecture: str, pieces: int) -> None:
    network = Network.plain((4, 8), ((1, 1), (2, 2)), architecture=Part(name=architecture))
    if architecture == "ggnet":
        network = network.model_copy(update={"inserts": parse("global_guidance@bottleneck")})
    whole, slopes = gradients(network, loss, 1)
    value, again = gradients(network, loss, pieces)
    assert value == pytest.approx(whole, rel=1e-6)
    assert len(again) == len(slopes)
    # the loss is computed in float32
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(slopes, again, strict=True))


def test_both_passes_of_a_piece_draw_the_same() -> None:
    network = Network.plain((4, 8), ((1, 1), (2, 2))).model_copy(update={"dropout": 0.5})
    first, second = gradients(network, "dice+ce", 5), gradients(network, "dice+ce", 5)
    assert first[0] == second[0] and all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.parametrize(
    ("problem", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_only_a_want_of_memory_is_one(problem: Exception, is_it: bool) -> None:
    assert is_out_of_memory(problem) == is_it
