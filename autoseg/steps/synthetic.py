"""Two small tasks made from a seed, for the demo and tests: too hard for a threshold, easy for a U-Net."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import BadUsage
from autoseg.steps.synthetic_cases import (
    LESION,
    ORGAN,
    ROAD,
    ROOF,
    VESSEL,
    Bytes,
    Floats,
    aerial_case,
    medical_case,
)

__all__ = ["aerial", "aerial_case", "medical", "medical_case"]

HELD_OUT = 3  # cases in imagesTs and labelsTs
PIXEL = 0.5  # metres


def medical(folder: Path, seed: int = 0, cases: int = 24) -> None:
    """A task in MSD's layout: an organ, a lesion that some cases lack, and a vessel, as NIfTI volumes."""
    _write_whole(folder, lambda new: _medical(new, folder.name, seed, cases))


def aerial(folder: Path, seed: int = 0, cases: int = 24) -> None:
    """A task in nnU-Net v2's layout: roads and roofs in three-band GeoTIFF tiles of 0.5 m."""
    _write_whole(folder, lambda new: _aerial(new, seed, cases))


def _medical(folder: Path, name: str, seed: int, cases: int) -> dict[str, object]:
    ids = [f"case_{number:03d}" for number in range(cases + HELD_OUT)]
    for number, id in enumerate(ids):
        image, label, spacing = medical_case(np.random.default_rng([seed, number]))
        part = "Tr" if number < cases else "Ts"
        _write_nifti(folder / f"images{part}" / f"{id}.nii.gz", image[0], spacing)
        _write_nifti(folder / f"labels{part}" / f"{id}.nii.gz", label, spacing)
    files = [f"{id}.nii.gz" for id in ids]
    return {
        "name": name,
        "description": "synthetic: an organ, its lesion and a vessel",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", str(ORGAN): "organ", str(LESION): "lesion", str(VESSEL): "vessel"},
        "numTraining": cases,
        "numTest": HELD_OUT,
        "training": [{"image": f"./imagesTr/{f}", "label": f"./labelsTr/{f}"} for f in files[:cases]],
        "test": [f"./imagesTs/{f}" for f in files[cases:]],
    }


def _aerial(folder: Path, seed: int, cases: int) -> dict[str, object]:
    for number in range(cases + HELD_OUT):
        image, label = aerial_case(np.random.default_rng([seed, number]))
        id, part = f"tile_{number:03d}", "Tr" if number < cases else "Ts"
        corner = (400_000.0 + 500 * (number % 8), 5_400_000.0 - 500 * (number // 8))
        _write_raster(folder / f"images{part}" / f"{id}_0000.tif", image, corner)
        _write_raster(folder / f"labels{part}" / f"{id}.tif", label[None], corner)
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "road": ROAD, "roof": ROOF},
        "numTraining": cases,
        "file_ending": ".tif",
    }


def _write_whole(folder: Path, write: Callable[[Path], dict[str, object]]) -> None:
    if folder.exists():
        raise BadUsage(f"{folder} exists already", remedy="remove it or give another name")
    new = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        for sub in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (new / sub).mkdir(parents=True, exist_ok=True)
        description = json.dumps(write(new), indent=2)
        (new / "dataset.json").write_text(description + "\n", encoding="utf-8")
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_nifti(file: Path, array: Floats | Bytes, spacing: Sequence[float]) -> None:
    import nibabel

    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = -0.5 * np.array(array.shape[::-1]) * spacing[::-1]
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), file)


def _write_raster(file: Path, bands: Bytes, corner: tuple[float, float]) -> None:
    import rasterio

    count, height, width = bands.shape
    place = rasterio.Affine(PIXEL, 0, corner[0], 0, -PIXEL, corner[1])
    profile = {"count": count, "height": height, "width": width, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(file, "w", driver="GTiff", crs="EPSG:32633", transform=place, **profile) as raster:
        raster.write(bands)
