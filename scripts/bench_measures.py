"""Dice, IoU, HD95 and NSD of one large label: autoseg's beside MONAI's.

    python scripts/bench_measures.py [--shape 300 512 512] [--classes 25] [--pairs 1] [--threads 2] [--quick]

The label is made here: a body of organs that touch each other, and a prediction with displaced borders and stray
islands. MONAI is given one class after the other, as one call with all of them takes four gigabytes. The values are
compared. The last line of stdout is one JSON object with every figure.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from autoseg.arrays.metrics import confusion, measures
from autoseg.arrays.pairs import pairs
from autoseg.steps.evaluate import measures_named

SPACING = (1.5, 0.8, 0.8)
TOLERANCE = 2.0
Labels = NDArray[np.uint8]


def body(shape: tuple[int, ...], classes: int, seed: int) -> tuple[Labels, Labels]:
    """(prediction, reference): a ball of cells around random seeds, and the same with the seeds moved a little."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0.15, 0.85, (classes - 1, 3))
    moved = centres + rng.normal(0, 0.004, centres.shape)
    rough = [gaussian_filter(rng.normal(0, 1, [max(4, n // 4) for n in shape]), 2) for _ in range(2)]
    made = [
        _cells(shape, points, noise / noise.std() * 0.02) for points, noise in zip((moved, centres), rough, strict=True)
    ]
    for corner in rng.integers(0, np.array(shape) - 6, (200, 3)):
        made[0][tuple(slice(a, a + 4) for a in corner)] = rng.integers(1, classes)
    return made[0], made[1]


def _cells(shape: tuple[int, ...], centres: NDArray[Any], noise: NDArray[Any]) -> Labels:
    y, x = np.meshgrid(np.linspace(0, 1, shape[1]), np.linspace(0, 1, shape[2]), indexing="ij")
    steps = [np.minimum(np.arange(n) // 4, m - 1) for n, m in zip(shape, noise.shape, strict=True)]
    label = np.zeros(shape, np.uint8)
    for row, z in enumerate(np.linspace(0, 1, shape[0])):
        wave = noise[steps[0][row]][np.ix_(steps[1], steps[2])]
        inside = (z - 0.5) ** 2 + (y - 0.5) ** 2 + (x - 0.5) ** 2 < (0.45 + wave) ** 2
        best = np.full(y.shape, np.inf)
        for index, (a, b, c) in enumerate(centres, 1):
            far = (z - a) ** 2 + (y + wave - b) ** 2 + (x - c) ** 2
            nearer = inside & (far < best)
            label[row][nearer] = index
            best = np.where(nearer, far, best)
    return label


def ours(prediction: Labels, reference: Labels, classes: int) -> dict[str, list[float | None]]:
    """All four of every class."""
    counts = confusion(prediction, reference, classes)
    more = measures_named(["hd95", f"nsd(tolerance={TOLERANCE})"], max(SPACING))
    found: dict[str, list[float | None]] = {"dice": [], "iou": [], "hd95": [], "nsd": []}
    groups = [[index] for index in range(1, classes)]
    for group, pair in zip(groups, pairs(prediction, reference, groups, SPACING), strict=True):
        row, (hd95, nsd) = measures(counts, group, 1.0), (measure(pair) for measure in more.values())
        for name, value in (("dice", row.dice), ("iou", row.iou), ("hd95", hd95), ("nsd", nsd)):
            found[name].append(value)
    return found


def theirs(prediction: Labels, reference: Labels, classes: int) -> dict[str, list[float | None]]:
    """MONAI's HD95 and NSD of voxels, and Dice and IoU by counting, of one class after the other."""
    found: dict[str, list[float | None]] = {"dice": [], "iou": [], "hd95": [], "nsd": []}
    for index in range(1, classes):
        guess, truth = (torch.from_numpy(label == index)[None, None] for label in (prediction, reference))
        both, either = int((guess & truth).sum()), int((guess | truth).sum())
        found["iou"].append(both / either)
        found["dice"].append(2 * both / (both + either))
        spacing = list(SPACING)
        found["hd95"].append(float(compute_hausdorff_distance(guess, truth, True, percentile=95, spacing=spacing)))
        found["nsd"].append(float(compute_surface_dice(guess, truth, [TOLERANCE], True, spacing=spacing)))
    return found


def timed(side: Callable[..., dict[str, list[float | None]]], *given: Any) -> tuple[float, float, Any]:
    """Seconds, CPU-seconds, what was found."""
    began, before = time.perf_counter(), time.process_time()
    found = side(*given)
    return time.perf_counter() - began, time.process_time() - before, found


def main() -> None:
    """Runs the pairs and ends with the JSON."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--shape", type=int, nargs=3, default=[300, 512, 512])
    asked.add_argument("--classes", type=int, default=25)
    asked.add_argument("--pairs", type=int, default=1)
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--quick", action="store_true", help="a small label: shows that it runs")
    wanted = asked.parse_args()
    shape = (40, 80, 80) if wanted.quick else tuple(wanted.shape)
    torch.set_num_threads(wanted.threads)
    prediction, reference = body(shape, wanted.classes, wanted.seed)
    rows: list[dict[str, Any]] = []
    for _ in range(wanted.pairs):
        mine = timed(ours, prediction, reference, wanted.classes)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        other = timed(theirs, prediction, reference, wanted.classes)
        apart = max(
            abs((a or 0) - (b or 0)) for name in mine[2] for a, b in zip(mine[2][name], other[2][name], strict=True)
        )
        rows.append({"autoseg": mine[:2], "MONAI": other[:2], "ratio": other[0] / mine[0], "apart": apart, "rss": peak})
    print("| side | seconds | CPU-seconds |\n|---|---|---|")
    for name in ("autoseg", "MONAI"):
        print(f"| {name} | {', '.join(f'{row[name][0]:.1f}' for row in rows)} | "
              f"{', '.join(f'{row[name][1]:.1f}' for row in rows)} |")  # fmt: skip
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"\n{ratio:.2f} times as fast; the values differ by {max(row['apart'] for row in rows):.1e} at most")
    print(json.dumps({"shape": shape, "classes": wanted.classes, "pairs": rows, "ratio": ratio}))


if __name__ == "__main__":
    main()
