"""Fingerprint, plan and preprocessing of a task: ours beside nnUNetv2_plan_and_preprocess, whole processes in turn.

    python scripts/bench_preprocess.py TASK_FOLDER [--pairs 3] [--workers 2] [--quick]

TASK_FOLDER is a task in the layout of the Medical Segmentation Decathlon with one channel (dataset.json, imagesTr,
labelsTr). Both sides plan for a GPU of 8 GB and preprocess `2d` and `3d`, each with as many worker processes. Then one
case is added to ours and the same commands run again: what is measured and preprocessed anew is printed. The last line
is one JSON object with every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TASK = "Task004_Bench"


def cases_of(source: Path) -> tuple[dict[str, Any], list[tuple[Path, Path]]]:
    """The description of the task and its (image, label) files."""
    description = json.loads((source / "dataset.json").read_text())
    pairs = [(source / "imagesTr" / label.name, label) for label in sorted((source / "labelsTr").glob("*.nii.gz"))]
    return description, [(image, label) for image, label in pairs if image.exists()]


def lay_out(pairs: Sequence[tuple[Path, Path]], description: dict[str, Any], folder: Path, suffix: str) -> None:
    """The task with links to its files, images with nnU-Net's channel suffix where one is given."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for image, label in pairs:
        link(image, folder / "imagesTr" / image.name.replace(".nii.gz", f"{suffix}.nii.gz"))
        link(label, folder / "labelsTr" / label.name)
    (folder / "dataset.json").write_text(json.dumps(description))


def link(file: Path, to: Path) -> None:
    """A link, as neither side writes to its input."""
    to.symlink_to(file.resolve())


def nnunet_description(description: dict[str, Any], count: int) -> dict[str, Any]:
    """nnU-Net v2's dataset.json of it."""
    names = description.get("channel_names") or description.get("modality")
    labels = description["labels"]
    turned = {name: int(value) for value, name in labels.items()} if all(k.isdigit() for k in labels) else labels
    return {"channel_names": names, "labels": turned, "numTraining": count, "file_ending": ".nii.gz"}


def timed(command: Sequence[str], **environment: str) -> float:
    """Seconds of the whole process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return time.perf_counter() - began


def ours(home: Path, workers: int) -> float:
    """Plan and preprocess with autoseg."""
    start = [sys.executable, "-m", "autoseg", "--home", str(home)]
    few = ["--workers", str(workers)]
    return timed([*start, "plan", TASK, "--preprocess", "--device", "cuda", "--memory", "8GB", *few])


def theirs(python: str, home: Path, workers: int) -> float:
    """Plan and preprocess with nnU-Net."""
    folders = {name: str(home / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    command = str(Path(python).parent / "nnUNetv2_plan_and_preprocess")
    count = str(workers)
    return timed([command, "-d", "4", "-c", "2d", "3d_fullres", "-np", count, count, "-npfp", count], **folders)


def pair(source: Path, python: str, wanted: argparse.Namespace) -> tuple[float, float]:
    """Seconds of ours and of nnU-Net's, both from nothing."""
    description, pairs = cases_of(source)
    pairs = pairs[: 20 if wanted.quick else None]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lay_out(pairs, msd(description, pairs), home / "datasets" / TASK, "")
        mine = ours(home, wanted.workers)
        raw = home / "nnUNet_raw" / "Dataset004_Bench"
        lay_out(pairs, nnunet_description(description, len(pairs)), raw, "_0000")
        return mine, theirs(python, home, wanted.workers)


def msd(description: dict[str, Any], pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """The decathlon's dataset.json with these cases."""
    listed = [{"image": f"./imagesTr/{i.name}", "label": f"./labelsTr/{j.name}"} for i, j in pairs]
    kept = {name: value for name, value in description.items() if name in ("modality", "channel_names", "labels")}
    return {**kept, "training": listed}


def one_more(source: Path, wanted: argparse.Namespace) -> dict[str, float]:
    """Seconds of the first time with all cases but one, and of the second with that one added."""
    description, pairs = cases_of(source)
    pairs = pairs[: 20 if wanted.quick else None]
    with tempfile.TemporaryDirectory() as folder:
        home, task = Path(folder), Path(folder) / "datasets" / TASK
        lay_out(pairs[:-1], msd(description, pairs[:-1]), task, "")
        first = ours(home, wanted.workers)
        before = {file: file.stat().st_mtime_ns for file in (home / "work").rglob("*") if file.is_file()}
        shutil.rmtree(task)
        lay_out(pairs, msd(description, pairs), task, "")
        second = ours(home, wanted.workers)
        arrays = [file for file in (home / "work").rglob("*.b2nd") if before.get(file) != file.stat().st_mtime_ns]
    cases = len({file.name.split(".")[0].removesuffix("_label") for file in arrays})
    print(f"one case added to {len(pairs) - 1}: {second:.1f} s after {first:.1f} s; arrays written of {cases} case(s)")
    return {"first": first, "second": second, "cases_written": cases}


def main() -> None:
    """Runs the pairs in turn; prints and ends with the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="20 cases, one pair")
    wanted = parser.parse_args()
    found = subprocess.run([ROOT / "scripts/opponent", "--python"], check=True, stdout=subprocess.PIPE, text=True)
    times = [pair(wanted.task, found.stdout.strip(), wanted) for _ in range(1 if wanted.quick else wanted.pairs)]
    for mine, their in times:
        print(f"autoseg {mine:.1f} s, nnU-Net {their:.1f} s: {their / mine:.2f}")
    added = one_more(wanted.task, wanted)
    ratio = statistics.median(their / mine for mine, their in times)
    print(json.dumps({"pairs": times, "ratio": ratio, "added": added}))


if __name__ == "__main__":
    main()
