"""What bench_predict.py makes: scans, a task of many organs, rasters, and homes with networks that nobody trained."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_train_sides import Ours
from numpy.typing import NDArray

if TYPE_CHECKING:
    from autoseg.records import Configuration, Question

AIR, TISSUE, NOISE = -1000, 40, 16  # Hounsfield units
EDGE = 1.5  # pixels in which the skin fades
TILE = 512  # pixels of a block of a raster


# -- scans --------------------------------------------------------------------------------------------


def slices(shape: tuple[int, int, int], seed: int) -> Iterator[NDArray[np.int16]]:
    """The slices (y, x) of something like a CT: a body with a soft skin and smooth structure, in air, with noise."""
    rng = np.random.default_rng(seed)
    z, y, x = shape
    rows, columns = np.ogrid[-1 : 1 : y * 1j, -1 : 1 : x * 1j]
    depth = (1 - np.sqrt((rows / 0.75) ** 2 + (columns / 0.95) ** 2)) * min(y, x) / 2  # pixels below the skin
    body = 1 / (1 + np.exp(-np.clip(depth / EDGE, -30, 30)))
    waves = rng.uniform(2, 9, (6, 3))
    for number in range(z):
        along = 2 * number / max(1, z - 1) - 1
        smooth = sum(np.sin(a * along + b * rows + c * columns + n) for n, (a, b, c) in enumerate(waves))
        noise = rng.integers(-NOISE, NOISE, (y, x), dtype=np.int16)
        yield (AIR + (TISSUE + 40 * smooth - AIR) * body).astype(np.int16) + noise


def scan(file: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int) -> Path:
    """A .nii.gz of them, written slice by slice, unless it is there."""
    import nibabel

    if not file.exists():
        header = nibabel.Nifti1Header()
        header.set_data_shape(shape[::-1])
        header.set_data_dtype(np.int16)
        header.set_sform(np.diag([*spacing[::-1], 1.0]), 1)
        header.set_qform(np.diag([*spacing[::-1], 1.0]), 1)
        header.set_xyzt_units("mm")
        header["vox_offset"], header["scl_slope"], header["scl_inter"], header["magic"] = 352, 1, 0, b"n+1"
        file.parent.mkdir(parents=True, exist_ok=True)
        begun = file.with_name(f"begun_{file.name}")
        with gzip.open(begun, "wb", compresslevel=1) as opened:
            opened.write(header.binaryblock + bytes(4))
            for one in slices(shape, seed):
                opened.write(one.astype("<i2").tobytes())
        begun.replace(file)
    return file


def organs_task(folder: Path, classes: int, shape: tuple[int, int, int], spacing: tuple[float, ...], seed: int) -> Path:
    """A task of six small scans in the decathlon's layout, whose boxes are organs, unless it is there."""
    import nibabel

    if (folder / "dataset.json").exists():
        return folder
    affine, names = np.diag([*spacing[::-1], 1.0]), [f"scan_{number}.nii.gz" for number in range(6)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = np.stack([*slices(shape, seed + number)])
        label = _boxes(shape, classes)
        image[label > 0] += 10 * label[label > 0]
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), folder / part / name)
    described = {
        "modality": {"0": "CT"}, "labels": {str(n): f"organ_{n}" if n else "background" for n in range(classes)},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def _boxes(shape: tuple[int, ...], classes: int) -> NDArray[np.uint8]:
    """A label of boxes in a lattice, one per class from 1 on."""
    label = np.zeros(shape, np.uint8)
    count = int(np.ceil((classes - 1) ** (1 / 3)))
    edges = [size // (count + 1) for size in shape]
    for number in range(1, classes):
        at = np.unravel_index(number - 1, (count,) * 3)
        box = tuple(slice((a + 1) * e - e // 3, (a + 1) * e + e // 3) for a, e in zip(at, edges, strict=True))
        label[box] = number
    return label


# -- rasters ------------------------------------------------------------------------------------------


def raster(file: Path, size: int, bands: int, seed: int) -> Path:
    """A tiled GeoTIFF of `size` x `size` pixels, no two alike but by chance, written block by block, unless there."""
    import rasterio
    from rasterio.windows import Window

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        begun, rng = file.with_name(f"begun_{file.name}"), np.random.default_rng(seed)
        placed = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
        with rasterio.open(
            begun, "w", driver="GTiff", width=size, height=size, count=bands, dtype="uint8", crs="EPSG:32632",
            transform=placed, tiled=True, blockxsize=TILE, blockysize=TILE, interleave="pixel", bigtiff="IF_SAFER",
        ) as opened:  # fmt: skip
            for row in range(0, size, TILE):
                for column in range(0, size, TILE):
                    window = Window(column, row, min(TILE, size - column), min(TILE, size - row))
                    shape = (bands, int(window.height), int(window.width))
                    opened.write(rng.integers(1, 256, shape, dtype=np.uint8), window=window)
        begun.replace(file)
    return file


# -- networks that nobody trained ---------------------------------------------------------------------


def volumes_question(classes: int) -> tuple[dict[str, Any], Question]:
    """One channel of CT; fields of its configuration that do not depend on the patch."""
    from autoseg.records import Channel, Part, Question

    labels = {f"class_{number}" if number else "background": number for number in range(classes)}
    question = Question(reader="nifti", channels=(Channel(name="CT", kind="ct"),), labels=labels)
    window = Part(name="ct", options={"lower": -200.0, "upper": 300.0, "mean": 40.0, "sd": 80.0})
    return {"normalise": (window,), "resample": Part(name="spline")}, question


def rasters_question(bands: int, classes: int) -> tuple[dict[str, Any], Question]:
    """So many bands of reflectance; fields of its configuration that do not depend on the patch."""
    from autoseg.records import Channel, Part, Question

    labels = {f"class_{number}" if number else "background": number for number in range(classes)}
    channels = tuple(Channel(name=f"B{number}", kind="reflectance") for number in range(bands))
    question = Question(reader="raster", channels=channels, labels=labels)
    window = Part(name="clip", options={"lower": 0.0, "upper": 255.0, "mean": 128.0, "sd": 74.0})
    return {"normalise": (window,) * bands, "resample": Part(name="keep")}, question


def configured(
    fields: dict[str, Any], spacing: tuple[float, ...], patch: tuple[int, ...], features: tuple[int, ...], convs: int
) -> Configuration:
    """Of a plain U-Net of these features, halved between them, with so many convolutions per stage."""
    from autoseg.records import Configuration, Memory, Network, Part, Train

    dims = len(patch)
    block = Part(name="plain", options={"convs": convs})
    strides = ((1,) * dims, *(((2,) * dims,) * (len(features) - 1)))
    mirror = Part(name="mirror")
    train = Train(
        loss="dice+ce", augment=(mirror,), steps=1, optimiser=Part(name="adamw"), schedule=Part(name="poly"),
        foreground=0.3,
    )  # fmt: skip
    network = Network.plain(features, strides, block=block, decoder_block=block)
    memory = Memory(bytes=1, method="none")
    return Configuration(spacing=spacing, patch=patch, batch=2, network=network, train=train, memory=memory, **fields)


def untrained(root: Path, title: str, one: Configuration, question: Question, seed: int) -> Ours:
    """A home with a plan of this configuration, and a finished run of fold 0 with the network's first weights."""
    import torch

    from autoseg import __version__
    from autoseg.records import Checkpoint, Plan, Run, Target
    from autoseg.steps.learner import build_network
    from autoseg.store import save_record, save_tensors

    ours = Ours(root, "Task01_Made")
    task = root / "datasets" / ours.task
    task.mkdir(parents=True, exist_ok=True)
    (task / "dataset.json").write_text("{}")
    target = Target(device="cpu", memory=8_000_000_000)
    plan = Plan(task=ours.task, name=ours.plan, fingerprint="", folds="", target=target, question=question,
                configurations={title: one})  # fmt: skip
    save_record(ours.home.plan_file(ours.task, ours.plan), plan)
    run = Run(task=ours.task, plan=ours.plan, configuration=title, fold=0, seed=0, settings=one, question=question,
              folds="", device="cpu", precision="float32", threads=1, version=__version__)  # fmt: skip
    folder = ours.home.run_folder(ours.task, ours.plan, title, 0, 0)
    torch.manual_seed(seed)
    weights = build_network(one, question).state_dict()
    save_record(folder.run_file, run)
    tensors = {f"network.{name}": value for name, value in weights.items()}
    save_tensors(folder.checkpoint_file, tensors, Checkpoint(run=run, step=1))
    return ours
