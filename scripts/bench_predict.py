"""Prediction beside nnU-Net's: time and memory of whole processes, agreement of the labels, ceilings that hold.

    python scripts/bench_predict.py cases  TASK_FOLDER --count 60
    python scripts/bench_predict.py first  TASK_FOLDER
    python scripts/bench_predict.py volume
    python scripts/bench_predict.py memory --ram 6G
    python scripts/bench_predict.py raster --size 30000
    python scripts/bench_predict.py pixels

TASK_FOLDER is as bench_train.py wants it. Nothing is asked on the way. Progress goes to stderr; the tables are
Markdown; the last line of stdout is one JSON object with every figure.

Both sides have --threads processors (two; Linux), run the same network with the same weights, tiles at the same step
and the same mirrors, and take turns as whole processes: `autoseg predict`, and `nnUNetv2_predict` with one process for
preprocessing, one for export and its defaults else. It runs in the environment that scripts/opponent makes
(AUTOSEG_OPPONENT names it). That both give the network the same numbers is checked first; where an image is resampled
they differ a little, as nnU-Net limits the result to the range of the image. Homes and models of both are made once and
stay in --work DIR; remove it to begin anew.

Memory is PSS, summed over all processes of a side every 50 ms: pages that processes share are counted once.

cases     the first images of the task, with a network that --steps of training have taught something.
first     one image: what a fresh process needs to its first label.
volume    a made scan of 512 × 512 × 300 voxels, of which 1.5 mm are a resampling, 25 classes, no mirrors.
memory    ours alone: classes × slices of 512 × 512 under a ceiling.
raster    ours alone: a GeoTIFF of 8 bands through one convolution.
pixels    ours alone: time per pixel, 2,000² against 8,000².
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_predict_made import organs_task, scan
from bench_predict_own import memory, pixels, rasters
from bench_predict_sides import (
    agreement,
    apart,
    inputs,
    laid,
    our_prediction,
    their_model,
    their_prediction,
    trained,
    ways,
)
from bench_train_clock import say
from bench_train_sides import Ours, Theirs, settle

ROOT = Path(__file__).resolve().parent.parent
GB = 1e9
SAME = 0.01  # by how much what the two networks are given may differ in the mean, in standard deviations
CHECKED = 3  # images whose preprocessing is compared
FULL, QUICK = (300, 512, 512), (60, 128, 128)  # voxels of the volume
SPACING, WANTED = (1.0, 0.75, 0.75), 1.5  # mm


# -- both sides ---------------------------------------------------------------------------------------


def cases(wanted: argparse.Namespace) -> dict[str, Any]:
    """Many small images, mirrored."""
    ours = trained(wanted, "planned" if wanted.plan_words else "default", tuple(wanted.plan_words.split()))
    theirs = their_model(ours, wanted)
    images = inputs(ours, wanted.count, wanted.work / "images")
    facts = _checked(ours, theirs, images, wanted)
    return {**facts, **_compared(ours, theirs, wanted, mirrors=True)}


def first(wanted: argparse.Namespace) -> dict[str, Any]:
    """One small image."""
    wanted.count = 1
    return cases(wanted)


def volume(wanted: argparse.Namespace) -> dict[str, Any]:
    """One large scan with many classes."""
    edge, patch = (48, 32) if wanted.quick else (128, 96)
    shape = (edge * 3 // 4, edge, edge)
    name = f"Organs{wanted.organs}_{edge}"
    wanted.task = organs_task(wanted.work / "made" / name, wanted.organs, shape, SPACING, wanted.seed)
    ours = trained(wanted, "volume", _plan_words(patch))
    theirs = their_model(ours, wanted)
    facts = _checked(ours, theirs, inputs(ours, CHECKED, wanted.work / "small"), wanted)
    size = QUICK if wanted.quick else FULL
    say(f"a scan of {' × '.join(map(str, size))} voxels")
    file = scan(wanted.work / "scans" / f"ct_{size[0]}x{size[1]}.nii.gz", size, SPACING, wanted.seed)
    laid({"scan": file}, wanted.work / "images")
    return {**facts, "shape": size, **_compared(ours, theirs, wanted, mirrors=False)}


def _plan_words(patch: int) -> tuple[str, ...]:
    """A plain U-Net of 8 base features at 1.5 mm."""
    features = [8, 16, 32, 64] if patch < 64 else [8, 16, 32, 64, 128]
    count = len(features)
    network = {
        "features": features, "strides": [[1] * 3, *([[2] * 3] * (count - 1))], "kernels": [[3] * 3] * count,
        "depths": [1] * count, "decoder_depths": [1] * (count - 1),
    }  # fmt: skip
    fields = {"spacing": [WANTED] * 3, "patch": [patch] * 3, "batch": 2}
    fields |= {f"network.{field}": value for field, value in network.items()}
    sets = [f"configurations.3d.{field}={json.dumps(value)}" for field, value in fields.items()]
    return tuple(word for one in sets for word in ("--set", one))


def _checked(
    ours: Ours, theirs: Theirs | None, images: Mapping[str, Path], wanted: argparse.Namespace
) -> dict[str, Any]:
    """What is compared, after a look at whether both networks are given the same. Raises: SystemExit where not."""
    one = ours.read().configurations[wanted.configuration]
    facts: dict[str, Any] = {"task": ours.task, "patch": one.patch, "spacing": one.spacing, "steps": wanted.steps}
    if theirs is None:
        return facts
    few = dict([*images.items()][:CHECKED])
    off = apart(ours, theirs, wanted.configuration, few, wanted.work / "prepared")
    say(f"what both networks are given differs by {off['mean']:.1e} in the mean, {off['largest']:.1e} at most")
    if off["mean"] > SAME:
        raise SystemExit(f"autoseg and nnU-Net preprocess otherwise: their numbers differ by {off['mean']:.3g}")
    return {**facts, "preprocessing_differs": off}


def _compared(ours: Ours, theirs: Theirs | None, wanted: argparse.Namespace, *, mirrors: bool) -> dict[str, Any]:
    """Both sides in turn."""
    images, question = wanted.work / "images", ours.read().question
    gpu = wanted.device != "cpu"
    common = ["--step", str(wanted.step), "--device", wanted.device, *([] if mirrors else ["--no-mirror"])]
    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(wanted.pairs):
        for way, words in ways(wanted.device).items():
            out = wanted.work / "labels" / way.replace(", ", "_")
            found = our_prediction(ours, wanted.configuration, images, out, [*common, *words], gpu=gpu)
            runs.setdefault(f"autoseg, {way}", []).append({**found, "labels": str(out)})
        if theirs:
            out = wanted.work / "labels" / "nnunet"
            their = their_prediction(theirs, images, out, wanted, mirrors=mirrors, gpu=gpu)
            for name in [name for name in runs if name != "nnU-Net"]:
                mine = Path(runs[name][-1]["labels"])
                runs[name][-1]["agreement"] = agreement(mine, out, question)
            runs.setdefault("nnU-Net", []).append(their)
        took = ", ".join(f"{name} {found[-1]['seconds']:.1f} s" for name, found in runs.items())
        say(f"pair {number + 1} of {wanted.pairs}: {took}")
    return _told(runs, len([*images.iterdir()]))


def _told(runs: Mapping[str, list[dict[str, Any]]], count: int) -> dict[str, Any]:
    """Prints the table; its figures."""
    their, found = runs.get("nnU-Net", []), dict[str, Any]()
    print(f"\n{count} image{'s' * (count > 1)}\n")
    print("| side | seconds | of nnU-Net's | CPU-seconds | memory, GB | of nnU-Net's | labels agree: mean, worst |")
    print("|---|---|---|---|---|---|---|")
    for name, one in runs.items():
        row: dict[str, Any] = {part: statistics.median(run[part] for run in one)
                               for part in ("seconds", "cpu_seconds", "peak", "largest")}  # fmt: skip
        row |= {"busy": statistics.mean(run["busy"] for run in one)} if "busy" in one[0] else {}
        cells = ["", ""]
        if their and name != "nnU-Net":
            pairs = [*zip(one, their, strict=True)]
            row["time_ratios"] = [mine["seconds"] / other["seconds"] for mine, other in pairs]
            row["time_ratio"] = statistics.median(row["time_ratios"])
            row["memory_ratio"] = statistics.median(mine["peak"] / other["peak"] for mine, other in pairs)
            cells = [f"{row['time_ratio']:.2f}", f"{row['memory_ratio']:.2f}"]
        agree = [run["agreement"] for run in one if "agreement" in run]
        shares = [min(each[part] for each in agree) for part in ("mean", "worst")] if agree else []
        seconds, memory = f"{row['seconds']:.1f} | {cells[0]}", f"{row['peak'] / GB:.2f} | {cells[1]}"
        same = ", ".join(f"{share:.4%}" for share in shares)
        print(f"| {name} | {seconds} | {row['cpu_seconds']:.1f} | {memory} | {same} |", flush=True)
        found[name] = {**row, "agreement": shares, "runs": one}
    return {"sides": found}


# -- the command line ---------------------------------------------------------------------------------


COMMANDS = {"cases": cases, "first": first, "volume": volume, "memory": memory, "raster": rasters, "pixels": pixels}
FEW = {"count": 3, "steps": 20, "slices": [20, 40], "classes": [2, 25], "size": 2000, "sizes": [300, 900]}


def parser() -> argparse.ArgumentParser:
    """Of all sub-commands."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    for name, act in COMMANDS.items():
        one = commands.add_parser(name, help=(act.__doc__ or "").splitlines()[0])
        one.set_defaults(act=act)
        if name in ("cases", "first"):
            one.add_argument("task", type=Path, help="the task's folder")
            one.add_argument("--configuration", default="3d", choices=["2d", "3d"])
        _options(one, name)
    return made


