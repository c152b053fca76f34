"""Devices and precisions."""

from __future__ import annotations

import pytest
import torch

from autoseg.errors import BadUsage
from autoseg.steps import device


def test_the_cpu_is_always_there_and_auto_gives_something() -> None:
    assert device.choose("cpu").type == "cpu" and device.choose("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("wish", ["gpu", "cuda:99", "tpu:x", ""])
def test_what_is_not_there_is_told(wish: str) -> None:
    with pytest.raises(BadUsage, match=r"autoseg doctor|expected auto"):
        device.choose(wish)


def test_float32_is_one_option_away() -> None:
    cpu = torch.device("cpu")
    assert device.precision(cpu, "float32") == "float32" and device.precision(cpu, "bf16") == "bf16"
    assert device.precision(cpu, "auto") == ("bf16" if device.has_bf16(cpu) else "float32")
    x = torch.ones(2, 2)
    with device.autocast(cpu, "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with device.autocast(cpu, "float32"):
        assert (x @ x).dtype == torch.float32


def test_memory_is_plausible() -> None:
    assert 10**8 < device.memory(torch.device("cpu")) < 10**14
