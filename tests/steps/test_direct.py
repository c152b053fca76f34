"""Networks whose convolutions go to oneDNN directly answer the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoseg.nets.survey import build
from autoseg.records import Network, Part
from autoseg.steps.direct import direct


@pytest.mark.parametrize("name", ["unet", "resenc", "unetpp", "ggnet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_answer_is_the_same_in_float32_and_in_bf16(name: str, dims: int) -> None:
    torch.manual_seed(0)
    network = Network.plain((4, 6, 8), ((1,) * dims, (2,) * dims, (2,) * dims), architecture=Part(name=name))
    made = build(network, 2, 3, (16,) * dims).eval()
    x = torch.randn(1, 2, *(16,) * dims)
    with torch.inference_mode():
        usual = made(x)[0]
        names = [*made.state_dict()]
        assert torch.allclose(direct(made)(x)[0], usual, atol=1e-4) and [*made.state_dict()] == names
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(made(x)[0].float(), usual)


def test_it_is_onednn_that_computes_and_only_where_nothing_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compute = torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *words: calls.append(1) or compute(*words))
    network = direct(
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 1), nn.Conv3d(2, 2, 3, padding="same"))
    )
    x = torch.randn(1, 1, 5, 5, 5)
    network(x).sum().backward()
    assert not calls and network[0].weight.grad is not None
    with torch.inference_mode():
        network(x)
    assert len(calls) == 2
