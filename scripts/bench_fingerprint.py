"""Memory and time that measuring one large raster takes, and many small volumes.

    python scripts/bench_fingerprint.py [--size 30000] [--bands 8] [--dtype uint16] [--task FOLDER] [--quick]

Writes a GeoTIFF of size × size pixels and its label into a temporary folder (tiled, compressed, every tile another part
of one noise), measures them in a fresh process and tells its peak memory; the files are removed afterwards. With the
folder of a task, its cases are measured one after another in this process. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TILE = 512
CLASSES = 3
BYTES = 0.45  # on the disk per byte of the image, with room to spare
MEASURE = """
import json, sys, time
from pathlib import Path
from autoseg.records import CaseFiles, Channel, Question
from autoseg.steps.fingerprint import examine
folder, bands, classes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
labels = {"background": 0, **{f"class_{n}": n for n in range(1, classes)}}
channels = tuple(Channel(name=f"b{n}", kind="other") for n in range(bands))
question = Question(reader="raster", channels=channels, labels=labels)
files = CaseFiles(id="large", images=("image.tif",), labels={"reference": "label.tif"})
start = time.perf_counter()
facts = examine(folder, files, question)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "peak_mb": round(int(status["VmHWM"].split()[0]) * 1024 / 1e6), "seconds": round(time.perf_counter() - start, 1),
    "sampled": facts.sampled, "voxels": facts.voxels, "components": facts.components,
    "faults": [fault.detail for fault in facts.faults], "facts_kb": round(len(facts.model_dump_json()) / 1e3, 1),
}))
"""


def write(folder: Path, size: int, bands: int, dtype: str, seed: int) -> dict[str, float]:
    """Writes image.tif and label.tif; answers the true share of every class."""
    import rasterio
    from rasterio.windows import Window

    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 200, (bands, 2 * TILE, 2 * TILE)).astype(dtype) & np.array(0xFC, dtype)
    rows, columns = np.mgrid[: 2 * TILE, : 2 * TILE]
    drawn = (((rows // 40) % 5 == 0) + 2 * (((rows // 64) % 3 == 0) & ((columns // 64) % 3 == 0))).clip(0, CLASSES - 1)
    drawn = drawn.astype(np.uint8)
    options: dict[str, Any] = {
        "driver": "GTiff", "height": size, "width": size, "tiled": True, "blockxsize": TILE, "blockysize": TILE,
        "compress": "deflate", "zlevel": 1, "bigtiff": "yes", "crs": "EPSG:32633",
        "transform": rasterio.Affine(0.5, 0, 359130, 0, -0.5, 5352340),
    }  # fmt: skip
    counts = np.zeros(CLASSES)
    with (
        rasterio.Env(GDAL_CACHEMAX=256, GDAL_NUM_THREADS=1),
        rasterio.open(
            folder / "image.tif", "w", count=bands, dtype=dtype, photometric="minisblack", **options
        ) as image,
        rasterio.open(folder / "label.tif", "w", count=1, dtype="uint8", **options) as label,
    ):
        for row in range(0, size, TILE):
            for column in range(0, size, TILE):
                height, width = min(TILE, size - row), min(TILE, size - column)
                y, x = rng.integers(0, TILE, 2)
                window = Window(column, row, width, height)
                part = drawn[y : y + height, x : x + width]
                image.write(noise[:, y : y + height, x : x + width] + part, window=window)
                label.write(part, 1, window=window)
                counts += np.bincount(part.ravel(), minlength=CLASSES)
    return {f"class_{n}": float(count / counts.sum()) for n, count in enumerate(counts)}


def large(size: int, bands: int, dtype: str, seed: int) -> dict[str, Any]:
    """What measuring a raster of that size takes."""
    bytes_there = size * size * (bands * np.dtype(dtype).itemsize + 1)
    with tempfile.TemporaryDirectory() as name:
        free = shutil.disk_usage(name).free
        if free < 2 * BYTES * bytes_there:
            raise SystemExit(
                f"{free / 1e9:.0f} GB are free in {name}, {2 * BYTES * bytes_there / 1e9:.0f} GB are needed"
            )
        begun = time.perf_counter()
        shares = write(Path(name), size, bands, dtype, seed)
        written, stored = time.perf_counter() - begun, sum(file.stat().st_size for file in Path(name).iterdir())
        command = [sys.executable, "-c", MEASURE, name, str(bands), str(CLASSES)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    total = sum(found["voxels"].values())
    found["shares"] = {name: round(count / total, 4) for name, count in found["voxels"].items()}
    found["true_shares"] = {name: round(share, 4) for name, share in shares.items()}
    return found | {
        "image_gb": round(bytes_there / 1e9, 2),
        "disk_gb": round(stored / 1e9, 2),
        "written_s": round(written),
    }


def task(folder: Path) -> dict[str, Any]:
    """Milliseconds per case of a task that is there."""
    from autoseg import layouts
    from autoseg.steps.fingerprint import examine

    dataset, _ = layouts.read_task(folder)
    question = dataset.question()
    examine(folder, dataset.cases[0], question)  # imports what is imported late
    begun, used = time.perf_counter(), time.process_time()
    for case in dataset.cases:
        examine(folder, case, question)
    count = len(dataset.cases) / 1e3
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    return {
        "cases": len(dataset.cases),
        "ms_per_case": round(wall / count, 2),
        "cpu_ms_per_case": round(cpu / count, 2),
    }


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--bands", type=int, default=8)
    parser.add_argument("--dtype", choices=["uint8", "uint16"], default="uint16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", type=Path, help="folder of a task whose cases are measured too")
    parser.add_argument("--quick", action="store_true", help="4,000 × 4,000 pixels")
    options = parser.parse_args()
    size = 4_000 if options.quick else options.size
    figures: dict[str, Any] = {"size": size, "bands": options.bands, "dtype": options.dtype, "seed": options.seed}
    figures["large"] = large(size, options.bands, options.dtype, options.seed)
    print(f"{size} × {size} × {options.bands} {options.dtype}: {figures['large']['peak_mb']} MB, "
          f"{figures['large']['seconds']} s, {figures['large']['sampled']:.2%} looked at")  # fmt: skip
    if options.task is not None:
        figures["task"] = task(options.task)
        print(f"{options.task.name}: {figures['task']['ms_per_case']} ms per case")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
