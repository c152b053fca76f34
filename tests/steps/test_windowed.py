"""Rasters prepared by windows are what they are when prepared whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from autoseg.arrays.normalisers import Moments
from autoseg.errors import BadData
from autoseg.image import Image
from autoseg.parts import NORMALISERS, RESAMPLERS
from autoseg.readers.raster import Raster
from autoseg.readers.windows import Windows, blank
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train
from autoseg.steps import windowed
from autoseg.steps.preprocess import geometry_of, prepare_image
from autoseg.steps.windowed import HeldSource, RasterSource, raster_source

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 359130, 0, -10, 5352340)}
LABELS = {"background": 0, "a": 1}
CLIP = {"lower": 5.0, "upper": 90.0, "mean": 40.0, "sd": 9.0}
WAYS = {
    "zscore": Part(name="zscore"),
    "masked": Part(name="zscore", options={"masked": True, "clip": 1.5}),
    "ct": Part(name="ct", options=CLIP),
    "clip": Part(name="clip", options=CLIP),
    "range": Part(name="range"),
    "half": Part(name="range", options={"lower": 20.0}),
    "fixed": Part(name="range", options={"lower": 20.0, "upper": 50.0}),
    "onehot": Part(name="onehot", options={"values": [0, 7, 90]}),
    "angle": Part(name="angle", options={"period": 90.0}),
    "none": Part(name="none"),
}


def asked(channels: int) -> Question:
    given = tuple(Channel(name=str(number), kind="other") for number in range(channels))
    return Question(reader="raster", channels=given, labels=LABELS)


def settings(*ways: Part, spacing: float | tuple[float, float] = 10.0, resample: str = "spline") -> Configuration:
    train = Train(
        loss="ce", augment=(), steps=1, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3
    )
    pair = spacing if isinstance(spacing, tuple) else (spacing, spacing)
    return Configuration(
        spacing=pair, patch=(8, 8), batch=2, normalise=ways, resample=Part(name=resample),
        network=Network.plain((4,), ((1, 1),)), train=train, memory=Memory(bytes=1, method="none"),
    )  # fmt: skip


def bands_of(*shape: int, dtype: str = "u1") -> np.ndarray:
    """Noise with zeros in it."""
    bands = np.random.default_rng(0).integers(1, 99, shape).astype(dtype)
    bands[:, ::5, ::3] = 0
    return bands


def save(file: Path, bands: np.ndarray, alpha: bool = False, **options: Any) -> Path:
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype.name, "photometric": "minisblack"}
    with rasterio.open(file, "w", driver="GTiff", **PLACE, **size, **options) as target:
        last = ColorInterp.alpha if alpha else ColorInterp.undefined
        target.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 2), last][:count]
        target.write(bands)
    return file


@contextmanager
def small_chunks(monkeypatch: pytest.MonkeyPatch, files: list[Path], *more: Any, **keys: Any) -> Iterator[Any]:
    """A source of chunks of about 24 pixels, of which some are kept."""
    monkeypatch.setattr(windowed, "EDGE", 24)
    monkeypatch.setattr(windowed, "SURVEYED", 32)
    with Raster().open_windows(files) as opened:
        yield raster_source(opened, *more, room=24 * 24 * 4 * 40, **keys)


def require_same(source: Any, files: list[Path], configuration: Configuration, question: Question) -> None:
    """In boxes in rows and in any boxes; with its mask and its geometry."""
    image = Raster().read(files)
    whole, geometry = prepare_image(image, configuration, question)
    assert isinstance(source, RasterSource) and source.geometry == geometry == geometry_of(
        image, configuration, question
    )
    assert source.shape == whole.shape[1:] and source.channels == len(whole)
    _, height, width = source.shape
    valid = np.ones(image.shape, bool) if image.valid is None else image.valid
    edge = 20
    boxes = [
        (slice(0, 1), slice(y, min(y + edge, height)), slice(x, min(x + edge, width)))
        for y in range(0, height, edge // 2)
        for x in range(0, width, edge // 2)
    ]
    for box in [*boxes, (slice(0, 1), slice(0, height), slice(0, width)), boxes[0]]:
        made = source.read(box)
        assert made.dtype == np.float32 and np.isfinite(made).all()
        assert np.allclose(made, whole[(slice(None), *box)], rtol=1e-6, atol=1e-5)
        ratios = [n / m for n, m in zip(image.shape, (height, width), strict=True)]
        near = [
            slice(int(part.start * r + 1e-9), int(np.ceil(part.stop * r - 1e-9)))
            for part, r in zip(box[1:], ratios, strict=True)
        ]
        assert source.valid(box) == valid[tuple(near)].any()
    for window in [(slice(0, image.shape[0]), slice(0, image.shape[1])), (slice(3, 4), slice(1, 2))]:
        part = tuple(slice(min(s.start, n - 1), min(s.stop, n)) for s, n in zip(window, image.shape, strict=True))
        mask = source.valid_window(part)
        assert np.array_equal(np.ones_like(valid[part]) if mask is None else mask, valid[part])
        assert mask is None or not mask.all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spacing", [10.0, 17.0, (4.0, 10.0)])
def test_every_normaliser_does_by_windows_what_it_does_to_the_whole(tmp_path, monkeypatch, way, spacing) -> None:
    bands = bands_of(1, 70, 90, dtype="i2")
    bands[:, 50:, :40] = -7
    files = [save(tmp_path / "a.tif", bands, nodata=-7, tiled=True, blockxsize=16, blockysize=16)]
    configuration, question = settings(WAYS[way], spacing=spacing), asked(1)
    with small_chunks(monkeypatch, files, configuration, question) as source:
        require_same(source, files, configuration, question)


@pytest.mark.parametrize("resample", ["spline", "linear", "keep"])
@pytest.mark.parametrize("tiled", [True, False])
def test_several_files_with_masks_of_all_kinds(tmp_path, monkeypatch, resample: str, tiled: bool) -> None:
    options: dict[str, Any] = {"tiled": True, "blockxsize": 32, "blockysize": 16} if tiled else {}
    optical, radar, classes = bands_of(3, 61, 75), bands_of(2, 61, 75, dtype="f4"), bands_of(1, 61, 75)
    optical[-1] = 255
    optical[-1, :30, :30] = 0
    radar[0, 40:, 50:] = np.nan
    radar[1, 10, 40] = np.inf
    classes[0, 33, :] = 77
    files = [
        save(tmp_path / "a.tif", optical, alpha=True, **options),
        save(tmp_path / "b.tif", radar, **options),
        save(tmp_path / "c.tif", classes, nodata=77, **options),
    ]
    ways = [WAYS[name] for name in ("zscore", "range", "masked", "ct", "onehot")]
    configuration, question = settings(*ways, spacing=14.0, resample=resample), asked(5)
    with small_chunks(monkeypatch, files, configuration, question) as source:
        require_same(source, files, configuration, question)
        assert source.shape[1:] == ((61, 75) if resample == "keep" else (44, 54))


def test_a_picture_with_a_palette(tmp_path, monkeypatch) -> None:
    index = bands_of(1, 50, 80) % 4
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", count=1, height=50, width=80, dtype="uint8") as target:
        target.write_colormap(1, {0: (9, 8, 7, 255), 1: (255, 0, 0, 255), 2: (0, 90, 255, 255), 3: (1, 2, 3, 0)})
        target.write(index)
    configuration, question = settings(*[WAYS["zscore"]] * 3, spacing=1.0), asked(3)
    with small_chunks(monkeypatch, [tmp_path / "a.png"], configuration, question) as source:
        require_same(source, [tmp_path / "a.png"], configuration, question)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (40, 3)])
@pytest.mark.parametrize("spacing", [10.0, 25.0, 3.0])
def test_rasters_of_a_pixel_and_of_a_row(tmp_path, monkeypatch, size, spacing) -> None:
    files = [save(tmp_path / "a.tif", np.arange(size[0] * size[1]).reshape(1, *size).astype("u1") + 1)]
    configuration, question = settings(WAYS["zscore"], spacing=spacing), asked(1)
    with small_chunks(monkeypatch, files, configuration, question) as source:
        require_same(source, files, configuration, question)


@pytest.mark.parametrize("way", ["zscore", "range", "ct", "onehot"])
def test_a_raster_of_nothing_is_zero_and_not_valid(tmp_path, monkeypatch, way: str) -> None:
    files = [save(tmp_path / "a.tif", np.full((1, 60, 60), 9, "u1"), nodata=9)]
    configuration, question = settings(WAYS[way], spacing=13.0), asked(1)
    with small_chunks(monkeypatch, files, configuration, question) as source:
        require_same(source, files, configuration, question)
        everything = (slice(0, 1), slice(0, source.shape[1]), slice(0, source.shape[2]))
        assert not source.valid(everything) and not source.read(everything).any()


def test_a_turned_raster_has_the_spacing_of_its_axes(tmp_path, monkeypatch) -> None:
    bands, file = bands_of(1, 50, 60), tmp_path / "a.tif"
    turned = rasterio.Affine(2 * 0.8, -5 * 0.6, 9, 2 * 0.6, 5 * 0.8, 9)
    with rasterio.open(
        file, "w", driver="GTiff", crs="EPSG:32633", transform=turned, count=1, height=50, width=60, dtype="uint8"
    ) as target:
        target.write(bands)
    configuration, question = settings(WAYS["range"], spacing=(5.0, 4.0)), asked(1)
    with small_chunks(monkeypatch, [file], configuration, question) as source:
        assert source.shape == (1, 50, 30)
        require_same(source, [file], configuration, question)


def counting(opened: Windows) -> tuple[Windows, list[int]]:
    """The windows, and how many pixels were read."""
    read = [0]

    def count(window: Any) -> Image:
        rows, columns = window
        read[0] += (rows.stop - rows.start) * (columns.stop - columns.start)
        return opened.read(window)

    return replace(opened, read=count), read


def sweep(source: Any, patch: int) -> None:
    _, height, width = source.shape
    for y in range(0, height - patch + 1, patch // 2):
        for x in range(0, width - patch + 1, patch // 2):
            box = (slice(0, 1), slice(y, y + patch), slice(x, x + patch))
            if source.valid(box):
                source.read(box)
    source.valid_window((slice(0, height), slice(0, width)))


@pytest.mark.parametrize("tiled", [True, False])
def test_a_sweep_reads_every_pixel_once_where_its_rows_can_be_kept_and_else_twice(tmp_path, tiled: bool) -> None:
    options: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512} if tiled else {}
    file = save(tmp_path / "a.tif", np.ones((1, 2048, 2048), "u1"), compress="deflate", **options)
    pixels = 2048 * 2048
    for rows, most in ((1600, 1), (720, 2)):
        with Raster().open_windows([file]) as opened:
            counted, read = counting(opened)
            source = raster_source(counted, settings(WAYS["none"]), asked(1), room=rows * 2048 * (4 if tiled else 1))
            sweep(source, 512)
        assert pixels <= read[0] <= most * pixels * 1.01


def test_memory_stays_flat_whatever_the_size() -> None:
    def read(window: Any) -> Image:
        shape = [part.stop - part.start for part in window]
        return Image(np.ones((8, *shape), "u2"), (1.0, 1.0))

    opened = Windows(blank((30_000, 30_000), (1.0, 1.0), {}), 8, (512, 512), read)
    source = raster_source(opened, settings(*[WAYS["clip"]] * 8, spacing=1.0), asked(8), room=64 * 1024**2)
    tracemalloc.start()
    for x in range(0, 30_000 - 512, 1024):
        box = (slice(0, 1), slice(29_000, 29_512), slice(x, x + 512))
        assert source.valid(box) and source.read(box).shape == (8, 1, 512, 512)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024**2 + 60e6


def test_other_channels_than_the_tasks_are_refused(tmp_path) -> None:
    file = save(tmp_path / "a.tif", bands_of(2, 5, 5))
    with Raster().open_windows([file]) as opened, pytest.raises(BadData, match=r"a.tif: has 2 channels; expected 3"):
        raster_source(opened, settings(*[WAYS["none"]] * 3), asked(3), files=[file])


class Whole:
    """Someone's normaliser that wants the whole image."""

    def __init__(self, intensity: Any = None) -> None: ...

    def __call__(self, channel: np.ndarray, inside: np.ndarray) -> np.ndarray:
        return np.where(inside, channel - np.median(channel[inside]), 0).astype(np.float32)


