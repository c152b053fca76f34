"""Which device the work runs on and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Literal

import torch

from autoseg.errors import BadUsage

Precision = Literal["bf16", "float32"]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def choose(wish: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:1` or `mps` stands for. Raises: BadUsage when it is not there."""
    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise BadUsage(
            f"unknown device {wish!r}", where="--device", expected="auto, cpu, cuda, cuda:N or mps"
        ) from None
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= there:
        raise BadUsage(f"there is no {wish} here", where="--device", remedy="see autoseg doctor for what there is")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 faster than in float32 (AVX-512-BF16 or AMX on CPUs)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def precision(device: torch.device, wish: str) -> Precision:
    """The precision that `auto`, `bf16` or `float32` stands for on the device."""
    if wish == "auto":
        return "bf16" if has_bf16(device) else "float32"
    return "bf16" if wish == "bf16" else "float32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which networks run."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def memory(device: torch.device) -> int:
    """Bytes of memory of the device: all of a GPU's, what is free of a CPU's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else 8 * 1024**3


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process took so far: of a GPU's, by tensors; else resident ones, 0 on Windows."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def resident_memory() -> int:
    """Bytes that this process has now; where the system does not tell, the most that it had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # macOS, Windows
        return peak_memory(torch.device("cpu"))
    return pages * os.sysconf("SC_PAGE_SIZE")


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees, for the next step; whether the C library can (glibc does).

    The feature maps of a training step are large blocks, which glibc otherwise gives back to the system as soon as
    they are freed: every step would pay for fresh pages, a tenth to a fifth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**31 - 1)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def give_back(device: torch.device) -> None:
    """Gives memory that is kept for the next step back to the device, as far as it is free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "cpu":
        with contextlib.suppress(AttributeError, OSError, TypeError):  # macOS, Windows, musl
            ctypes.CDLL(None).malloc_trim(0)
