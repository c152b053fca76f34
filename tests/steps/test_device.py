"""Devices and precisions."""

from __future__ import annotations

import subprocess
import sys

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


def test_the_memory_of_a_step_is_kept_for_the_next() -> None:
    code = """
import resource, sys, torch
from autoseg.steps.device import keep_memory
if "keep" in sys.argv and not keep_memory():
    raise SystemExit
layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
x = torch.randn(2, 8, 256, 256)
pages = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers(x).sum().backward()
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(pages[2:]))
"""
    plain, kept = (
        subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True).stdout
        for word in ("plain", "keep")
    )
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert int(kept) < int(plain) / 10  # fresh pages in a step; a heap may still grow in one of them
