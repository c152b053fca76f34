"""Our planner with --rules nnunet beside nnU-Net's own, on made-up fingerprints.

    python scripts/bench_planner.py [--seed 0] [--count 60] [--quick]

Isotropic and anisotropic (to 15:1), tiny and huge, 1 to 13 channels, 2 to 105 classes, 5 to 5,000 cases; a quarter with
a residual encoder preset. Compared per configuration: spacing, patch, strides, kernels and normalisation, which must be
the same, and the batch within one. Every exception is printed; the last line is one JSON object with every figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.arrays.intensity import LEVELS
from autoseg.records import CaseFacts, Channel, Configuration, Fingerprint, Intensity, Part, Plan, Question, Target
from autoseg.steps import plan as planning
from autoseg.steps.design import Variant

ROOT = Path(__file__).resolve().parent.parent
GIGABYTES = {"plain": 8, "M": 8, "L": 24, "XL": 40}
NAMES = {"2d": "2d", "3d": "3d_fullres", "3d_lowres": "3d_lowres"}
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore", "NoNormalization": "none",
           "RescaleTo01Normalization": "range", "RGBTo01Normalization": "range"}  # fmt: skip
CHANNELS = ("CT", "MRI", "T2", "nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "B04")


def made(rng: np.random.Generator) -> dict[str, Any]:
    """A made-up task: median shape and spacing, their spread over the cases, channels and labels."""
    cases = int(np.exp(rng.uniform(np.log(5), np.log(5000))))
    fine = float(np.exp(rng.uniform(np.log(0.3), np.log(2))))
    ratio = float(rng.choice([1.0, rng.uniform(1, 3), np.exp(rng.uniform(np.log(3), np.log(15)))]))
    spacing = np.roll([fine * ratio, fine, fine * rng.uniform(0.9, 1.1)], int(rng.integers(3)) if ratio > 1 else 0)
    edge = float(np.exp(rng.uniform(np.log(20), np.log(700))))
    shape = np.maximum(4, edge * rng.uniform(0.6, 1.4, 3) * (fine / spacing))
    flat = rng.random() < 0.2
    if flat:
        shape, spacing = np.array([1, *rng.uniform(64, 3000, 2)]), np.array([999.0, 1.0, 1.0])
    spread = 1.0 if flat else rng.uniform(1.0, 1.3)
    few = min(cases, 200)  # medians of more cases tell the planners nothing new
    shapes = [[max(1, round(float(n * rng.uniform(1 / spread, spread)))) for n in shape] for _ in range(few)]
    if flat:
        shapes = [[1, *each[1:]] for each in shapes]
    spacings = [[float(s * (1 if flat else rng.uniform(1 / spread, spread))) for s in spacing] for _ in range(few)]
    channels = [str(rng.choice(CHANNELS)) for _ in range(int(rng.integers(1, 14)))]
    classes = int(np.exp(rng.uniform(np.log(2), np.log(105.5))))
    planner = str(rng.choice(["plain", "plain", "plain", "M", "L", "XL"], p=[0.25, 0.25, 0.25, 0.1, 0.1, 0.05]))
    return {
        "shapes": shapes, "spacings": spacings, "channels": channels, "classes": classes, "cases": few,
        "kept": float(rng.choice([1.0, 0.5])), "planner": planner,
    }  # fmt: skip


def theirs(task: dict[str, Any]) -> dict[str, Any]:
    """The task as nnU-Net reads it."""
    stats = {"mean": 40.0, "std": 20.0, "percentile_00_5": -50.0, "percentile_99_5": 120.0, "min": -60.0, "max": 130.0, "median": 40.0}  # fmt: skip  # noqa: E501
    return {
        "planner": task["planner"], "memory": GIGABYTES[task["planner"]],
        "dataset": {
            "channel_names": {str(i): name for i, name in enumerate(task["channels"])},
            "labels": {"background": 0, **{f"c{i}": i for i in range(1, task["classes"])}},
            "numTraining": task["cases"], "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
            "dataset": {f"c{i}": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"} for i in range(task["cases"])},
        },
        "fingerprint": {
            "shapes_after_crop": task["shapes"], "spacings": task["spacings"],
            "median_relative_size_after_cropping": task["kept"],
            "foreground_intensity_properties_per_channel": {str(i): stats for i in range(len(task["channels"]))},
        },
    }  # fmt: skip


def ours(task: dict[str, Any]) -> Plan:
    """Our plan of the task."""
    quantiles = tuple(float(v) for v in np.interp(LEVELS, [0, 0.5, 50, 99.5, 100], [-60, -50, 40, 120, 130]))
    intensity = Intensity(mean=40.0, sd=20.0, quantiles=quantiles)
    count = len(task["channels"])
    cases = {}
    for number, (shape, spacing) in enumerate(zip(task["shapes"], task["spacings"], strict=True)):
        whole = [round(shape[0] / task["kept"]), *shape[1:]]
        cases[str(number)] = CaseFacts(
            sha256=str(number), shape=tuple(whole), cropped=tuple(shape), spacing=tuple(spacing),
            valid=(intensity,) * count, foreground=(intensity,) * count,
        )  # fmt: skip
    question = Question(
        reader="nifti", channels=tuple(Channel(name=name, kind="other") for name in task["channels"]),
        labels={"background": 0, **{f"c{i}": i for i in range(1, task["classes"])}},
    )  # fmt: skip
    variant = Variant() if task["planner"] == "plain" else Variant(architecture=Part(name="resenc"))
    target = Target(device="cuda", memory=GIGABYTES[task["planner"]] * 10**9)
    found = Fingerprint(question="q", flat=all(shape[0] == 1 for shape in task["shapes"]), cases=cases)
    return planning.make(found, question, target, task="Made", name="default", ids=("f", "g"), variant=variant,
                         rules="nnunet")  # fmt: skip


def differences(mine: Plan, their: dict[str, Any]) -> Iterator[str]:
    """What differs, a line each."""
    wanted = {ours for ours, name in NAMES.items() if name in their["configurations"]}
    found = {title for title in mine.configurations if title in NAMES}
    if wanted != found:
        yield f"configurations {sorted(found)} against {sorted(wanted)}"
    for title in sorted(wanted & found):
        yield from _unlike(title, mine.configurations[title], their["configurations"][NAMES[title]])


def _unlike(title: str, one: Configuration, other: dict[str, Any]) -> Iterator[str]:
    kwargs = other["architecture"]["arch_kwargs"]
    pairs = {
        "patch": ([*one.patch], [*map(int, other["patch_size"])]),
        "strides": ([*map(list, one.network.strides)], [list(map(int, s)) for s in kwargs["strides"]]),
        "kernels": ([*map(list, one.network.kernels)], [list(map(int, s)) for s in kwargs["kernel_sizes"]]),
        "features": ([*one.network.features], [*kwargs["features_per_stage"]]),
        "normalisation": ([part.name for part in one.normalise], [SCHEMES[n] for n in other["normalization_schemes"]]),
        "mask": ([bool(p.options.get("masked")) for p in one.normalise], [*map(bool, other["use_mask_for_norm"])]),
    }
    yield from (f"{title} {name}: {a} against {b}" for name, (a, b) in pairs.items() if a != b)
    if not np.allclose(one.spacing, other["spacing"], rtol=1e-4):
        yield f"{title} spacing: {one.spacing} against {other['spacing']}"
    if abs(one.batch - other["batch_size"]) > 1:
        yield f"{title} batch: {one.batch} against {other['batch_size']}"


def main() -> None:
    """Compares, prints, ends with the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="six fingerprints")
    wanted = parser.parse_args()
    rng = np.random.default_rng(wanted.seed)
    tasks = [made(rng) for _ in range(6 if wanted.quick else wanted.count)]
    with tempfile.TemporaryDirectory() as folder:
        for number, task in enumerate(tasks):
            (Path(folder) / f"task_{number:03d}.json").write_text(json.dumps(theirs(task)))
        python = subprocess.run([ROOT / "scripts/opponent", "--python"], check=True, stdout=subprocess.PIPE, text=True)
        subprocess.run([python.stdout.strip(), ROOT / "scripts/opponent_plans.py", folder], check=True)
        answers = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("plan_*.json"))]
    ours(tasks[0])  # the imports are not what is timed
    same, seconds, their_seconds, refused = 0, [], [], 0
    for number, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        began = time.perf_counter()
        mine = ours(task)
        seconds.append(time.perf_counter() - began)
        their_seconds.append(answer["seconds"])
        if "error" in answer:
            refused += 1
            print(f"{number}: nnU-Net fails: {answer['error']}; ours: {', '.join(mine.configurations)}")
            continue
        lines = list(differences(mine, answer["plans"]))
        same += not lines
        for line in lines:
            print(f"{number} ({task['planner']}): {line}")
    compared = len(tasks) - refused
    print(f"\n{same} of {compared} plans are the same; nnU-Net failed on {refused}")
    print(json.dumps({
        "seed": wanted.seed, "count": len(tasks), "compared": compared, "same": same, "share": same / max(1, compared),
        "seconds": statistics.median(seconds), "slowest": max(seconds),
        "nnunet_seconds": statistics.median(their_seconds), "nnunet_slowest": max(their_seconds),
        "python": sys.version.split()[0],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