class Local(Whole):
    """And one that does not."""

    local = True

    def __call__(self, channel: np.ndarray, inside: np.ndarray) -> np.ndarray:
        return np.where(inside, np.sqrt(channel), 0).astype(np.float32)


def test_what_wants_the_whole_image_is_given_it_where_it_can_be_held(tmp_path) -> None:
    NORMALISERS.add("median")(Whole)
    NORMALISERS.add("root")(Local)
    RESAMPLERS.add("mine")(lambda: RESAMPLERS.build("linear"))
    RESAMPLERS.add("other")(lambda: lambda array, shape, coarse=None: np.zeros((len(array), *shape), np.float32))
    bands = bands_of(1, 40, 50)
    bands[0, :20] = 99
    file = save(tmp_path / "a.tif", bands, nodata=99)
    kinds = {"median": ("spline", HeldSource), "root": ("spline", RasterSource), "none": ("other", HeldSource)}
    for name, (resample, kind) in kinds.items():
        configuration = settings(Part(name=name), spacing=20.0, resample=resample)
        whole, geometry = prepare_image(Raster().read([file]), configuration, asked(1))
        box = (slice(0, 1), slice(2, 15), slice(0, 9))
        with Raster().open_windows([file]) as opened:
            source = raster_source(opened, configuration, asked(1))
            assert type(source) is kind and source.geometry == geometry and source.shape == whole.shape[1:]
            assert source.channels == 1 and np.allclose(source.read(box), whole[(slice(None), *box)], atol=1e-5)
            assert source.valid(box) and not source.valid((slice(0, 1), slice(0, 10), slice(0, 25)))
            assert source.valid_window((slice(20, 40), slice(0, 50))) is None
            mask = source.valid_window((slice(18, 22), slice(0, 2)))
            assert mask is not None and mask.tolist() == [[False] * 2] * 2 + [[True] * 2] * 2
            if kind is HeldSource:
                with pytest.raises(BadData, match=rf"a.tif: 40×50 pixels .* {name if name == 'median' else resample}"):
                    raster_source(opened, configuration, asked(1), files=[file], held=1000)


