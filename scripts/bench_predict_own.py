"""Our side of bench_predict.py alone: memory against a ceiling, rasters, time per pixel."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench_predict_made import configured, raster, rasters_question, scan, untrained, volumes_question
from bench_predict_sides import ENGINE, PRECISION, RAM, options, our_prediction, taken
from bench_train_clock import say
from bench_train_sides import Ours

GB = 1e9
SPACING = (1.0, 0.75, 0.75)
VOXEL = 5  # bytes: float32 of the image, uint8 of the label
HELD = {True: "yes", False: "no", None: "not asked"}


def memory(wanted: argparse.Namespace) -> dict[str, Any]:
    """Peak memory with many classes and slices under the ceiling of --ram."""
    edge, patch = (128, (16, 32, 32)) if wanted.quick else (512, (64, 64, 64))
    rows, ceiling = [], _bytes(wanted.ram)
    print("| classes | slices | image and label, GB | RSS, GB | beside them, GB | holds | PSS, GB | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for slices in wanted.slices:
        shape = (slices, edge, edge)
        say(f"a scan of {slices} slices of {edge} × {edge}")
        image = scan(wanted.work / "scans" / f"ct_{slices}x{edge}.nii.gz", shape, SPACING, wanted.seed)
        for classes in wanted.classes:
            fields, question = volumes_question(classes)
            one = configured(fields, SPACING, patch, (4,), 1)
            ours = untrained(wanted.work / f"classes_{classes}_{edge}", "3d", one, question, wanted.seed)
            found = _alone(ours, "3d", image, wanted, {RAM: wanted.ram})
            given = slices * edge * edge * VOXEL
            rest = found["largest"] - given
            holds = rest <= ceiling if RAM in options() else None
            rows.append({"classes": classes, "slices": slices, "given": given, "beside": rest, "holds": holds, **found})
            sizes = [f"{number / GB:.2f}" for number in (given, found["largest"], rest)]
            cells = [classes, slices, *sizes, HELD[holds], f"{found['peak'] / GB:.2f}", f"{found['seconds']:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return {"ram": wanted.ram, "step": wanted.step, "rows": rows}


def _bytes(ram: str) -> float:
    """What `6G` means."""
    return float(ram.upper().removesuffix("B").removesuffix("G")) * GB


def rasters(wanted: argparse.Namespace) -> dict[str, Any]:
    """Peak memory with a raster of --size x --size pixels and a network of one convolution."""
    size = wanted.size
    say(f"a raster of {size} × {size} pixels in 8 bands")
    image = raster(wanted.work / "rasters" / f"bands8_{size}.tif", size, 8, wanted.seed)
    fields, question = rasters_question(8, 6)
    patch = (64, 64) if wanted.quick else (256, 256)
    one = configured(fields, (10.0, 10.0), patch, (4,), 1)
    ours = untrained(wanted.work / f"one_convolution_{patch[0]}", "2d", one, question, wanted.seed)
    found = _alone(ours, "2d", image, wanted, {RAM: wanted.ram} if wanted.ram else {})
    print("| pixels | file, GB | RSS, GB | PSS, GB | of it not files, GB | seconds |\n|---|---|---|---|---|---|")
    bytes_of_all = (image.stat().st_size, *(found[name] for name in ("largest", "peak", "peak_anonymous")))
    cells = [f"{size}²", *(f"{number / GB:.2f}" for number in bytes_of_all), f"{found['seconds']:.0f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"size": size, "bands": 8, **found}


def pixels(wanted: argparse.Namespace) -> dict[str, Any]:
    """Time per pixel of a small and a large raster with a real network; start-up is shown apart."""
    fields, question = rasters_question(3, 6)
    features, patch = ((4, 8), (64, 64)) if wanted.quick else ((16, 32, 64, 128, 256), (256, 256))
    one = configured(fields, (10.0, 10.0), patch, features, 2)
    ours = untrained(wanted.work / f"unet_{features[0]}_{patch[0]}", "2d", one, question, wanted.seed)
    rows = {}
    for size in (patch[0], *wanted.sizes):  # a raster of one tile shows what starting costs
        image = raster(wanted.work / "rasters" / f"bands3_{size}.tif", size, 3, wanted.seed)
        say(f"{size} × {size} pixels")
        rows[size] = _alone(ours, "2d", image, wanted, {})
    start, (small, large) = rows[patch[0]]["seconds"], wanted.sizes
    print("| pixels | seconds | µs per pixel | without starting | peak, GB |\n|---|---|---|---|---|")
    each, rest = {}, {}
    for size, found in rows.items():
        each[size], rest[size] = found["seconds"] / size**2, (found["seconds"] - start) / size**2
        figures = f"{found['seconds']:.1f} | {each[size] * 1e6:.3f} | {rest[size] * 1e6:.3f} | "
        print(f"| {size}² | {figures}{found['peak'] / GB:.2f} |", flush=True)
    ratios = {"ratio": each[large] / each[small], "ratio_without_start": rest[large] / rest[small]}
    print(f"\nA pixel of {large}² takes {ratios['ratio']:.2f} times as long as one of {small}², "
          f"{ratios['ratio_without_start']:.2f} times without the seconds that starting takes.")  # fmt: skip
    return {"rows": rows, **ratios}


def _alone(ours: Ours, title: str, image: Path, wanted: argparse.Namespace, more: dict[str, str]) -> dict[str, Any]:
    """One file predicted without mirrors, in float32 with torch."""
    words = taken({**more, ENGINE: "torch", PRECISION: "float32"})
    words += ["--step", str(wanted.step), "--no-mirror", "--device", wanted.device]
    return our_prediction(ours, title, image, ours.root / "labels", words)
