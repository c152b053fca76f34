"""The GPU's part of bench_train.py: both sides on 128³ and 512², the share of what the GPU can do, Dice in minutes."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from bench_train_clock import say
from bench_train_made import balls_task, discs_task
from bench_train_sides import Ours, answer

# a plan as nnU-Net's of these: 128³ with batch 2 and 512² with batch 12 (NET: small ones, for a run without a GPU)
MADE = {"3d": ("Made3d", (160, 160, 160), 10), "2d": ("Made2d", (640, 640), 20)}
SIZES = {"3d": ((128, 128, 128), 2), "2d": ((512, 512), 12)}


def gpu(wanted: argparse.Namespace) -> dict[str, Any]:
    """Speed of both sides on a GPU: hippocampus where given, 128³ and 512²; then Dice in --minutes of training."""
    import bench_train

    ceiling = answer(
        [sys.executable, __file__, "ceiling", json.dumps({"device": wanted.device, "quick": wanted.quick})]
    )
    say(f"matrix products in bf16: {ceiling / 1e12:.2f} TFLOP/s")
    found: dict[str, Any] = {"ceiling": ceiling}
    for title in ("3d", "2d"):
        found[f"made {title}"] = _speed(bench_train.speed, _made(title, wanted), title, ceiling, wanted)
    if wanted.task is not None:
        found["task"] = _speed(bench_train.speed, wanted, "3d", ceiling, wanted)
        alone = copy.copy(wanted)
        alone.minutes = [0.5] if wanted.quick else wanted.minutes
        found["dice"] = bench_train.alone(alone)
    return found


def _made(title: str, wanted: argparse.Namespace) -> argparse.Namespace:
    """What was wanted, of a made task."""
    name, shape, count = MADE[title]
    if wanted.quick:
        name, shape, count = f"{name}Small", tuple(edge // 4 for edge in shape), 6
    folder = wanted.work / "made" / name
    say(f"task {name}")
    {"3d": balls_task, "2d": discs_task}[title](folder, count, shape, wanted.seed)  # type: ignore[operator]
    one = copy.copy(wanted)
    one.task = folder
    return one


def _speed(
    speed: Callable[..., dict[str, Any]],
    one: argparse.Namespace,
    title: str,
    ceiling: float,
    wanted: argparse.Namespace,
) -> dict[str, Any]:
    """Both sides' speed with nnU-Net's rules, and the share of the ceiling that ours reaches."""
    one = copy.copy(one)
    one.configuration = title
    words = ["--rules", "nnunet", "--memory", "8GB"]
    if one.task != wanted.task and not wanted.quick:
        patch, batch = SIZES[title]
        words += [
            "--set",
            f"configurations.{title}.patch={list(patch)}",
            "--set",
            f"configurations.{title}.batch={batch}",
        ]
    found = speed(one, "nnunet", tuple(words))
    ours = Ours(one.work / one.task.name / "ours", one.task.name, "nnunet")
    work = _flops(ours, title)
    for side in ("autoseg", "nnU-Net"):
        if side in found:
            found[side]["ceiling_share"] = work / found[side]["seconds"] / ceiling
            print(f"{side}: {found[side]['ceiling_share']:.1%} of the ceiling of {ceiling / 1e12:.1f} TFLOP/s")
    return found


def _flops(ours: Ours, title: str) -> float:
    """Floating-point operations of a training step's convolutions, forward and back (back counted as twice)."""
    from autoseg.nets import survey

    plan = ours.read()
    one = plan.configurations[title]
    found = survey.survey(one.network, len(plan.question.channels), len(plan.question.outputs), one.patch)
    return 3.0 * found.flops * one.batch


def matmul_ceiling(spec: dict[str, Any]) -> float:
    """Operations per second of a large matrix product in bf16, the best of several."""
    import torch

    edge = 1024 if spec["quick"] or spec["device"] == "cpu" else 8192
    a, b = (torch.randn(edge, edge, device=spec["device"], dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5 if spec["quick"] else 30):
        _wait(spec["device"])
        began = time.perf_counter()
        a @ b
        _wait(spec["device"])
        best = min(best, time.perf_counter() - began)
    return 2 * edge**3 / best


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps({"ceiling": matmul_ceiling}[sys.argv[1]](json.loads(sys.argv[2]))))