def test_turned_axes_want_the_whole_image(tmp_path) -> None:
    file = save(tmp_path / "a.tif", bands_of(1, 40, 50))
    configuration = settings(WAYS["none"]).model_copy(update={"axes": (0, 2, 1)})
    with Raster().open_windows([file]) as opened:
        source = raster_source(opened, configuration, asked(1))
        assert isinstance(source, HeldSource) and source.shape == (1, 50, 40)
        box = (slice(0, 1), slice(3, 50), slice(2, 9))
        assert np.array_equal(source.read(box)[0, 0], bands_of(1, 40, 50)[0, 2:9, 3:50].T)


def test_the_moments_of_parts_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(1e6, 3, 1000)
    parts = [values[:1], values[1:1], values[1:400], values[400:]]
    total = sum((Moments.of(part) for part in parts), Moments())
    whole = Moments.of(values)
    assert total.count == 1000 and (total.lowest, total.highest) == (whole.lowest, whole.highest)
    assert total.mean == pytest.approx(whole.mean, rel=1e-12) and total.sd == pytest.approx(whole.sd, rel=1e-9)
    assert Moments() + Moments() == Moments() and Moments().magnitude == 0


REAL = {
    "Sen1Floods11_sample/S1/Mekong_333434_S1Hand.tif": 15.0,
    "Amazon_Forest_GeoTIFF/imagesTr/Amazon_122_33.tif": 8.0,
    "GeoTIFF_samples/ftw_s2_8band/inference-img.tif": 10.0,
    "GeoTIFF_samples/landsat7_sparse/LE70220491999322EDC01_stack.gtif": 50.0,
}


@pytest.mark.parametrize(("name", "spacing"), REAL.items())
def test_real_rasters(real: Path, monkeypatch, name: str, spacing: float) -> None:
    files = [real / name]
    channels = Raster().read(files).channels
    configuration = settings(*([WAYS["zscore"], WAYS["none"]] * 8)[:channels], spacing=spacing)
    monkeypatch.setattr(windowed, "EDGE", 100)
    with Raster().open_windows(files) as opened:
        source = raster_source(opened, configuration, asked(channels))
        whole, _ = prepare_image(Raster().read(files), configuration, asked(channels))
        box = (slice(0, 1), *(slice(n // 3, n) for n in whole.shape[2:]))
        scale = max(1.0, float(np.abs(whole).max()))
        assert np.allclose(source.read(box), whole[(slice(None), *box)], rtol=1e-5, atol=2e-6 * scale)
