"""doctor."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

import rich_click as click

from autoseg.cli.session import Session, current, echo_json, json_option, table

CORE = ("torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "scikit-image", "rasterio", "blosc2")
EXTRAS = {"dicom": "highdicom", "ray": "ray", "track": "tensorboard", "export": "openvino", "fast": "edt"}
LEAST_MEMORY, LEAST_DISK = 4e9, 5e9
Row = tuple[str, str, str]


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Show device, memory, versions, extras and free disk, and whether each is enough."""
    rows = list(examine(current(context)))
    if as_json:
        echo_json([dict(zip(("what", "found", "verdict"), row, strict=True)) for row in rows])
    else:
        table("doctor", ["", "found", "verdict"], rows)
    context.exit(0 if all(not verdict.startswith("!") for *_, verdict in rows) else 1)


def examine(session: Session) -> Iterator[Row]:
    """(what, found, verdict) of everything that a run needs; a verdict that begins with ! is a failure."""
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", "ok"
    for package in CORE:
        yield package, *_version(package)
    yield from _devices()
    free = session.home.free_bytes()
    enough = "ok" if free > LEAST_DISK else f"! less than {LEAST_DISK / 1e9:.0f} GB: preprocessed arrays need room"
    yield "disk", f"{free / 1e9:.1f} GB free", enough
    for extra, package in EXTRAS.items():
        found, verdict = _version(package)
        missing = f"optional: pip install 'autoseg[{extra}]'"
        yield f"extra {extra}", found, missing if verdict.startswith("!") else verdict


def _version(package: str) -> tuple[str, str]:
    try:
        return importlib.metadata.version(package), "ok"
    except importlib.metadata.PackageNotFoundError:
        return "missing", "! pip install autoseg"


def _devices() -> Iterator[Row]:
    import torch

    from autoseg.engine import cores
    from autoseg.steps import device as devices

    chosen = devices.choose("auto")
    for number in range(torch.cuda.device_count()):
        size = torch.cuda.get_device_properties(number).total_memory
        yield f"cuda:{number}", f"{torch.cuda.get_device_name(number)}, {size / 1e9:.0f} GB", "ok"
    cpu = torch.device("cpu")
    bf16 = "with bfloat16" if devices.has_bf16(cpu) else "without bfloat16: float32 is used"
    yield "CPU", f"{cores()} cores, {torch.get_num_threads()} threads, {bf16}", "ok"
    memory = devices.memory(cpu)
    yield "memory", f"{memory / 1e9:.1f} GB free", "ok" if memory > LEAST_MEMORY else "! less than 4 GB"
    small = "ok" if chosen.type != "cpu" else "ok: plans are made for the CPU; a GPU trains larger networks"
    yield "device", str(chosen), small
