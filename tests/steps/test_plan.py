"""Plans: what is decided from which evidence, and that every decision has a reason."""

from __future__ import annotations

from math import prod

import pytest

from autoseg.errors import BadData, BadPlan, BadUsage
from autoseg.parts import AUGMENTATIONS, NORMALISERS, RESAMPLERS
from autoseg.records import CaseFacts, Channel, Fault, Fingerprint, Intensity, Plan, Question, Target, amend, parse
from autoseg.steps.plan import configuration_of, hours, make, schedule_for, steps_in
from autoseg.steps.preprocess import inputs
from autoseg.steps.suited import require_parts

CPU = Target(device="cpu", memory=16 * 10**9, threads=2)
CUDA = Target(device="cuda", memory=8 * 10**9)
QUANTILES = tuple(float(v) for v in (-50, -40, -30, -20, 0, 10, 20, 50, 80, 90, 100, 110, 120, 130, 140))


def question(kind="mr", name="MRI") -> Question:
    return Question(reader="nifti", channels=(Channel(name=name, kind=kind),), labels={"background": 0, "a": 1, "b": 2})


def fingerprint(shape=(36, 50, 35), spacing=(1.0, 1.0, 1.0), count=260, cropped=None, faults=()) -> Fingerprint:
    intensity = Intensity(mean=50, sd=20, quantiles=QUANTILES)
    facts = CaseFacts(
        sha256="0", shape=shape, cropped=cropped or shape, spacing=spacing, valid=(intensity,),
        foreground=(intensity,), faults=faults,
    )  # fmt: skip
    return Fingerprint(question="q", flat=shape[0] == 1, cases={str(n): facts for n in range(count)})


def plan(found: Fingerprint, target: Target = CPU, asked: Question | None = None) -> Plan:
    return make(found, asked or question(), target, task="Task01_X", name="default", ids=("f", "g"))


def test_a_gpu_of_8_gb_gets_nnunets_plan() -> None:
    made = plan(fingerprint(), CUDA)
    assert made.configurations["3d"].patch == (40, 56, 40) and made.configurations["3d"].batch == 9
    assert made.configurations["2d"].patch == (56, 40) and made.configurations["2d"].batch == 366
    assert made.configurations["3d"].network.features == (32, 64, 128, 256)
    assert made.configurations["3d"].train.optimiser.name == "sgd"
    assert schedule_for(made, {}).configurations["3d"].train.steps == 100_000


def test_a_cpu_gets_the_steps_of_an_hour_or_of_the_budget() -> None:
    made = schedule_for(plan(fingerprint()), {"2d": 0.25, "3d": 0.2})
    three = made.configurations["3d"]
    assert (three.patch, three.batch, three.network.features) == ((40, 56, 40), 2, (32, 64, 128, 256))
    assert three.train.steps == 18_000 and hours(made, "3d") == pytest.approx(1)
    assert "CPU" in made.because["target"] and "0.200 s per step" in made.because["configurations.3d.train.steps"]
    brief = CPU.model_copy(update={"minutes": 15.0})
    made = schedule_for(plan(fingerprint(), brief), {"3d": 0.25})
    assert made.configurations["3d"].train.steps == 3600 and "15 minutes" in made.because["target"]


@pytest.mark.parametrize("shape", [(36, 50, 35), (300, 512, 512), (1, 400, 400)])
def test_more_time_and_a_faster_machine_are_spent_on_larger_steps(shape: tuple[int, ...]) -> None:
    found, sizes = fingerprint(shape, count=60), []
    for minutes, rate in ((15, 1.0), (60, 1.0), (240, 1.0), (240, 4.0)):
        rates = {"2": 168e6 * rate, "3": 88e6 * rate}
        target = CPU.model_copy(update={"minutes": float(minutes), "rates": rates})
        one = plan(found, target).configurations["2d" if shape[0] == 1 else "3d"]
        sizes.append(prod(one.patch) * one.batch * one.network.features[0])
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_large_volume_gets_a_low_resolution_and_a_cascade() -> None:
    made = plan(fingerprint((300, 512, 512), count=60), CUDA)
    assert list(made.configurations) == ["2d", "3d", "3d_lowres", "3d_cascade"]
    full, low, cascade = (made.configurations[title] for title in ("3d", "3d_lowres", "3d_cascade"))
    seen = [n * s / t for n, s, t in zip((300, 512, 512), full.spacing, low.spacing, strict=True)]
    assert prod(low.patch) / prod(seen) >= 0.25 > prod(full.patch) / (300 * 512 * 512)
    assert cascade.previous == "3d_lowres" and cascade.patch == full.patch
    mistakes = cascade.train.augment[len(full.train.augment) :]
    assert cascade.train.augment[: len(full.train.augment)] == full.train.augment == low.train.augment
    assert [part.name for part in mistakes] == ["morphology", "forget"]
    assert "the label of 3d_lowres" in made.because["configurations.3d_cascade.train.augment"]
    assert inputs(cascade.normalise, made.question, cascade.previous) == 1 + 2
    assert inputs(full.normalise, made.question, full.previous) == 1
    assert "covers" in made.because["configurations.3d_lowres"]
    assert list(plan(fingerprint(), CUDA).configurations) == ["2d", "3d"]
    for nonsense in ("3d_cascade", "4d"):
        with pytest.raises(BadPlan, match=f"3d_cascade goes on from {nonsense}, which is no other configuration"):
            amend(made, {"configurations.3d_cascade.previous": nonsense})


