"""A folder of images: labels as of each alone, whatever happens; what fails is set aside, what is done is kept."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autoseg.cli import main
from autoseg.errors import BadData, BadFile, BadUsage, Busy, RunFailed
from autoseg.image import Image
from autoseg.pipeline import folder, sinks
from autoseg.pipeline.extras import ExtraWish
from autoseg.pipeline.folder import predict_folder
from autoseg.pipeline.models import open_model
from autoseg.pipeline.orders import Order, Outcome, told
from autoseg.pipeline.prediction import Model
from autoseg.pipeline.voice import Silent
from autoseg.readers.raster import Raster
from autoseg.records import Channel, Part, Question
from autoseg.store import lock
from autoseg.store.archive import staged
from tests.store.test_archive import QUESTION, fill, settings

GEO = QUESTION.model_copy(update={"labels": {"background": 0, "disc": 3}})


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def model_of(path: Path, question: Question = QUESTION, **options) -> Model:
    if not path.exists():
        with staged(path) as inside:
            fill(inside, {"2d": 2}, settings(patch=(16, 16)), question)
    return open_model(path, "cpu", **options)[1]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return model_of(tmp_path / "model.autoseg")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five grey PNGs."""
    from skimage.io import imsave

    place, rng = tmp_path / "images", np.random.default_rng(0)
    place.mkdir()
    for number in range(5):
        array = rng.integers(0, 255, (20 + number, 17), np.uint8)
        imsave(place / f"im{number}.png", array, check_contrast=False)
    return place


def labels_of(out: Path) -> dict[str, np.ndarray]:
    return {file.name: Raster().read_label(file).array[0] for file in sorted(out.glob("*.png"))}


def expected(model: Model, images: Path) -> dict[str, np.ndarray]:
    return {file.name: model.predict(Raster().read([file])) for file in sorted(images.glob("*.png"))}


def run(models: list[Model], images: Path, out: Path, **more) -> Outcome:
    return predict_folder(models, Order(images, out, **more), Silent())


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def left_behind(out: Path) -> list[str]:
    return [file.name for file in out.rglob("*") if ".part." in file.name or file.name.endswith(".tiles")]


@pytest.mark.parametrize("devices", [1, 3])
def test_a_folder_gives_the_labels_of_its_images(model: Model, images: Path, tmp_path: Path, devices: int) -> None:
    outcome = run([model] * devices, images, tmp_path / "out")
    assert same(labels_of(tmp_path / "out"), expected(model, images)) and not left_behind(tmp_path / "out")
    assert len(outcome.written) == 5 and not outcome.faults and not outcome.kept
    assert len({*np.unique(np.concatenate([one.ravel() for one in expected(model, images).values()]))}) == 2


