"""Whether `autoseg suspects` finds labels that are known to be wrong.

    python scripts/check_suspects.py TASK_FOLDER [--budget 20m] [--wrong 10] [--config 3d] [--seed 0] [--work DIR]

Copies a task in the layout of the Medical Segmentation Decathlon, spoils the labels of some cases in three ways in
turn (mirrored left to right, shifted by a fifth of the image, one class erased), trains all folds of one configuration
within the budget, and tells where the spoilt cases stand among all. Images are linked, labels copied. What was trained
stays in --work and is not trained again. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("mirrored", "shifted", "erased")


def spoilt(label: np.ndarray, way: str, rng: np.random.Generator) -> np.ndarray:
    """The label, wrong in a way."""
    if way == "mirrored":
        return label[::-1].copy()
    if way == "shifted":
        axis = int(rng.integers(3))
        return np.roll(label, max(3, label.shape[axis] // 5), axis)
    present = [value for value in np.unique(label) if value]
    return np.where(label == rng.choice(present), 0, label)


def copied(source: Path, home: Path, count: int, seed: int) -> dict[str, str]:
    """Makes the task in the home; answers how each of the spoilt cases is wrong."""
    target = home / "datasets" / source.name
    told = target / "spoilt.json"
    if told.exists():
        found: dict[str, str] = json.loads(told.read_text())
        return found
    target.mkdir(parents=True)
    (target / "imagesTr").symlink_to((source / "imagesTr").resolve())
    shutil.copytree(source / "labelsTr", target / "labelsTr", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(source / "dataset.json", target)
    rng = np.random.default_rng(seed)
    files = sorted((target / "labelsTr").glob("*.nii.gz"))
    wrong = {}
    for number, at in enumerate(rng.choice(len(files), count, replace=False)):
        file, way = files[int(at)], WAYS[number % len(WAYS)]
        image = nibabel.load(file)
        label = spoilt(np.asarray(image.dataobj), way, rng)
        nibabel.save(nibabel.Nifti1Image(label, image.affine, image.header), file)
        wrong[file.name.removesuffix(".nii.gz")] = way
    told.write_text(json.dumps(wrong))
    return wrong


def autoseg(home: Path, *words: str) -> str:
    """Runs a command; answers its stdout."""
    run = subprocess.run(
        [sys.executable, "-m", "autoseg", "--home", str(home), *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return run.stdout


def main() -> None:
    """Spoils, trains, ranks."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("task", type=Path)
    asked.add_argument("--budget", default="20m")
    asked.add_argument("--wrong", type=int, default=10)
    asked.add_argument("--config", default="3d")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--work", type=Path, default=ROOT / "work" / "check_suspects")
    wanted = asked.parse_args()
    home = wanted.work.resolve()
    wrong = copied(wanted.task, home, wanted.wrong, wanted.seed)
    task = wanted.task.name
    autoseg(home, "plan", task)
    autoseg(home, "crossval", wanted.config, "--budget", wanted.budget, "-t", task)
    ranked: list[dict[str, Any]] = json.loads(
        autoseg(home, "suspects", "--config", wanted.config, "--count", "200", "-t", task, "--json")
    )
    place = {one["case"]: (number, one["doubt"]) for number, one in enumerate(ranked, 1)}
    print("| case | how its label is wrong | place | doubt |\n|---|---|---|---|")
    rows = sorted((place[case][0], case, way, place[case][1]) for case, way in wrong.items() if case in place)
    for number, case, way, doubt in rows:
        print(f"| {case} | {way} | {number} | {doubt:.4f} |")
    first = sum(number <= 2 * len(wrong) for number, *_ in rows)
    print(f"\n{first} of {len(wrong)} are among the first {2 * len(wrong)} of {len(ranked)} cases")
    print(json.dumps({"wrong": wrong, "places": {case: number for number, case, *_ in rows}, "first": first}))


if __name__ == "__main__":
    main()
