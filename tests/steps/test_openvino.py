"""OpenVINO answers as torch does, or says that it cannot."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoseg import parts
from autoseg.errors import BadUsage
from autoseg.records import Network, Part
from autoseg.steps import openvino as engine

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = find_spec("openvino") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="openvino is not installed: pip install 'autoseg[export]'")
CALLS = itertools.count()
EVERY = [(name, dims) for name in parts.NETWORKS for dims in (2, 3) if (name, dims) != ("deeplabv3p", 3)]


def built(name: str, dims: int, channels: int = 2) -> tuple[nn.Module, tuple[int, ...]]:
    """A small network of the architecture, and its patch."""
    strides = ((1,) * dims, (2,) * dims, (1,) * (dims - 1) + (2,))
    network = Network.plain((8, 12, 16), strides, architecture=Part(name=name))
    network = getattr(parts.NETWORKS.get(name), "suit", lambda plain: plain)(network)
    patch = tuple(d * max(1, 16 // d) for d in network.divisor)
    torch.manual_seed(0)
    made = parts.NETWORKS.build(network.architecture, network=network, channels=channels, classes=3, patch=patch)
    return made, patch


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Answering(nn.Module):
    """A network of one convolution that adds what `odd` makes of it."""

    def __init__(self, odd: object) -> None:
        super().__init__()
        self.layer, self.odd = nn.Conv2d(1, 2, 3, padding=1), odd

    def forward(self, batch: Tensor) -> list[Tensor]:
        return [self.odd(self.layer(batch))]  # type: ignore[operator]


# -- without OpenVINO ----------------------------------------------------------------------------------


def test_where_it_is_not_installed_that_is_known_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert engine.available() is False
    with pytest.raises(BadUsage, match=r"OpenVINO cannot be loaded .*; install it: pip install 'autoseg\[export\]'"):
        engine.compiled(Answering(lambda x: x), 1, (8, 8), "float32", 1)
    assert engine.REPORTS not in sys.modules


# -- with it -------------------------------------------------------------------------------------------


@needed
@pytest.mark.parametrize(
    ("name", "dims"), [pytest.param(*one, marks=() if one[0] == "unet" else pytest.mark.slow) for one in EVERY]
)
def test_every_architecture_answers_as_torch_does(name: str, dims: int) -> None:
    network, patch = built(name, dims)
    made = engine.compiled(network.train(), 2, patch, "float32", 1)
    batch = noise(3, 2, *patch)
    with torch.inference_mode():
        expected = network.eval()(batch)
        answers = made.eval()(batch)
    assert len(answers) == 1 and answers[0].dtype == torch.float32 and answers[0].shape == expected[0].shape
    assert torch.allclose(answers[0], expected[0], atol=1e-4 * float(expected[0].abs().max()))
    assert (answers[0].argmax(1) == expected[0].argmax(1)).float().mean() >= 0.999


@needed
def test_bf16_is_near_and_the_layout_of_a_batch_does_not_matter() -> None:
    network, patch = built("unet", 2)
    made = engine.compiled(network, 2, patch, "bf16")
    batch = noise(2, 2, *patch)
    with torch.inference_mode():
        expected = network.eval()(batch)[0]
        away = (made(batch)[0] - expected).abs().mean()
        assert away < 0.05 * expected.std()
        assert torch.equal(made(batch.to(memory_format=torch.channels_last))[0], made(batch)[0])
        assert made(batch[:0])[0].shape == (0, *expected.shape[1:])


@needed
def test_many_threads_may_ask_one_network_at_once() -> None:
    network, patch = built("unet", 2)
    made = engine.compiled(network, 2, patch, "float32", 1)
    batches = [noise(2, 2, *patch, seed=seed) for seed in range(8)]
    alone = [made(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = [found for _ in range(5) for found in pool.map(lambda batch: made(batch)[0], batches)]
    assert all(torch.equal(one, two) for one, two in zip(alone * 5, together, strict=True))


@needed
def test_the_network_may_be_dropped_and_patches_of_another_shape_are_refused() -> None:
    network, patch = built("unet", 3)
    made = engine.compiled(network, 2, patch, "float32", 1)
    batch = noise(1, 2, *patch)
    with torch.no_grad():
        expected = network.eval()(batch)[0].clone()
    del network
    gc.collect()
    assert torch.allclose(made(batch)[0], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"compiled for \(2, 16, 16, 16\)"):
        made(noise(1, 2, 8, 8, 8))


@needed
@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (lambda x: x if float(x.sum()) > 0 else -x, "cannot run this network: "),
        (lambda x: torch.from_numpy(x.detach().numpy() + 1), "cannot run this network: "),
        (lambda x: x * (1 + next(CALLS)), "differ from torch's by"),
    ],
)
def test_a_network_that_cannot_be_run_alike_is_refused(odd: object, told: str) -> None:
    with pytest.raises(engine.NotConverted, match=told):
        engine.compiled(Answering(odd), 1, (8, 8), "float32", 1)


@needed
def test_nothing_is_reported_printed_or_changed(tmp_path: Path) -> None:
    code = (
        "import sys, logging, torch; sys.argv.append('--verbose')\n"
        "from autoseg.steps import openvino as engine\n"
        "assert engine.available()\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.layer = torch.nn.Conv2d(1, 2, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return [self.layer(x)]\n"
        "engine.compiled(Net(), 1, (8, 8), 'float32', 1)\n"
        "assert engine.REPORTS not in sys.modules and logging.getLogger().handlers == []\n"
    )
    home = {**os.environ, "HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home, cwd=ROOT)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert not (tmp_path / "intel").exists()


@needed
def test_a_network_whose_convolutions_go_to_onednn_is_converted_all_the_same() -> None:
    from autoseg.steps.direct import direct

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 1)).eval()

    class Answering(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.inner(x)]

    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        usual = Answering()(x)[0]
        found = engine.compiled(direct(Answering()), 1, (8, 8), "float32")(x)[0]
    assert torch.allclose(found, usual, atol=1e-4)