def test_the_second_run_makes_what_is_missing_changed_or_wanted_otherwise(
    model: Model, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run([model], images, out)
    assert run([model], images, out).kept == 5
    (out / "im1.png").unlink()
    (out / "im2.png").write_bytes((out / "im2.png").read_bytes()[:-9])
    (images / "im3.png").write_bytes((images / "im4.png").read_bytes())
    again = run([model], images, out)
    assert [file.stem for file in again.written] == ["im1", "im2", "im3"] and again.kept == 2
    assert same(labels_of(out), expected(model, images))
    other = model_of(tmp_path / "model.autoseg", step=1.0)
    assert len(run([other], images, out).written) == 5


@pytest.mark.parametrize("at", [0, 2])
def test_a_run_that_was_killed_goes_on(
    model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    out, closes = tmp_path / "out", []
    close = sinks.RasterSink.close

    def stopping(sink: sinks.RasterSink) -> Path:
        closes.append(sink)
        if len(closes) == at + 1:
            raise KeyboardInterrupt
        return close(sink)

    with monkeypatch.context() as patched:
        patched.setattr(sinks.RasterSink, "close", stopping)
        with pytest.raises(KeyboardInterrupt):
            run([model], images, out)
    there = labels_of(out)  # one that was being written by then may be whole
    assert not left_behind(out) and at <= len(there) <= at + 1
    (out / f".abc.part.im{at}.png").write_bytes(b"half of it")
    outcome = run([model], images, out)
    assert not left_behind(out)
    assert outcome.kept == len(there) and same(labels_of(out), expected(model, images))


def test_a_bad_image_is_set_aside_and_listed(model: Model, images: Path, tmp_path: Path) -> None:
    from skimage.io import imsave

    out = tmp_path / "out"
    (images / "im0.png").write_bytes(b"\x89PNG cut short")
    imsave(images / "im9.png", np.zeros((5, 6, 3), np.uint8) + np.arange(3, dtype=np.uint8), check_contrast=False)
    outcome = run([model], images, out)
    assert {*outcome.faults} == {"im0", "im9"} and len(outcome.written) == 4
    assert "has 3 channels" in outcome.faults["im9"]
    with pytest.raises(BadData, match="2 of 6 images could not be predicted"):
        told(outcome, Order(images, out), Silent())
    assert (out / "failed.csv").read_text().splitlines()[0] == "case,fault"
    assert "im0" in (out / "failed.csv").read_text()
    lines = [json.loads(line) for line in (out / "predicted.jsonl").read_text().splitlines()]
    assert sorted(line["case"] for line in lines if "fault" not in line) == ["im1", "im2", "im3", "im4"]
    assert sorted(line["case"] for line in lines if "fault" in line) == ["im0", "im9"]


def test_a_full_disk_ends_the_run_and_leaves_what_was_done(
    model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "out", []
    take = sinks.RasterSink.take

    def full(sink: sinks.RasterSink, piece) -> None:
        count.append(sink.target)
        if sink.target.stem == "im2":
            raise RunFailed("the disk is full") from OSError(errno.ENOSPC, "full")
        take(sink, piece)

    monkeypatch.setattr(sinks.RasterSink, "take", full)
    with pytest.raises(RunFailed, match="the disk is full"):
        run([model], images, out)
    assert not left_behind(out) and set(labels_of(out)) <= {"im0.png", "im1.png"}
    monkeypatch.setattr(sinks.RasterSink, "take", take)
    run([model], images, out)
    assert same(labels_of(out), expected(model, images))


def test_the_folder_of_the_images_is_no_folder_for_labels(model: Model, images: Path) -> None:
    before = {file.name: file.read_bytes() for file in images.iterdir()}
    for source in (images, images / "im0.png"):
        with pytest.raises(BadUsage, match="is the folder of the images"):
            run([model], source, images)
    assert {file.name: file.read_bytes() for file in images.iterdir()} == before


def test_a_second_process_on_the_same_part_is_refused(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with lock(out / ".predicted_1_of_1"), pytest.raises(Busy):
        run([model], images, out)
    assert len(run([model], images, out).written) == 5


def test_every_part_has_its_own_list_of_failures(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (images / "im0.png").write_bytes(b"\x89PNG cut short")
    for number in (1, 2):
        order = Order(images, out, part=(number, 2))
        outcome = predict_folder([model], order, Silent())
        if number == 1:
            with pytest.raises(BadData, match="failed_1_of_2"):
                told(outcome, order, Silent())
        else:
            told(outcome, order, Silent())
    assert (out / "failed_1_of_2.csv").exists() and not (out / "failed_2_of_2.csv").exists()


def test_rows_that_are_gone_from_the_table_are_made_again(model: Model, images: Path, tmp_path: Path) -> None:
    out, wish = tmp_path / "out", ExtraWish(volumes=True)
    run([model], images, out, extras=wish)
    assert run([model], images, out, extras=wish).kept == 5
    (out / "volumes.csv").unlink()
    assert len(run([model], images, out, extras=wish).written) == 5 and (out / "volumes.csv").exists()
    (out / "volumes.csv").write_bytes(b"case;M\xfcller\n")
    with pytest.raises(BadFile, match="is no text in UTF-8"):
        run([model], images, out, extras=wish)


def test_an_image_whose_preparation_no_memory_holds_is_set_aside(tmp_path: Path) -> None:
    """As one whose header says that its pixels are kilometres."""
    import nibabel

    question = Question(reader="nifti", channels=(Channel(name="t1", kind="mr"),), labels={"background": 0, "a": 1})
    with staged(tmp_path / "vol.autoseg") as inside:
        fill(inside, {"2d": 1}, settings(resample=Part(name="spline")), question)
    model = open_model(tmp_path / "vol.autoseg", "cpu")[1]
    (tmp_path / "in").mkdir()
    for name, size in (("near", 1.0), ("far", 1e4)):
        image = nibabel.Nifti1Image(np.ones((8, 9, 3), np.float32), np.diag([size, size, 1, 1]))
        nibabel.save(image, tmp_path / "in" / f"{name}.nii")
    outcome = run([model], tmp_path / "in", tmp_path / "out", ram=4 * 10**9)
    assert len(outcome.written) == 1 and "check its spacing" in outcome.faults["far"]


def test_parts_share_a_folder(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts = [run([model], images, out, part=(number, 2)) for number in (1, 2)]
    assert [len(part.written) for part in parts] == [3, 2]
    assert same(labels_of(out), expected(model, images)) and run([model], images, out).kept == 5
    for part in ((0, 2), (3, 2)):
        with pytest.raises(BadUsage, match="is no part"):
            run([model], images, out, part=part)


# -- rasters -------------------------------------------------------------------------------------------


def raster(file: Path, array: np.ndarray, **profile) -> None:
    import rasterio
    from rasterio.transform import Affine

    size = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype.name}
    with rasterio.open(file, "w", driver="GTiff", transform=Affine(2, 0, 5e5, 0, -2, 5e6), **size, **profile) as target:
        target.write(array)


@pytest.mark.parametrize("large", [10, 10**9])
def test_a_raster_is_the_same_by_windows_and_whole_and_nodata_stays_nodata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    import rasterio

    monkeypatch.setattr(folder, "LARGE", large)
    model = model_of(tmp_path / "geo.autoseg", GEO)
    array = np.random.default_rng(0).integers(1, 200, (1, 60, 70)).astype(np.uint8)
    array[0, :25, :30] = 0
    (tmp_path / "in").mkdir()
    raster(tmp_path / "in" / "scene.tif", array, crs="EPSG:32632", nodata=0, tiled=True, blockxsize=16, blockysize=16)
    run([model], tmp_path / "in", tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "scene.tif") as label, rasterio.open(tmp_path / "in" / "scene.tif") as image:
        assert (label.crs, label.transform, label.shape) == (image.crs, image.transform, image.shape)
        found, nodata, colours = label.read(1), label.nodata, label.colormap(1)
    whole = model.predict(Raster().read([tmp_path / "in" / "scene.tif"]))
    assert nodata == 255 and np.array_equal(found == 255, array[0] == 0)
    assert (found == whole)[array[0] > 0].mean() > 0.9999 and colours[3][3] == 255
    assert {0, 3, 255} == {*np.unique(found).tolist()}


def test_a_raster_without_coordinates_and_one_of_a_pixel_are_predicted(tmp_path: Path) -> None:
    import rasterio

    model = model_of(tmp_path / "geo.autoseg", GEO)
    (tmp_path / "in").mkdir()
    raster(tmp_path / "in" / "one.tif", np.full((1, 1, 1), 7, np.uint8), crs="EPSG:32632")
    with rasterio.open(
        tmp_path / "in" / "bare.tif", "w", driver="GTiff", height=9, width=8, count=1, dtype="uint8"
    ) as target:
        target.write(np.random.default_rng(0).integers(0, 255, (1, 9, 8), np.uint8))
    outcome = run([model], tmp_path / "in", tmp_path / "out")
    assert len(outcome.written) == 2
    with rasterio.open(tmp_path / "out" / "bare.tif") as label:
        assert label.crs is None and label.shape == (9, 8)
    notes = {
        line["case"]: line.get("notes")
        for line in map(json.loads, (tmp_path / "out" / "predicted.jsonl").read_text().splitlines())
    }
    assert notes == {"one": None, "bare": ["has no coordinate system, and so has its label"]}


def test_less_memory_than_the_process_has_is_refused(model: Model, images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="that it takes without an image"):
        run([model], images, tmp_path / "out", ram=10**7)


def test_an_image_that_no_memory_holds_is_set_aside(model: Model, images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folder._Run, "_room", lambda *words: 100)
    outcome = run([model], images, tmp_path / "out")
    assert len(outcome.faults) == 5 and "--ram" in outcome.faults["im0"] and not labels_of(tmp_path / "out")


def test_what_is_wanted_beside_the_labels_is_there(tmp_path: Path) -> None:
    model = model_of(tmp_path / "geo.autoseg", GEO)
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).integers(1, 200, (1, 40, 50)).astype(np.uint8)
    raster(tmp_path / "in" / "scene.tif", array, crs="EPSG:32632")
    wish = ExtraWish(probabilities=True, uncertainty=True, volumes=True, previews=True)
    run([model], tmp_path / "in", tmp_path / "out", extras=wish)
    names = {file.name for file in (tmp_path / "out").iterdir() if not file.name.startswith(".")}
    assert names == {
        "scene.tif", "scene.probabilities.b2nd", "scene.entropy.tif", "scene.disagreement.tif", "volumes.csv",
        "scene.preview.png", "predicted.jsonl",
    }  # fmt: skip
    assert predict_folder([model], Order(tmp_path / "in", tmp_path / "out", extras=wish), Silent()).kept == 1


def test_strange_images_are_predicted_and_told(tmp_path: Path, images: Path) -> None:
    from dataclasses import replace

    from autoseg.records import Seen, SeenChannel, Span

    span = Span(least=4.0, median=5.0, most=6.0)
    seen = Seen(cases=3, flat=True, unit="m", spacing=(span, span), channels=(SeenChannel(),))
    model = replace(model_of(tmp_path / "geo.autoseg", GEO), seen=seen)
    (tmp_path / "in").mkdir()
    raster(tmp_path / "in" / "scene.tif", np.arange(81, dtype=np.uint8).reshape(1, 9, 9), crs="EPSG:32632")
    voice = Told()
    outcome = predict_folder([model], Order(tmp_path / "in", tmp_path / "out"), voice)
    assert len(outcome.written) == 1 and any(line.startswith("scene: ") and "2" in line for line in voice.lines)
    assert json.loads((tmp_path / "out" / "predicted.jsonl").read_text())["notes"]


# -- the command ---------------------------------------------------------------------------------------


def test_the_command_predicts_with_a_model_that_lies_anywhere(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    words = [
        "--home",
        str(tmp_path / "elsewhere"),
        "predict",
        "-m",
        str(tmp_path / "model.autoseg"),
        "--engine",
        "torch",
    ]
    words += ["-i", str(images), "-o", str(out), "--device", "cpu"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "5 labels written" in done.output and same(labels_of(out), expected(model, images))
    again = CliRunner().invoke(main, [*words, "--shard", "1/1", "--ram", "2GB"])
    assert again.exit_code == 0 and "5 were there already" in again.output
    outlines = tmp_path / "outlines"
    done = CliRunner().invoke(main, [*words[:-3], str(outlines), "--device", "cpu", "--polygons"])
    assert done.exit_code == 0, done.output
    assert len(list(outlines.glob("*.geojson"))) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "three"], "--shard"), (["--scales", "1,big"], "--scales"), (["--ram", "lots"], "--ram"),
        (["--config", "3d"], "no configuration '3d'"), (["--folds", "7"], "no fold 7"), (["--depth", "2"], "--depth"),
        (["--dicom-seg"], "--dicom-seg"), (["--device", "cuda:9"], "cuda:9"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told_in_a_line(
    model: Model, images: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    base = ["predict", "-m", str(tmp_path / "model.autoseg"), "-i", str(images), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*base, "--engine", "torch", *words])
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output


def test_a_volume_needs_no_windows(tmp_path: Path) -> None:
    """Volumes are predicted with the same code: the label lies on the file's own grid."""
    import nibabel

    network = settings().network
    flat = settings(network=network, patch=(8, 8), spacing=(1.0, 1.0))
    question = Question(reader="nifti", channels=(Channel(name="t1", kind="mr"),), labels={"background": 0, "a": 1})
    with staged(tmp_path / "vol.autoseg") as inside:
        fill(inside, {"2d": 1}, flat, question)
    model = open_model(tmp_path / "vol.autoseg", "cpu")[1]
    array = np.random.default_rng(0).normal(5, 1, (9, 12, 14)).astype(np.float32)
    array[2:5, 3:6, :4], array[0, 0, 0] = np.nan, np.inf
    (tmp_path / "in").mkdir()
    affine = np.array([[0, -1.5, 0, 3], [1.0, 0, 0, 2], [0, 0, -2, 1], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "in" / "a.nii.gz")
    assert len(run([model], tmp_path / "in", tmp_path / "out").written) == 1
    label = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert label.shape == array.shape and np.allclose(label.affine, affine)
    assert isinstance(model.predict(Image(array[None], (1.0, 1.0, 1.0))), np.ndarray)
