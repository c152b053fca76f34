"""Records: nothing unknown comes in, nothing changes, every fault is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autoseg import records
from autoseg.errors import BadFile, BadPlan, BadTask
from autoseg.records import (
    CaseCertainty,
    CaseFacts,
    CaseFiles,
    Certainty,
    Channel,
    Checkpoint,
    Choice,
    Cleaning,
    Compared,
    Configuration,
    Dataset,
    Doubt,
    Fault,
    Fingerprint,
    Folds,
    Insert,
    Intensity,
    Made,
    Means,
    Measures,
    Member,
    Memory,
    Network,
    Objects,
    PackedModel,
    Part,
    Plan,
    Postprocessing,
    Predicted,
    Pruned,
    Question,
    Record,
    Run,
    Scores,
    Seen,
    SeenChannel,
    Span,
    Target,
    Train,
    Values,
    amend,
    digest,
    parse,
)

PART = Part(name="a", options={"rate": 0.1, "axes": [0, 1], "deep": {"x": None}})
INSERT = Insert(part=PART, place="skip", stages=(0, None))
NETWORK = Network.plain((8, 16), ((1, 1), (2, 2)), inserts=(INSERT,))
TRAIN = Train(
    loss="dice+ce", augment=(PART, Part(name="mirror")), steps=100, optimiser=Part(name="sgd"),
    schedule=Part(name="poly"), foreground=0.33,
)  # fmt: skip
MEMORY = Memory(bytes=1 << 30, method="counted")
CONFIGURATION = Configuration(
    spacing=(1.0, 0.7), patch=(32, 64), batch=2, normalise=(Part(name="zscore"),), resample=Part(name="spline"),
    network=NETWORK, train=TRAIN, memory=MEMORY,
)  # fmt: skip
QUESTION = Question(
    reader="nifti", channels=(Channel(name="t1", kind="mr"),), labels={"b": 2, "background": 0, "a": 1}, ignore=9,
    merged={7: 2},
)  # fmt: skip
CASE = CaseFiles(id="c1", images=("a.nii",), labels={"reference": "b.nii"}, group="p1", site="s")
DATASET = Dataset(**dict(QUESTION), name="Task01", cases=(CASE,))
FAULT = Fault(case="c1", fault="nan", detail="3 voxels", fatal=False)
INTENSITY = Intensity(mean=0.1, sd=1e-30, quantiles=(0.0, 1 / 3))
FACTS = CaseFacts(sha256="00", shape=(1, 2, 3), valid=(INTENSITY, None), voxels={"a": 3}, faults=(FAULT,))
TARGET = Target(device="cpu", memory=10**10, threads=2)
PLAN = Plan(
    task="Task01", name="default", fingerprint="f", folds="d", target=TARGET, question=QUESTION,
    configurations={"2d": CONFIGURATION}, because={"2d.patch": "it fits"},
)  # fmt: skip
RUN = Run(
    task="Task01", plan="default", configuration="2d", fold="all", seed=0, settings=CONFIGURATION, question=QUESTION,
    folds="d", device="cpu", precision="bf16", threads=2, version="0",
)  # fmt: skip
MEASURES = Measures(
    dice=None, iou=None, precision=None, recall=0.5, specificity=1.0, accuracy=0.75, true_positives=0,
    false_positives=0, false_negatives=0, true_negatives=3, volume_prediction=0, volume_reference=0.5,
    more={"hd95": 2.5, "object_f1": None}, counts={"object_f1": (0, 1, 2)},
)  # fmt: skip
MEANS = Means(
    dice=0.1, iou=None, precision=None, recall=None, specificity=0.5, accuracy=None, cases=1, more={"hd95": 2.5},
    intervals={"dice": (0.05, 0.2)},
)  # fmt: skip
FOLDS = Folds(rule="r", folds=(("a", "b"), ("c",), ("d",)))
SPAN = Span(least=0.5, median=1.0, most=2.0)
CHANNEL_SEEN = SeenChannel(valid=INTENSITY, foreground=INTENSITY, low=SPAN, middle=SPAN, high=SPAN)
SEEN = Seen(cases=1, flat=False, unit="mm", spacing=(SPAN,) * 3, orientations=("RAS",), channels=(CHANNEL_SEEN,))
MEMBER = Member(
    configuration="3d", fold="all", seed=0, settings=CONFIGURATION, steps=5, precision="bf16",
    weights="weights_000.safetensors", size=9, sha256="0" * 64,
)  # fmt: skip
MODEL = PackedModel(
    version="0", created="2026-01-02", task="t", plan="p", decisions="d", measured="m", question=QUESTION,
    configurations=("3d",), members=(MEMBER,), validation={"3d": {"a": MEANS}}, seen=SEEN,
)  # fmt: skip
COMPARED = Compared(
    name="2d", configurations=("2d",), dice=0.5, interval=(0.25, 0.75), behind=0.0, apart=(0.0, 0.0), seconds=1.5,
    parameters=9,
)  # fmt: skip
PRUNED = Pruned(configuration="2d", depth=None, cases=3, seconds=0.5, dice=0.25)
AFTER = Postprocessing(thresholds={"a": 0.35}, steps=(PART,))
CLEANING = Cleaning(
    taken=AFTER, tried=AFTER, before={"a": 0.5}, thresholded={"a": 0.5}, after={"a": None}, nested={"a": 0.75}
)
DOUBT = Doubt(box=((0, 1), (2, 3)), at=(0, 2), said="a", label="b", voxels=4, weight=2.5)
CERTAIN = CaseCertainty(counts=(1, 2), sure=(0.5, 1.5), right=(0, 2), weight=2.5, above=5.0, doubts=(DOUBT,))
ONE_OF_EACH: list[Record] = [
    PART, Channel(name="t1", kind="mr"), CASE, QUESTION, DATASET, FOLDS, FAULT, INTENSITY, FACTS,
    Values(whole=True, bits=1, saturated=0.5), Objects(count=1, sizes=(0.5,) * 5, border=2.0, edge=1.0),
    Fingerprint(question="q", flat=False, cases={"c1": FACTS}, faults=(FAULT,)),
    NETWORK, INSERT, TRAIN, MEMORY, CONFIGURATION, TARGET, PLAN, RUN, Checkpoint(run=RUN, step=3), MEASURES, MEANS,
    Predicted(cases={"c1": "a1"}, labels={"c1.png": "b2"}), Made(case="c1", outputs={"c1.png": "b2"}, fault="odd"),
    Scores(
        rule="r", unit="mm³", cases={"c1": {"a": MEASURES}}, mean={"a": MEANS}, dice=0.1, interval=(0.0, 0.5),
        pooled={"a": MEANS}, groups={"p1": {"a": MEANS}}, measures={"hd95": "a distance"}, faults={"c2": "is missing"},
    ),
    SPAN, CHANNEL_SEEN, SEEN, MEMBER, MODEL, COMPARED, AFTER, CLEANING, PRUNED, DOUBT, CERTAIN,
    Certainty(cases={"c1": CERTAIN}),
    Choice(
        task="t", plan="p", seed=0, configurations=("2d",), because="it is the best", table=(COMPARED,), nested=0.5,
        cleaning=CLEANING, depths=(PRUNED,), runs={"2d": {"0": "a1"}}, cases=3, groups=2,
    ),
]  # fmt: skip
each = pytest.mark.parametrize("record", ONE_OF_EACH, ids=lambda record: type(record).__name__)


def test_there_is_one_of_each_kind_here() -> None:
    kinds = {kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)}
    assert kinds - {Record} == {type(record) for record in ONE_OF_EACH}


# -- every kind ----------------------------------------------------------------------------------------


@each
def test_json_gives_the_same_record_again(record: Record) -> None:
    again = parse(type(record), record.model_dump_json(indent=1), "x.json")
    assert again == record
    assert digest(again) == digest(record)


@each
def test_records_are_frozen(record: Record) -> None:
    name = next(iter(type(record).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, name, getattr(record, name))


@each
def test_a_misspelt_field_is_named_with_its_nearest(record: Record) -> None:
    name = max(type(record).model_fields, key=len)
    text = record.model_dump_json().replace(f'"{name}":', f'"{name}x":', 1)
    with pytest.raises(BadFile) as told:
        parse(type(record), text, "x.json")
    assert str(told.value).startswith("x.json: ")
    assert f"{name}x: is not a known field" in str(told.value)
    assert name in str(told.value).split("did you mean ")[1].split("?")[0]


@each
def test_cut_off_json_is_a_bad_file(record: Record) -> None:
    text = record.model_dump_json()
    for length in range(0, len(text), 1 + len(text) // 20):
        with pytest.raises(BadFile, match=r"x\.json"):
            parse(type(record), text[:length], "x.json")


def test_bytes_that_are_no_text_and_the_wrong_error() -> None:
    with pytest.raises(BadTask, match=r"x\.json"):
        parse(Part, b"\xff\xfe{}", "x.json", BadTask)


def test_many_faults_are_told_in_one_line_and_counted() -> None:
    with pytest.raises(BadFile, match="and 5 more") as told:
        parse(Run, '{"a": 1}', "x.json")
    assert len(str(told.value).splitlines()) == 1


# -- digest --------------------------------------------------------------------------------------------


CHANGES = {
    "configurations.2d.patch": [32, 32],
    "configurations.2d.train.augment.0.options.axes": [1, 0],
    "question.labels.a": 3,
    "target.threads": None,
    "because": {},
}


def test_the_digest_changes_with_every_field() -> None:
    digests = {digest(amend(PLAN, {field: value})) for field, value in CHANGES.items()} | {digest(PLAN)}
    assert len(digests) == len(CHANGES) + 1
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in digests)
    assert digest(PLAN.model_copy(deep=True)) == digest(PLAN)


# -- amend ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 10**9), st.floats(0, 1), st.sampled_from(["dice", "ce"]))
def test_amended_fields_hold_and_nothing_else_moves(steps: int, foreground: float, loss: str) -> None:
    new = {"steps": steps, "foreground": foreground, "loss": loss}
    changed = amend(PLAN, {f"configurations.2d.train.{name}": value for name, value in new.items()})
    train = changed.configurations["2d"].train
    assert (train.steps, train.foreground, train.loss) == (steps, foreground, loss)
    back = {f"configurations.2d.train.{name}": getattr(TRAIN, name) for name in new}
    assert amend(changed, back) == PLAN


def test_amending_nothing_and_a_place_in_a_list() -> None:
    assert amend(PLAN, {}) == PLAN
    changed = amend(PLAN, {"configurations.2d.train.augment.1.name": "turns"})
    assert [part.name for part in changed.configurations["2d"].train.augment] == ["a", "turns"]
    assert PLAN.configurations["2d"].train.augment[1].name == "mirror"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("configurations.2d.train.stepz", "did you mean steps"),
        ("configurations.3d.train.steps", "did you mean 2d"),
        ("configuration", "did you mean configurations"),
        ("configurations.2d.train.augment.2", "the fields here are: 0, 1"),
        ("configurations.2d.train.augment.-1", "the fields here are: 0, 1"),
        ("task.name", "there is nothing below this field"),
        ("", "the fields here are: task, name"),
    ],
)
def test_a_field_that_is_not_there_is_named_with_its_neighbours(path: str, hint: str) -> None:
    with pytest.raises(BadPlan, match=repr(path)) as told:
        amend(PLAN, {path: 1}, "plan.json")
    assert hint in str(told.value)
    assert str(told.value).startswith("plan.json: ")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.steps", 0, "train.steps"),
        ("train.steps", "many", "train.steps"),
        ("train.foreground", 1.5, "train.foreground"),
        ("train.foreground", float("nan"), "train.foreground"),
        ("train.precision", "float16", "train.precision"),
        ("patch", [31, 64], "multiple"),
        ("patch", [0, 64], "multiple"),
        ("patch", [32, 32, 32], "differ in dimensions"),
        ("spacing", [1.0], "differ in dimensions"),
        ("network.features", [8], "different numbers of stages"),
        ("network.strides", [[1, 1], [2, 0]], "above 0"),
        ("network.strides", [[1, 1], [2, 2, 2]], "per axis"),
        ("network.kernels", [[3, 3], [3]], "per axis"),
        ("batch", 0, "batch"),
    ],
)
def test_a_wrong_value_is_a_bad_plan(path: str, value: Any, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        amend(PLAN, {f"configurations.2d.{path}": value})


def test_a_network_without_stages_is_a_bad_plan() -> None:
    with pytest.raises(BadPlan, match="no stage"):
        amend(PLAN, {f"configurations.2d.network.{name}": [] for name in ("features", "strides", "kernels")})


# -- questions, folds, facts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": {"a": 1}, "merged": {}}, "fewer than two"),
        ({"labels": {str(n): n for n in range(255)}}, "more than the 254"),
        ({"labels": {"a": 1, "b": 1}, "merged": {}}, "two classes"),
        ({"ignore": 1}, "also a class"),
        ({"merged": {3: 8}}, "no class"),
        ({"colours": {"#3C1098": 1}}, "no colour like"),
        ({"colours": {"#3c1098": 5}}, "values of no class"),
        ({"regions": {"a": (1,)}}, "1 regions are written with 0 values"),
        ({"written": (1,)}, "0 regions are written with 1 values"),
        ({"regions": {"a": ()}, "written": (1,)}, "'a' of the values \\[\\]"),
        ({"regions": {"a": (1, 3)}, "written": (1,)}, "holds not only classes"),
        ({"regions": {"a": (0, 1)}, "written": (1,)}, "above background"),
        ({"regions": {"a": (1,)}, "written": (2,)}, "written as 2, which is none"),
        ({"regions": {"a": (1, 2), "b": (2, 1)}, "written": (1, 2)}, "same values"),
        ({"labels": {"a": 1, "b": 2}, "regions": {"a": (1,)}, "written": (1,)}, "class of the value 0"),
        ({"regions": {"a": (1,), "b": (1, 2)}, "written": (1, 2)}, "value 1 would be written as 2.*region 'a'"),
        ({"channels": ()}, "channels"),
        ({"channels": ({"name": "x", "kind": "xray"},)}, "kind"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Question(**(dict(QUESTION) | fields))
    with pytest.raises(ValidationError, match=said):
        Dataset(**(dict(DATASET) | fields))


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers(-3, 300), min_size=2, max_size=6))
def test_classes_are_in_order_of_value_background_first(labels: dict[str, int]) -> None:
    unique = {name: value for value, name in {value: name for name, value in labels.items()}.items()}
    if len(unique) < 2:
        return
    question = Question(reader="nifti", channels=QUESTION.channels, labels=unique)
    values = [unique[name] for name in question.classes]
    assert sorted(values) == sorted(unique.values())
    rest = values[1:] if 0 in values else values
    assert rest == sorted(rest)
    assert 0 not in rest
    assert [unique[name] for name in question.foreground] == rest


NESTED = {"whole": (1, 2, 4), "core": (2, 4), "enhancing": (4,)}


def question_of(regions: dict[str, tuple[int, ...]], written: tuple[int, ...], values: tuple[int, ...]) -> Question:
    labels = {f"value {value}": value for value in values}
    return Question(reader="nifti", channels=QUESTION.channels, labels=labels, regions=regions, written=written)


def test_regions_take_the_place_of_classes_and_leave_the_classes_as_they_are() -> None:
    question = question_of(NESTED, (1, 2, 4), (0, 4, 2, 1))
    assert question.outputs == question.foreground == ("whole", "core", "enhancing") and question.first == 0
    assert question.classes == ("value 0", "value 1", "value 2", "value 4") and question.background == 1
    assert question.members == ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1))
    assert parse(Question, question.model_dump_json(), "x").outputs == question.outputs


@settings(deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(1, 4), min_size=1), st.integers(1, 4)), min_size=1, max_size=4))
def test_what_is_written_for_a_class_lies_in_the_same_regions(drawn: list[tuple[set[int], int]]) -> None:
    regions = {f"r{n}": tuple(sorted(values)) for n, (values, _) in enumerate(drawn)}
    written = tuple(value for _, value in drawn)
    inside = {value: [value in region for region in regions.values()] for value in range(5)}
    answers = {}
    for value, held in inside.items():
        answers[value] = 0
        for here, answer in zip(held, written, strict=True):
            answers[value] = answer if here else answers[value]
    kept = all(inside[answers[value]] == inside[value] for value in inside)
    sound = len(set(regions.values())) == len(regions)
    sound &= all(value in region for region, value in zip(regions.values(), written, strict=True))
    if kept and sound:
        members = question_of(regions, written, (0, 1, 2, 3, 4)).members
        assert members == tuple(tuple(map(int, held)) for held in inside.values())
    else:
        with pytest.raises(ValidationError):
            question_of(regions, written, (0, 1, 2, 3, 4))


def test_a_dataset_gives_its_question_and_cases() -> None:
    assert DATASET.question() == QUESTION
    assert type(DATASET.question()) is Question
    assert DATASET.case("c1") is CASE
    assert CASE.label == "b.nii"
    assert CaseFiles(id="c", images=("a",)).label is None
    with pytest.raises(ValidationError):
        CaseFiles(id="c", images=())


@pytest.mark.parametrize("fold", [0, 1, 2, "0", "2", "all"])
def test_a_split_takes_every_case_once(fold: int | str) -> None:
    training, held_out = FOLDS.split(fold)
    assert held_out == (() if fold == "all" else FOLDS.folds[int(fold)])
    assert sorted(training + held_out) == ["a", "b", "c", "d"]


def test_the_faults_of_a_fingerprint_come_fatal_first() -> None:
    fatal = Fault(case="c2", fault="cut", detail="", fatal=True)
    bad = FACTS.model_copy(update={"faults": (FAULT, fatal)})
    orphan = Fault(case="", fault="orphan", detail="", fatal=False)
    measured = Fingerprint(question="q", flat=True, cases={"c1": FACTS, "c2": bad}, faults=(orphan,))
    assert list(measured.usable) == ["c1"]
    assert [fault.fault for fault in measured.all_faults] == ["cut", "orphan", "nan", "nan"]


def test_how_often_classes_occur_and_with_which() -> None:
    fatal = Fault(case="c3", fault="cut", detail="", fatal=True)
    counts = [{"a": 6, "b": 2, "c": 0}, {"a": 8, "b": 0, "c": 0}, {"a": 99, "b": 99, "c": 99}]
    cases = {f"c{n}": FACTS.model_copy(update={"voxels": voxels}) for n, voxels in enumerate(counts, 1)}
    cases["c3"] = cases["c3"].model_copy(update={"faults": (fatal,)})
    measured = Fingerprint(question="q", flat=True, cases=cases)
    assert measured.frequencies == {"a": 14 / 16, "b": 2 / 16, "c": 0}
    assert measured.together == {
        "a": {"a": 2, "b": 1, "c": 0}, "b": {"a": 1, "b": 1, "c": 0}, "c": {"a": 0, "b": 0, "c": 0},
    }  # fmt: skip
    assert Fingerprint(question="q", flat=True, cases={}).together == {}


def test_divisor_and_dims() -> None:
    deep = Network.plain((1,) * 3, ((1, 1, 1), (1, 2, 2), (2, 2, 3)))
    assert deep.divisor == (2, 4, 6) and deep.dims == 3
    assert deep.sizes((6, 8, 12)) == ((6, 8, 12), (6, 4, 6), (3, 2, 2))
    assert CONFIGURATION.dims == 2


@pytest.mark.parametrize("id", ["", "../x", "a/b", "a\\b"])
def test_a_case_whose_name_is_a_path_is_refused(id: str) -> None:
    case = CaseFiles(id=id, images=("a.png",))
    fields = {"reader": "raster", "channels": (Channel(name="a", kind="other"),), "labels": {"b": 0, "c": 1}}
    with pytest.raises(ValidationError, match="cannot name a file"):
        Dataset(name="T", cases=(case,), **fields)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("configurations.2d.spacing", [0, 1]),
        ("configurations.2d.axes", [0, 0, 1]),
        ("configurations.2d.normalise", []),
        ("configurations.2d.network.depths", [0, 2]),
        ("configurations.2d.network.features.0", 0),
        ("configurations.2d.network.kernels.0", [2, 2]),
    ],
)
def test_what_no_network_or_image_can_be_is_a_bad_plan(path: str, value: Any) -> None:
    with pytest.raises(BadPlan, match=r"spacing|axes|normalises|depths|features|kernels"):
        amend(PLAN, {path.replace("2d", next(iter(PLAN.configurations))): value})