def _options(one: argparse.ArgumentParser, name: str) -> None:
    one.add_argument("--work", type=Path, default=ROOT / "work" / "bench_predict", help="where homes are kept")
    one.add_argument("--device", default="cpu")
    one.add_argument("--threads", type=int, default=2, help="of each side (2)")
    one.add_argument("--workers", type=int, default=2, help="processes that preprocess for the training (2)")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--quick", action="store_true", help="one pair, little work: shows that it runs")
    one.add_argument("--passive", action="store_true", help="threads sleep while they wait, on both sides")
    one.add_argument("--pairs", type=int, default=1 if name == "volume" else 3)
    one.add_argument("--step", type=float, default=1.0 if name == "memory" else 0.5, help="of tiles, in patches")
    one.add_argument("--steps", type=int, default=1 if name == "volume" else 200, help="of training")
    one.add_argument("--count", type=int, default=60, help="of cases: how many images")
    one.add_argument("--organs", type=int, default=25, help="of volume: classes, background included")
    one.add_argument("--plan-words", default="", help="further words for autoseg plan, in quotes")
    one.add_argument("--ram", default="6G" if name == "memory" else "", help="ceiling that autoseg predict is given")
    one.add_argument("--classes", type=int, nargs="+", default=[2, 25, 118], help="of memory")
    one.add_argument("--slices", type=int, nargs="+", default=[200, 824], help="of memory")
    one.add_argument("--size", type=int, default=30_000, help="of raster: pixels of an edge")
    one.add_argument("--sizes", type=int, nargs=2, default=[2000, 8000], help="of pixels: a small and a large edge")


def main() -> None:
    """Runs one sub-command and ends with the JSON."""
    wanted = parser().parse_args()
    if wanted.command == "volume":
        wanted.configuration = "3d"
    wanted.work = wanted.work.resolve() / wanted.command.replace("first", "cases")
    if wanted.quick:
        wanted.work, wanted.pairs = wanted.work.with_name(f"{wanted.work.name}_quick"), 1
        vars(wanted).update(FEW if wanted.command != "volume" else {})
    settle(wanted.threads, wanted.device, wanted.passive)
    print(json.dumps({"threads": wanted.threads, "device": wanted.device, **wanted.act(wanted)}, default=str))


if __name__ == "__main__":
    main()