def test_a_cascade_with_many_classes_takes_a_smaller_patch_that_fits() -> None:
    labels = {"background": 0, **{f"class {n}": n for n in range(1, 60)}}
    made = plan(fingerprint((300, 400, 400), count=30), CUDA, question().model_copy(update={"labels": labels}))
    full, cascade = (made.configurations[title] for title in ("3d", "3d_cascade"))
    assert max(full.memory.bytes, cascade.memory.bytes) <= CUDA.memory and prod(cascade.patch) < prod(full.patch)
    require_parts(made)


def test_flat_tasks_have_no_3d_and_say_what_there_is() -> None:
    made = plan(fingerprint((1, 400, 400), count=40))
    assert list(made.configurations) == ["2d"]
    with pytest.raises(BadUsage, match=r"flat images: there is no 3d configuration; expected one of 2d"):
        configuration_of(made, "3d")
    assert "turns" in [part.name for part in made.configurations["2d"].train.augment]


@pytest.mark.parametrize("pixel", [0.3, 1.0, 10.0])
def test_rasters_of_any_resolution_are_planned_in_their_plane(pixel: float) -> None:
    one = plan(fingerprint((1, 300, 400), (1.0, pixel, pixel), 40)).configurations["2d"]
    assert one.axes == (0, 1, 2) and one.spacing == (pixel, pixel) and min(one.patch) > 100


def test_slices_are_cut_across_the_coarsest_axis() -> None:
    made = plan(fingerprint((200, 190, 12), (1.0, 1.0, 8.0), 30))
    assert made.configurations["3d"].axes == (2, 0, 1) and made.configurations["2d"].axes == (2, 0, 1)
    assert made.configurations["3d"].spacing == (8.0, 1.0, 1.0) and made.configurations["2d"].spacing == (1.0, 1.0)
    affine = made.configurations["3d"].train.augment[0]
    assert affine.name == "affine" and affine.options["planar"] is True


def test_ct_is_clipped_to_the_foreground() -> None:
    part = plan(fingerprint(), asked=question("ct", "CT")).configurations["3d"].normalise[0]
    assert part.name == "ct"
    assert part.options == pytest.approx({"lower": -40.0, "upper": 130.0, "mean": 50.0, "sd": 20.0}, abs=2)


def test_z_score_looks_inside_when_images_are_mostly_empty() -> None:
    assert plan(fingerprint()).configurations["3d"].normalise[0].options == {}
    made = plan(fingerprint(cropped=(20, 30, 30)))
    assert made.configurations["3d"].normalise[0].options == {"masked": True}


def test_rasters_are_resampled_only_when_resolutions_differ() -> None:
    same = fingerprint((1, 100, 100), (1.0, 10.0, 10.0), 4)
    other = {"x": same.cases["0"].model_copy(update={"spacing": (1.0, 30.0, 30.0)})}
    assert plan(same).configurations["2d"].resample.name == "keep"
    mixed = same.model_copy(update={"cases": {**same.cases, **other}})
    assert plan(mixed).configurations["2d"].resample.name == "spline"


@pytest.mark.parametrize("target", [CPU, CUDA])
@pytest.mark.parametrize(
    "found", [fingerprint(), fingerprint((1, 3, 3), count=2), fingerprint((12, 200, 200), (8.0, 1.0, 1.0), 30)]
)
def test_every_plan_is_valid_has_reasons_and_names_known_parts(found: Fingerprint, target: Target) -> None:
    made = plan(found, target)
    assert parse(Plan, made.model_dump_json(), "x") == made
    for title, one in made.configurations.items():
        for field in ("spacing", "patch", "batch", "resample", "network.features", "network.strides"):
            assert made.because[f"configurations.{title}.{field}"]
        assert all(part.name in NORMALISERS for part in one.normalise) and one.resample.name in RESAMPLERS
        assert all(AUGMENTATIONS.build(part, dims=one.dims) for part in one.train.augment)


def test_a_plan_names_no_case() -> None:
    found = fingerprint(count=3)
    named = found.model_copy(update={"cases": {"patient_jane_doe": found.cases["0"]}})
    assert "jane" not in plan(named).model_dump_json()


def test_sparse_annotation_aims_most_patches_at_what_is_labelled() -> None:
    found = fingerprint(count=4)
    voxels = prod((36, 50, 35))

    def labelled(share: float) -> Plan:
        some = {"background": round(voxels * share * 0.9), "a": round(voxels * share * 0.1), "b": 0}
        return plan(found.model_copy(update={
            "cases": {id: facts.model_copy(update={"voxels": some}) for id, facts in found.cases.items()}
        }))  # fmt: skip

    assert labelled(1.0).configurations["3d"].train.foreground == 0.33
    assert plan(found).configurations["3d"].train.foreground == 0.33  # nothing known
    assert labelled(0.3).configurations["3d"].train.foreground == 0.7
    assert labelled(0.001).configurations["3d"].train.foreground == 0.9
    assert "0.1% of the voxels are labelled" in labelled(0.001).because["configurations.3d.train.foreground"]


def test_unusable_cases_are_left_out_and_none_is_an_error() -> None:
    fault = Fault(case="0", fault="unreadable", detail="x", fatal=True)
    with pytest.raises(BadData, match="no case can be used"):
        plan(fingerprint(count=2, faults=(fault,)))


def test_steps_fit_the_budget() -> None:
    assert 895 <= steps_in(900, 1.0) <= 900 and steps_in(0.1, 1.0) == 1
