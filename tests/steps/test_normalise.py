"""How channels are normalised: the kind's part where the values bear it out, else what they allow; always a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.arrays.intensity import describe
from autoseg.parts import NORMALISERS
from autoseg.records import CaseFacts, Channel, Kind, Part, Question, Values
from autoseg.steps import normalise
from autoseg.steps.evidence import look, nodata, turn, without

rng = np.random.default_rng(0)


def question(kind: Kind = "other", name: str = "x") -> Question:
    return Question(reader="nifti", channels=(Channel(name=name, kind=kind),), labels={"background": 0, "a": 1})


def facts(
    values: np.ndarray, foreground: np.ndarray | None = None, *, depth: int = 1, filled: float = 1.0
) -> CaseFacts:
    """Of a case with these values in its one channel, `filled` of which is left by cropping."""
    whole = bool((values == np.round(values)).all())
    found = np.unique(values)
    listed = tuple(int(v) for v in found) if whole and len(found) <= 64 else None
    known = Values(whole=whole, bits=8, saturated=0.0, distinct=listed)
    return CaseFacts(
        sha256="0", shape=(depth, 100, 100), cropped=(depth, 100, round(100 * filled)), spacing=(1.0, 1.0, 1.0),
        dtype="float32", valid=(describe(values),), values=(known,),
        foreground=(describe(values if foreground is None else foreground),),
    )  # fmt: skip


def decided(cases: Sequence[CaseFacts], kind: Kind = "other", name: str = "x") -> tuple[Part, str]:
    """The part, which can be built, and its reason."""
    because: dict[str, str] = {}
    (part,) = normalise.decide(question(kind, name), cases, because)
    NORMALISERS.build(part, intensity=None)
    return part, because["normalise.0"]


def applied(part: Part, values: np.ndarray) -> np.ndarray:
    channel = values.astype(np.float32).reshape(1, 1, -1)
    result: np.ndarray = NORMALISERS.build(part, intensity=None)(channel, np.ones(channel.shape, bool))
    return result


def ct(count: int = 20_000) -> np.ndarray:
    """A third air, the rest soft tissue and some bone."""
    tissue = rng.normal(40, 60, count)
    return np.round(np.concatenate([rng.normal(-1000, 10, count // 2), tissue, rng.normal(600, 200, count // 20)]))


def reflectance(count: int = 20_000) -> np.ndarray:
    return np.round(rng.gamma(4, 300, count))


# -- volumes -------------------------------------------------------------------------------------------


def test_ct_is_clipped_to_its_foreground() -> None:
    organ = np.round(rng.normal(100, 20, 5000))
    part, reason = decided([facts(ct(), organ, depth=9)], "ct", "CT")
    assert part.name == "ct" and "HU of the foreground" in reason
    expected = {"lower": np.percentile(organ, 0.5), "upper": np.percentile(organ, 99.5), "mean": 100, "sd": 20}
    assert part.options == pytest.approx(expected, abs=1.5)


def test_hounsfield_units_are_known_without_a_name() -> None:
    organ = np.round(rng.normal(100, 20, 5000))
    part, reason = decided([facts(ct(), organ, depth=9)] * 3, "other", "image")
    named, _ = decided([facts(ct(), organ, depth=9)] * 3, "ct", "CT")
    assert part == named and "are Hounsfield units" in reason and "--channels image=mr" in reason


@pytest.mark.parametrize(
    "case",
    [
        facts(ct(), rng.normal(100, 20, 500), depth=1),  # a raster: depths of a sea
        facts(ct() + 0.5, rng.normal(100, 20, 500), depth=9),
        facts(ct() + 1024, rng.normal(1100, 20, 500), depth=9),
        facts(ct() - 5000, rng.normal(100, 20, 500), depth=9),
        facts(ct(), rng.normal(-950, 20, 500), depth=9),
        facts(np.round(rng.uniform(-1000, 1000, 5000)), rng.normal(100, 20, 500), depth=9),  # velocities
        facts(np.round(rng.gamma(2, 200, 5000)), rng.normal(300, 20, 500), depth=9),
    ],
)
def test_what_may_be_something_else_is_not_taken_for_hounsfield_units(case: CaseFacts) -> None:
    hounsfield = facts(ct(), np.round(rng.normal(100, 20, 500)), depth=case.shape[0])
    for cases in ([case], [hounsfield, case]):
        part, reason = decided(cases)
        assert part.name == "zscore" and "nothing is known" in reason


def test_a_channel_named_mr_is_never_overruled_but_told_of() -> None:
    part, reason = decided([facts(ct(), depth=9)], "mr", "T1")
    assert part.name == "zscore" and "look like Hounsfield units" in reason and "--channels T1=ct" in reason
    assert "Hounsfield" not in decided([facts(rng.gamma(2, 200, 500), depth=9)], "mr")[1]


def test_ct_that_cannot_be_in_hounsfield_units_is_doubted() -> None:
    assert "may not be Hounsfield" in decided([facts(rng.uniform(0, 1, 500), depth=9)], "ct")[1]
    assert "may not be Hounsfield" not in decided([facts(ct(), depth=9)], "ct")[1]


@pytest.mark.parametrize("kind", ["mr", "us", "pet", "other"])
@pytest.mark.parametrize("rule", [normalise.decide, normalise.nnunet])
def test_a_z_score_looks_inside_where_images_are_mostly_empty(kind: Kind, rule) -> None:
    counts = rng.gamma(2, 900, 5000)
    for filled, masked in ((0.76, None), (0.74, True)):
        because: dict[str, str] = {}
        (part,) = rule(question(kind), [facts(counts, depth=9, filled=filled)], because)
        assert part.name == "zscore" and part.options.get("masked") is masked
        assert ("empty border" in because["normalise.0"]) is bool(masked)


def test_suv_is_scaled_alike_and_other_pet_each_for_itself() -> None:
    body, lesion = rng.gamma(1, 1, 20_000), rng.normal(20, 1, 50)
    part, reason = decided([facts(np.concatenate([body, lesion]), lesion, depth=9)] * 2, "pet", "PET")
    assert part.name == "clip" and "SUV" in reason
    assert part.options["lower"] == pytest.approx(0, abs=0.1) and part.options["upper"] > 20  # lesions are not cut off
    for factor in (1.0, 1000.0):
        becquerels, reason = decided([facts(factor * 5000 * body, depth=9)], "pet", "PET")
        assert becquerels == Part(name="zscore", options={"clip": 10.0}) and "not of the size of SUV" in reason


# -- pictures and rasters ------------------------------------------------------------------------------


def test_colours_are_scaled_alike_in_all_images() -> None:
    dark, bright = (np.clip(np.round(rng.normal(mean, 20, 20_000)), 0, 255) for mean in (60, 180))
    part, _ = decided([facts(dark), facts(bright)], "rgb", "R")
    assert (part.name, part.options["lower"], part.options["upper"]) == ("clip", 0.0, 255.0)
    both = np.concatenate([dark, bright])
    result = applied(part, both)
    assert abs(result.mean()) < 0.01 and result.std() == pytest.approx(1, abs=0.01)
    assert applied(part, dark).max() < applied(part, bright).mean()
    deep, _ = decided([facts(16 * dark)], "rgb", "R")
    assert deep.options["upper"] == pytest.approx(16 * np.percentile(dark, 99.5), rel=0.05)


@pytest.mark.parametrize("kind", ["reflectance", "db"])
def test_units_that_mean_the_same_everywhere_are_scaled_over_the_data_set(kind: Kind) -> None:
    images = [reflectance() if kind == "reflectance" else rng.normal(mean, 3, 20_000) for mean in (-20, -14)]
    part, reason = decided([facts(image) for image in images], kind)
    assert part.name == "clip" and "alike in all images" in reason
    result = applied(part, np.concatenate(images))
    assert abs(result.mean()) < 0.1 and result.std() == pytest.approx(1, abs=0.1)


def test_outliers_do_not_matter() -> None:
    plain = reflectance()
    wild = plain.copy()
    wild[:60] = 65535  # 0.3 %
    wild[60:70] = -32768
    part, _ = decided([facts(plain, plain[100:])], "reflectance")
    other, _ = decided([facts(wild, plain[100:])], "reflectance")
    for name, number in part.options.items():
        assert other.options[name] == pytest.approx(number, rel=0.25, abs=30)


def test_a_small_bright_foreground_is_not_clipped_away() -> None:
    sea, ships = rng.normal(-20, 3, 50_000), rng.normal(10, 1, 100)
    part, _ = decided([facts(np.concatenate([sea, ships]), ships)], "db")
    assert applied(part, ships).std() > 0.1 and part.options["upper"] > 11


@pytest.mark.parametrize("value", [-9999.0, -32768.0, -3.4e38, -999.0, 0.0])
@pytest.mark.parametrize("share", [0.02, 0.4, 1.0])
def test_nodata_that_nobody_declared_is_not_counted(value: float, share: float) -> None:
    plain, filled = 100 + rng.gamma(4, 30, 20_000), 100 + rng.gamma(4, 30, 20_000)
    filled[: round(share * len(filled))] = value
    part, reason = decided([facts(plain), facts(plain), facts(filled, plain)], "reflectance")
    clean, _ = decided([facts(plain)] * 3, "reflectance")
    assert f"{value:g} is so frequent" in reason and "declare it" in reason
    for name in ("lower", "upper", "mean", "sd"):
        assert part.options[name] == pytest.approx(clean.options[name], rel=0.35)


def test_nodata_in_a_band_of_no_kind_makes_no_z_score_of_it() -> None:
    heights = rng.normal(300, 50, 20_000)
    heights[:1000] = -9999
    part, reason = decided([facts(heights)])
    assert part.name == "clip" and part.options["lower"] > 0 and "-9999 is so frequent" in reason
    background = np.concatenate([np.zeros(5000), rng.normal(220, 5, 5000)])
    assert decided([facts(background)])[0].name == "zscore"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.concatenate([np.full(50, -100.0), np.linspace(0, 10, 5000)]), -100.0),
        (np.concatenate([np.full(50, 100.0), np.linspace(0, 10, 5000)]), 100.0),
        (np.concatenate([np.full(50, -5.0), np.linspace(0, 10, 5000)]), None),  # not far off
        (np.concatenate([np.full(5, -100.0), np.linspace(0, 10, 5000)]), None),  # not frequent
        (np.repeat([1.0, 255.0], 500), None),  # a mask
        (np.repeat([-9999.0, 1.0, 2.0], 500), -9999.0),
        (np.full(50, 7.0), None),
    ],
)
def test_nodata_is_frequent_and_far_off(values: np.ndarray, found: float | None) -> None:
    seen = look(Channel(name="x", kind="other"), 0, [facts(values)])
    filling = nodata(seen)
    assert (None if filling is None else filling.value) == found
    assert [case.quantiles[0] != found for case in without(seen.valid, filling)] == [True]


def test_a_quantile_between_nodata_and_values_is_not_counted() -> None:
    half = np.concatenate([np.full(500, -9999.0), np.linspace(100, 200, 500)])  # its median lies halfway
    seen = look(Channel(name="x", kind="other"), 0, [facts(half)])
    (left,) = without(seen.valid, nodata(seen))
    assert -9999 < seen.valid[0].quantiles[7] < 0 < left.quantiles[0]


def test_images_in_different_units_are_each_scaled_by_themselves() -> None:
    image = reflectance()
    part, reason = decided([facts(image), facts(image / 10_000)], "reflectance")
    assert part.name == "zscore" and "cannot be in one unit" in reason
    assert decided([facts(image), facts(image / 100)], "reflectance")[0].name == "clip"


def test_decibels_may_be_filled_with_zeros_above_them_all() -> None:
    filled = rng.normal(-20, 3, 20_000)
    filled[:5000] = 0
    part, reason = decided([facts(filled)], "db")
    assert part.options["upper"] < -8 and "; 0 is so frequent" in reason


def test_powers_named_as_decibels_are_doubted() -> None:
    assert "logarithm" in decided([facts(rng.exponential(0.1, 5000))], "db")[1]
    assert "logarithm" not in decided([facts(rng.normal(-20, 3, 5000))], "db")[1]


# -- classes and directions ----------------------------------------------------------------------------


def test_classes_get_a_channel_each() -> None:
    cases = [facts(rng.choice([10.0, 30.0], 500)), facts(rng.choice([10.0, 95.0], 500))]
    part, reason = decided(cases, "categorical", "landcover")
    assert part == Part(name="onehot", options={"values": [10, 30, 95]}) and "each of its 3 values" in reason
    assert applied(part, np.array([10, 95, 20])).reshape(3, 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("values", "lacking"),
    [(np.arange(65.0), "more than 64"), (np.array([0.5, 1.0]), "not whole"), (None, "not all listed")],
)
def test_classes_that_cannot_be_listed_are_numbers(values: np.ndarray | None, lacking: str) -> None:
    case = facts(np.arange(9.0) if values is None else values)
    if values is None:  # as facts without values are
        case = case.model_copy(update={"values": (), "dtype": "uint8"})
    part, reason = decided([case], "categorical")
    assert part.name == "zscore" and lacking in reason


def test_few_values_of_no_kind_are_only_told_of() -> None:
    part, reason = decided([facts(rng.choice([1.0, 2.0, 5.0], 500))])
    assert part.name == "zscore" and "3 values, perhaps classes" in reason


@pytest.mark.parametrize(
    ("low", "high", "period"),
    [
        (0, 360, 360), (-1, 359, 360), (-180, 180, 360), (0, 180, 180), (-90, 90, 180), (0, 2 * math.pi, 2 * math.pi),
        (-math.pi, math.pi, 2 * math.pi), (0, math.pi, math.pi), (-math.pi / 2, math.pi / 2, math.pi),
        (0, 100, None), (-1000, 400, None), (0, 4095, None), (1, 128, None), (20, 45, None),
    ],
)  # fmt: skip
def test_the_unit_of_a_direction_shows_in_its_range(low: float, high: float, period: float | None) -> None:
    values = np.linspace(low, high, 999)
    found = turn(look(Channel(name="aspect", kind="angle"), 0, [facts(values)]))
    assert found == (None if period is None else pytest.approx(period, abs=1e-5))
    part, reason = decided([facts(values)], "angle")
    assert part.name == ("zscore" if period is None else "angle")
    assert ("not all directions" in reason) is (period is None)


def test_whole_numbers_are_no_radians_and_nodata_is_no_direction() -> None:
    assert decided([facts(rng.choice([0.0, 1, 2, 3, 4, 5, 6], 500))], "angle")[0].name == "zscore"
    filled = np.concatenate([np.full(500, -9999.0), np.linspace(0, 360, 5000)])
    assert decided([facts(filled)], "angle")[0] == Part(name="angle", options={"period": 360.0})


# -- what holds of all -----------------------------------------------------------------------------------


def test_a_constant_channel_is_told_of_and_one_value_per_image_is_kept_apart() -> None:
    one, two = facts(np.full(50, 3.0)), facts(np.full(50, 5.0))
    for kind in normalise.KINDS:
        part, reason = decided([one, one], kind)
        assert part.name == "zscore" and "3 in all images, tells nothing" in reason
    part, reason = decided([one, two])
    assert "one value per image" in reason
    assert applied(part, np.array([5.0])).item() - applied(part, np.array([3.0])).item() > 1


def test_what_nothing_is_known_of_says_how_to_change_it() -> None:
    for depth, title in ((1, "2d"), (5, "3d")):
        part, reason = decided([facts(rng.normal(5, 1, 500), depth=depth)], name="elevation")
        assert part == Part(name="zscore") and "nothing is known" in reason
        assert (
            "--channels elevation=KIND" in reason and f"--set configurations.{title}.normalise.0.name=range" in reason
        )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(normalise.KINDS)),
    st.lists(st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=6), min_size=1, max_size=3),
    st.sampled_from([1, 4]),
)
def test_whatever_is_measured_there_is_a_part_that_works(kind: Kind, images: list[list[float]], depth: int) -> None:
    cases = [facts(np.array(image), depth=depth) for image in images]
    part, reason = decided(cases, kind)
    assert reason and all(np.isfinite(applied(part, np.array(image))).all() for image in images)


@pytest.mark.parametrize("rule", [normalise.decide, normalise.nnunet])
@pytest.mark.parametrize("kind", list(normalise.KINDS))
def test_facts_without_intensities_suffice(kind: Kind, rule) -> None:
    because: dict[str, str] = {}
    bare = CaseFacts(sha256="0", shape=(1, 9, 9), cropped=(1, 9, 9), valid=(None,), foreground=(None,))
    for cases in ([bare], [bare.model_copy(update={"valid": (), "foreground": ()})]):
        assert [part.name for part in rule(question(kind, "CT"), cases, because)] == ["zscore"]
    assert because["normalise.0"]


def test_every_channel_is_decided_for_itself() -> None:
    one, two = facts(reflectance()), facts(rng.choice([1.0, 2.0], 500))
    both = one.model_copy(
        update={name: (*getattr(one, name), *getattr(two, name)) for name in ("valid", "foreground", "values")}
    )
    channels = (Channel(name="NIR", kind="reflectance"), Channel(name="class", kind="categorical"))
    because: dict[str, str] = {}
    made = normalise.decide(question().model_copy(update={"channels": channels}), [both], because)
    assert [part.name for part in made] == ["clip", "onehot"] and list(because) == ["normalise.0", "normalise.1"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("noNorm", Part(name="none")), ("ZScore", Part(name="zscore")), ("rescale_to_0_1", Part(name="range")),
        ("RGB_to_0_1", Part(name="range", options={"lower": 0.0, "upper": 255.0})), ("CT venous", Part(name="zscore")),
        ("R", Part(name="zscore")), ("VV", Part(name="zscore")), ("landcover", Part(name="zscore")),
    ],
)  # fmt: skip
def test_nnunet_goes_by_exact_names(name: str, part: Part) -> None:
    because: dict[str, str] = {}
    for kind in ("rgb", "categorical", "db"):
        assert normalise.nnunet(question(kind, name), [facts(ct(), depth=9)], because) == (part,)
    assert because["normalise.0"].startswith(f"nnU-Net's rule for the name {name}: ")


def test_nnunets_ct_is_ours() -> None:
    cases, because = [facts(ct(), np.round(rng.normal(100, 20, 500)), depth=9)], dict[str, str]()
    assert normalise.nnunet(question("ct", "Ct"), cases, because) == normalise.decide(
        question("ct", "CT"), cases, because
    )
