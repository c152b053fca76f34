"""Images that are like the training images raise no remark; strange ones are told in a sentence."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from autoseg.image import Case, Image
from autoseg.layouts import read_task
from autoseg.records import CaseFacts, CaseFiles, Channel, Fingerprint, Kind, Question, Seen
from autoseg.steps import cases
from autoseg.steps.fingerprint import examine, measure
from autoseg.steps.look import whole
from autoseg.steps.unlike import LOOKED_AT, _stride, seen_of, unlike


def question(*kinds: Kind) -> Question:
    channels = tuple(Channel(name=f"c{number}", kind=kind) for number, kind in enumerate(kinds))
    return Question(reader="nifti", channels=channels, labels={"background": 0, "a": 1})


def facts(image: Image, asked: Question) -> CaseFacts:
    """What is measured of an image in memory, with a label of half of it."""
    label = np.zeros(image.shape, np.uint8)
    label[..., : label.shape[-1] // 2] = 1
    return measure(whole(Case("x", image, label)), asked, "0" * 64, [])


def seen(images: list[Image], asked: Question) -> Seen:
    flat = len(images[0].spacing) == 2
    made = Fingerprint(question="q", flat=flat, cases={f"c{n}": facts(one, asked) for n, one in enumerate(images)})
    found = seen_of(made, asked)
    assert found is not None
    return found


def ct(rng: np.random.Generator, offset: float = 0, spacing: float = 1.0) -> Image:
    """A body of soft tissue with some bone in air."""
    array = np.full((1, 12, 32, 32), -1000.0) + rng.normal(0, 10, (1, 12, 32, 32))
    array[:, :, 6:26, 6:26] = rng.normal(rng.uniform(30, 60), 30, (1, 12, 20, 20))
    array[:, :, 14:18, 14:18] = rng.normal(700, 100, (1, 12, 4, 4))
    return Image((array + offset).round().astype(np.int16), (spacing * 2, spacing, spacing))


def reflectance(rng: np.random.Generator, scale: float = 1.0, kind: type = np.float32) -> Image:
    array = rng.beta(2, 8, (2, 40, 40)) * rng.uniform(0.7, 1)
    return Image((array * scale).astype(kind), (10.0, 10.0))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- like ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ct", "mr", "db", "other", "pet"])
def test_training_images_are_like_themselves_and_so_are_more_of_their_kind(
    rng: np.random.Generator, kind: Kind
) -> None:
    asked, images = question(kind), [ct(rng) for _ in range(5)]
    known = seen(images, asked)
    assert [unlike(image, known, asked) for image in (*images, ct(rng), ct(rng))] == [()] * 7


def test_reflectances_of_darker_scenes_are_like(rng: np.random.Generator) -> None:
    asked, images = question("reflectance", "reflectance"), [reflectance(rng) for _ in range(5)]
    known = seen(images, asked)
    assert [unlike(image, known, asked) for image in (*images, reflectance(rng, 0.6))] == [()] * 6


def test_units_that_mean_nothing_may_have_any_size(rng: np.random.Generator) -> None:
    asked = question("mr")
    known = seen([ct(rng, 1000) for _ in range(3)], asked)
    for factor in (1e-3, 1e6):
        image = ct(rng, 1000)
        assert unlike(Image(image.array * factor, image.spacing), known, asked) == ()


def test_one_case_is_like_itself(rng: np.random.Generator) -> None:
    asked, image = question("ct"), ct(rng)
    assert unlike(image, seen([image], asked), asked) == ()


def test_every_case_of_the_hippocampus_is_like_the_others(real: Path) -> None:
    folder = real / "Task04_Hippocampus"
    dataset, _ = read_task(folder)
    asked, some = dataset.question(), [case for case in dataset.cases if case.labels][::10]
    images = {case.id: cases.read_image([folder / name for name in case.images], asked) for case in some}
    largest = [float(image.array.max()) for image in images.values()]
    assert max(largest) > 100 * min(largest)
    _require_quiet(folder, some, asked)


@pytest.mark.parametrize("name", ["EPFL_Roads", "Amazon_Forest_GeoTIFF", "Water_12band", "Sen1Floods11_sample"])
def test_no_real_training_image_is_strange(real: Path, name: str) -> None:
    dataset, _ = read_task(real / name)
    labelled = [case for case in dataset.cases if case.labels]
    _require_quiet(real / name, labelled[:: max(1, len(labelled) // 8)], dataset.question())


def _require_quiet(folder: Path, some: list[CaseFiles], asked: Question) -> None:
    measured = {case.id: examine(folder, case, asked) for case in some}
    flat = all(one.shape[0] == 1 for one in measured.values() if one.usable)
    known = seen_of(Fingerprint(question="q", flat=flat, cases=measured), asked)
    assert known is not None
    for case in some:
        if measured[case.id].usable:
            image = cases.read_image([folder / name for name in case.images], asked)
            assert unlike(image, known, asked) == (), case.id


# -- unlike --------------------------------------------------------------------------------------------


def test_ct_without_the_offset_is_told(rng: np.random.Generator) -> None:
    asked = question("ct")
    known = seen([ct(rng) for _ in range(5)], asked)
    (said,) = unlike(Image(np.maximum(ct(rng, 1024).array, 0), (2.0, 1.0, 1.0)), known, asked)
    assert "channel c0" in said and "HU" in said and "offset to Hounsfield units missing" in said


@pytest.mark.parametrize("scale", [10_000, 1 / 255])
def test_another_scale_of_reflectance_is_told(rng: np.random.Generator, scale: float) -> None:
    asked = question("reflectance", "reflectance")
    known = seen([reflectance(rng) for _ in range(5)], asked)
    said = unlike(reflectance(rng, scale), known, asked)
    assert len(said) == 2 and all("scaled differently" in one for one in said)


def test_eight_bits_instead_of_ten_thousandths_are_told(rng: np.random.Generator) -> None:
    asked = question("reflectance", "reflectance")
    known = seen([reflectance(rng, 10_000, np.uint16) for _ in range(5)], asked)
    said = unlike(reflectance(rng, 255, np.uint8), known, asked)
    assert len(said) == 2 and all("scaled differently" in one for one in said)


def test_linear_radar_instead_of_decibels_is_told(rng: np.random.Generator) -> None:
    asked = question("db")
    images = [Image(rng.normal(rng.uniform(-14, -8), 4, (1, 40, 40)), (10.0, 10.0)) for _ in range(5)]
    known = seen(images, asked)
    (said,) = unlike(Image(10 ** (images[0].array / 10), (10.0, 10.0)), known, asked)
    assert "dB" in said
    assert unlike(images[0], known, asked) == ()


@pytest.mark.parametrize(("factor", "told"), [(10, 3), (0.1, 3), (1.45, 0), (0.7, 0), (1.55, 3), (0.6, 3)])
def test_spacing_beyond_one_and_a_half_times_is_told_per_axis(
    rng: np.random.Generator, factor: float, told: int
) -> None:
    asked = question("mr")
    known = seen([ct(rng) for _ in range(3)], asked)
    said = unlike(ct(rng, spacing=factor), known, asked)
    assert len(said) == told
    assert not told or said[0] == f"spacing along z is {2 * factor:.4g} mm, that of the training images 2"


def test_a_coarse_axis_alone_is_told_by_its_name(rng: np.random.Generator) -> None:
    asked, image = question("mr"), ct(rng)
    known = seen([image, ct(rng, spacing=1.2)], asked)
    (said,) = unlike(Image(image.array, (2.0, 5.0, 1.0)), known, asked)
    assert said == "spacing along y is 5 mm, that of the training images 1 to 1.2"


def test_one_slice_says_nothing_of_the_distance_of_slices(rng: np.random.Generator) -> None:
    asked, image = question("mr"), ct(rng)
    known = seen([image], asked)
    assert unlike(Image(image.array[:, 0], (1.0, 1.0)), known, asked) == ()
    assert len(unlike(Image(image.array[:, 0], (1.0, 9.0)), known, asked)) == 1


def test_pictures_have_no_spacing_to_compare(rng: np.random.Generator) -> None:
    asked = question("rgb")
    images = [Image(rng.integers(0, 256, (1, 30, 30), dtype=np.uint8), (1.0, 1.0)) for _ in range(3)]
    known = seen(images, asked)
    assert known.unit == "pixels"
    assert unlike(Image(images[0].array, (0.1, 0.1)), known, asked) == ()


@pytest.mark.parametrize("kind", ["mr", "ct", "rgb", "other"])
def test_a_constant_channel_is_told_where_none_was(rng: np.random.Generator, kind: Kind) -> None:
    asked, image = question(kind), ct(rng)
    known = seen([image], asked)
    flat = Image(np.full_like(image.array, 40), image.spacing)
    assert unlike(flat, known, asked) == ("channel c0 has one value only, 40",)


def test_classes_may_be_one_only(rng: np.random.Generator) -> None:
    asked, image = question("categorical"), ct(rng)
    known = seen([Image((image.array > 0).astype(np.uint8), image.spacing)], asked)
    assert unlike(Image(np.ones_like(image.array, np.uint8), image.spacing), known, asked) == ()


# -- what is looked at ---------------------------------------------------------------------------------


def test_voxels_without_measurement_and_empty_borders_do_not_count(rng: np.random.Generator) -> None:
    asked = question("ct")
    known = seen([ct(rng) for _ in range(3)], asked)
    image = ct(rng)
    array = np.zeros((1, 40, 90, 90), np.float32)  # padded with zeros
    array[:, 14:26, 30:62, 30:62] = image.array
    array[:, 16, 31:60] = np.nan
    valid = np.isfinite(array[0])
    valid[20, 31:60], array[0, 20, 31:60] = False, 30_000
    assert unlike(Image(array, image.spacing, valid), known, asked) == ()
    assert unlike(Image(array, image.spacing), known, asked) != ()


@pytest.mark.parametrize("shape", [(1,), (7, 5), (1, 4000, 4000), (1000, 1000, 1000), (3, 100_000, 7), (1, 1, 10**8)])
def test_the_step_is_the_smallest_that_leaves_few_enough(shape: tuple[int, ...]) -> None:
    def left(step: int) -> int:
        return int(np.prod([-(-size // step) for size in shape]))

    step = _stride(shape, 1_000_000)
    assert left(step) <= 1_000_000 and (step == 1 or left(step - 1) > 1_000_000)


def test_a_big_image_costs_little(rng: np.random.Generator) -> None:
    asked, small = question("ct"), ct(rng)
    known = seen([small], asked)
    big = np.broadcast_to(small.array[:, :, None, :, None], (1, 12, 60, 32, 60, 32)).reshape(1, 12, 1920, 1920)
    assert big.size > 40 * LOOKED_AT
    began = time.process_time()
    assert unlike(Image(big, small.spacing), known, asked) == ()
    assert time.process_time() - began < 2


# -- what is known -------------------------------------------------------------------------------------


def test_what_is_seen_is_pooled_and_names_no_case(rng: np.random.Generator) -> None:
    asked = question("ct")
    images = [ct(rng), ct(rng, spacing=1.5), ct(rng, spacing=3)]
    known = seen(images, asked)
    assert (known.cases, known.unit, known.flat) == (3, "mm", False)
    assert [(span.least, span.median, span.most) for span in known.spacing] == [(2, 3, 6), (1, 1.5, 3), (1, 1.5, 3)]
    (channel,) = known.channels
    medians = [float(np.median(image.array)) for image in images]
    assert channel.middle is not None and channel.middle.least == pytest.approx(min(medians), abs=1)
    assert channel.valid is not None and channel.foreground is not None and not channel.constant
    assert "c1" not in known.model_dump_json() and "0" * 64 not in known.model_dump_json()


def test_nothing_is_known_without_cases() -> None:
    assert seen_of(Fingerprint(question="q", flat=False, cases={}), question("ct")) is None
