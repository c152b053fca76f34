"""Tasks and arrays that bench_train.py makes: balls in noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from autoseg.store import StoredCase


def balls(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image (float32) with a bright ball in noise, and its label."""
    centre = rng.uniform(0.3, 0.7, len(shape)) * shape
    axes = np.ogrid[tuple(slice(edge) for edge in shape)]
    squares = sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))
    label = (squares < (0.22 * min(shape)) ** 2).astype(np.uint8)
    return (rng.standard_normal(shape, np.float32) + 2 * label) * 20 + 100, label


def balls_task(folder: Path, count: int, shape: tuple[int, int, int], seed: int) -> None:
    """A task of volumes in the decathlon's layout, unless it is there."""
    import nibabel

    if (folder / "dataset.json").exists():
        return
    rng = np.random.default_rng(seed)
    names = [f"ball_{number:03d}.nii.gz" for number in range(count)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        for part, array in zip(("imagesTr", "labelsTr"), balls(shape, rng), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / name)
    described = {
        "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))


def discs_task(folder: Path, count: int, shape: tuple[int, int], seed: int) -> None:
    """A folder of RGB tiles and their labels as PNG, unless it is there."""
    from PIL import Image

    if folder.exists():
        return
    rng = np.random.default_rng(seed)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, label = balls(shape, rng)
        coloured = np.stack([image, 255 - image, rng.uniform(0, 255, shape)], -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(coloured).save(folder / "imagesTr" / f"disc_{number:03d}.png")
        Image.fromarray(label).save(folder / "labelsTr" / f"disc_{number:03d}.png")


def stored_volume(folder: Path, shape: tuple[int, int, int], seed: int) -> StoredCase:
    """A preprocessed case of that size: smooth structure with noise, which compresses about as a scan does."""
    from autoseg.store import Preprocessed

    rng = np.random.default_rng(seed)
    image, label = balls(shape, rng)
    image = (image - image.mean()) / image.std()
    points = {1: np.argwhere(label)[:10_000].astype(np.int32)}
    Preprocessed(folder).save("case", "made", image[None], {0: label}, points)
    return Preprocessed(folder).open("case")
