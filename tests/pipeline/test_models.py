"""A packed model answers as its networks do; in memory, from several threads, and only as what it is."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autoseg
from autoseg.errors import BadData, BadFile, BadPlan, BadUsage
from autoseg.image import Image
from autoseg.nets import unet
from autoseg.parts import NETWORKS
from autoseg.pipeline.models import LoadedModel, chosen, load_members, load_model, network_of, open_model
from autoseg.records import Network, Part, parse
from autoseg.records.model import PackedModel
from autoseg.steps.learner import build_network
from autoseg.store.archive import open_packed, staged, write_record
from tests.store.test_archive import QUESTION, fill, settings

UNETPP = settings(Part(name="unetpp"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two folds of `2d` and one of `fine`."""
    target = tmp_path_factory.mktemp("models") / "model.autoseg"
    with staged(target) as folder:
        fill(folder, {"2d": 2, "fine": 1})
    return target


def picture(seed: int = 0, shape: tuple[int, ...] = (1, 20, 13)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


# -- opened --------------------------------------------------------------------------------------------


def test_the_networks_answer_as_those_that_were_packed(packed: Path) -> None:
    x = torch.randn(1, 1, 8, 8)
    record, members = load_members(packed, "cpu")
    assert [(member.configuration, member.fold) for member, _ in members] == [("2d", 0), ("2d", 1), ("fine", 0)]
    for number, (_, network) in enumerate(members):
        torch.manual_seed(number)
        expected = build_network(settings(), record.question).eval()
        assert not network.training and torch.equal(network(x)[0], expected(x)[0])


def test_members_that_are_not_wanted_are_not_read(packed: Path, tmp_path: Path) -> None:
    changed = bytearray(packed.read_bytes())
    start, size = open_packed(packed)[0].places["weights_001.safetensors"]
    changed[start + size - 1] ^= 1
    (tmp_path / "a.autoseg").write_bytes(changed)
    _, members = load_members(tmp_path / "a.autoseg", "cpu", wanted=lambda member: member.fold == 0)
    assert len(members) == 2
    with pytest.raises(BadFile, match=r"weights_001\.safetensors was changed"):
        load_members(tmp_path / "a.autoseg", "cpu")


@pytest.mark.parametrize("depth", [1, 2])
def test_fast_answers_as_that_head(tmp_path: Path, depth: int) -> None:
    with staged(tmp_path / "a") as folder:
        fill(folder, {"2d": 1}, UNETPP)
    x = torch.randn(1, 1, 8, 8)
    ((_, whole),) = load_members(tmp_path / "a", "cpu")[1]
    ((_, fast),) = load_members(tmp_path / "a", "cpu", fast=depth)[1]
    torch.manual_seed(0)
    heads = build_network(UNETPP, QUESTION).train()(x)
    assert torch.equal(fast(x)[0], heads[-depth]) and torch.allclose(whole(x)[0], sum(heads) / 2, atol=1e-6)
    assert len(fast.state_dict()) <= len(whole.state_dict())


def test_fast_is_refused_where_there_are_no_heads(packed: Path) -> None:
    with pytest.raises(BadUsage, match="unet has no heads of several depths"):
        load_members(packed, "cpu", fast=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"features": (20_000, 20_000, 20_000)},
        {"depths": (10**12, 1, 1)},
        {"features": (2, 3, 4)},
        {"decoder_depths": (5, 1)},
    ],
)
def test_a_network_that_its_weights_are_not_of_is_not_built(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict
) -> None:
    with staged(tmp_path / "a") as folder:
        fill(folder, {"2d": 1})
    record = parse(PackedModel, (tmp_path / "a" / "model.json").read_bytes(), "")
    network = record.members[0].settings.network.model_copy(update=fields)
    hostile = record.members[0].model_copy(update={"settings": settings(network=network)})
    write_record(tmp_path / "a", record.model_copy(update={"members": (hostile,)}), "")
    made = []
    convolution = unet.convolution
    monkeypatch.setattr(unet, "convolution", lambda *words: made.append(convolution(*words)) or made[-1])
    with pytest.raises(BadFile, match=r"weights_000\.safetensors"):
        load_members(tmp_path / "a", "cpu")
    assert all(weight.is_meta for module in made for weight in module.parameters())


def test_weights_of_other_names_are_refused() -> None:
    weights = build_network(settings(), QUESTION).state_dict()
    name = next(iter(weights))
    renamed = {f"{key}x" if key == name else key: value for key, value in weights.items()}
    with pytest.raises(BadFile, match="here: the checkpoint is of another network"):
        network_of(settings(), QUESTION, renamed, "here")


def test_a_part_that_nobody_knows_is_named(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as folder:
        fill(folder, {"2d": 1})
    record = parse(PackedModel, (tmp_path / "a" / "model.json").read_bytes(), "")
    network = record.members[0].settings.network.model_copy(update={"block": Part(name="os.system")})
    changed = record.members[0].model_copy(update={"settings": settings(network=network)})
    write_record(tmp_path / "a", record.model_copy(update={"members": (changed,)}), "")
    with pytest.raises(BadPlan, match=r"unknown block 'os\.system'"):
        load_members(tmp_path / "a", "cpu")


def test_a_plugin_that_is_not_loaded_is_named(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as folder:
        fill(folder, {"2d": 1})
    record = parse(PackedModel, (tmp_path / "a" / "model.json").read_bytes(), "")
    changed = record.members[0].model_copy(update={"plugins": {"mine.py": "a" * 64}})
    write_record(tmp_path / "a", record.model_copy(update={"members": (changed,)}), "")
    with pytest.raises(BadUsage, match=r"was not given: mine\.py"):
        load_members(tmp_path / "a", "cpu")
    assert len(load_members(tmp_path / "a", "cpu", {"mine.py": "a" * 64})[1]) == 1


PLUGIN = """
from autoseg.nets.blocks.plain import Plain
from autoseg.parts import BLOCKS

@BLOCKS.add("mine")
class Mine(Plain):
    pass
"""


def test_a_plugin_file_may_be_named_every_time(tmp_path: Path) -> None:
    from autoseg.plugins import load_files

    (tmp_path / "mine.py").write_text(PLUGIN)
    known = load_files([tmp_path / "mine.py"])
    network = Network.plain((2, 3), ((1, 1), (2, 2)), block=Part(name="mine"))
    with staged(tmp_path / "a") as folder:
        fill(folder, {"2d": 1}, settings(network=network))
    record = parse(PackedModel, (tmp_path / "a" / "model.json").read_bytes(), "")
    changed = record.members[0].model_copy(update={"plugins": known})
    write_record(tmp_path / "a", record.model_copy(update={"members": (changed,)}), "")
    for _ in range(2):
        made = load_model(tmp_path / "a", "cpu", plugins=[tmp_path / "mine.py"])
        assert made.predict(picture(), (1, 1)).shape == (20, 13)
    with pytest.raises(BadUsage, match=r"was not given: mine\.py"):
        load_model(tmp_path / "a", "cpu")


# -- chosen --------------------------------------------------------------------------------------------


def test_configurations_and_folds_are_chosen_by_name(packed: Path) -> None:
    _, record = open_packed(packed)
    found = {title: [member.weights[8:11] for member in members] for title, members in chosen(record).items()}
    assert found == {"2d": ["000", "001"], "fine": ["002"]}
    assert [member.fold for member in chosen(record, "2d", ["1"])["2d"]] == [1]
    with pytest.raises(BadUsage, match=r"no configuration '3d'; expected one of 2d, fine"):
        chosen(record, "3d")
    with pytest.raises(BadUsage, match=r"no fold 1 of fine; expected of 0"):
        chosen(record, None, ["1"])


def test_several_configurations_stand_beside_each_other(packed: Path) -> None:
    _, both = open_model(packed, "cpu")
    assert [model.run.configuration for model in (both, *both.beside)] == ["2d", "fine"]
    assert [len(model.networks) for model in (both, *both.beside)] == [2, 1]
    _, one = open_model(packed, "cpu", config="fine", step=0.7, mirror=False)
    assert (one.run.configuration, one.beside, one.step, one.mirror) == ("fine", (), 0.7, False)


# -- from Python ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(packed: Path) -> LoadedModel:
    return load_model(packed, "cpu", config="2d")


def test_what_is_predicted_in_memory_is_what_the_model_predicts(packed: Path, loaded: LoadedModel) -> None:
    _, model = open_model(packed, "cpu", config="2d")
    for seed in range(3):
        array = picture(seed)
        label = loaded.predict(array, (1, 1))
        assert np.array_equal(label, model.predict(Image(array, (1.0, 1.0))))
        assert label.shape == (20, 13) and set(np.unique(label)) <= set(loaded.labels.values())
    assert loaded.labels == {"background": 0, "disc": 255} and loaded.channels == ("grey",)
    assert "Task02_Discs" in repr(loaded)


def test_the_channel_axis_may_be_left_out_where_there_is_one(loaded: LoadedModel) -> None:
    array = picture()
    assert np.array_equal(loaded.predict(array[0], (1, 1)), loaded.predict(array, (1, 1)))
    volume = picture(1, (1, 3, 12, 11))
    assert np.array_equal(loaded.predict(volume[0], [5, 1, 1]), loaded.predict(volume, (5.0, 1.0, 1.0)))


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i8", "f2", "f8", ">f4", "?"])
def test_any_type_of_number_will_do(loaded: LoadedModel, kind: str) -> None:
    array = (picture(2) > 0.3).astype(kind)
    assert np.array_equal(loaded.predict(array, (1, 1)), loaded.predict(array.astype(np.float32), (1, 1)))


def test_what_is_not_finite_is_no_measurement_and_the_image_stays_as_it_is(loaded: LoadedModel) -> None:
    array = picture()
    array[0, 3, 4], array[0, 5, 6] = np.nan, np.inf
    before = array.copy()
    valid = np.isfinite(array[0])
    expected = loaded._model.predict(Image(array, (1.0, 1.0), valid))
    assert np.array_equal(loaded.predict(array, (1, 1)), expected)
    assert np.array_equal(array, before, equal_nan=True)


@pytest.mark.parametrize(
    ("array", "spacing", "told"),
    [
        (np.zeros((2, 8, 8)), (1, 1), r"array: has shape \(2, 8, 8\); expected 1 \(grey\), y, x"),
        (np.zeros((8, 8)), (1, 1, 1), "array: has shape"),
        (np.zeros((1, 8, 0)), (1, 1), "array: has shape"),
        (np.zeros((1, 1, 1, 8, 8)), (1, 1, 1), "expected 1 .grey., z, y, x"),
        (np.zeros((8, 8), complex), (1, 1), "array: holds complex128"),
        (np.full((8, 8), "a"), (1, 1), "array: holds <U1"),
        (np.full((8, 8), np.nan), (1, 1), "no voxel is valid"),
        (np.zeros((8, 8)), (1,), "spacing: is"),
        (np.zeros((8, 8)), (1, 0), "spacing: is"),
        (np.zeros((8, 8)), (1, np.nan), "spacing: is"),
        (np.zeros((8, 8)), (-1, 1), "spacing: is"),
    ],
)
def test_what_does_not_fit_is_told(loaded: LoadedModel, array: np.ndarray, spacing: tuple, told: str) -> None:
    with pytest.raises(BadData, match=told):
        loaded.predict(array, spacing)


def test_threads_get_what_one_alone_would_get(packed: Path) -> None:
    model = load_model(packed, "cpu")
    images = [picture(seed, (1, 6 + seed, 14 - seed)) for seed in range(8)]
    serial = [model.predict(image, (1, 1)) for image in images]
    gate = threading.Barrier(4)

    def work(image: np.ndarray) -> np.ndarray:
        if not gate.broken and gate.n_waiting < 4:
            gate.wait(5)
        return model.predict(image, (1, 1))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, images))
    assert all(np.array_equal(one, other) for one, other in zip(serial, found, strict=True))
    assert len({one.tobytes() for one in serial}) > 4


def test_networks_that_remember_take_turns(packed: Path) -> None:
    model = load_model(packed, "cpu", config="fine")
    (network,) = model._model.networks
    inside, most = [0], [0]

    def enter(*_: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])

    def leave(*_: object) -> None:
        threading.Event().wait(0.002)
        inside[0] -= 1

    network.register_forward_pre_hook(enter)
    network.register_forward_hook(leave)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: model.predict(picture(seed), (1, 1)), range(8)))
    assert most == [1] and inside == [0]


def test_without_knowledge_of_the_training_images_nothing_is_unlike(loaded: LoadedModel) -> None:
    assert loaded.unlike(picture(), (1, 1)) == ()
    with pytest.raises(BadData):
        loaded.unlike(picture(), (1, 0))


@pytest.mark.parametrize("options", [{"step": 0}, {"step": 1.5}, {"scales": ()}, {"scales": (1, 0)}])
def test_options_that_make_no_sense_are_refused(packed: Path, options: dict) -> None:
    with pytest.raises(BadUsage):
        load_model(packed, "cpu", **options)


def test_importing_autoseg_loads_nothing_until_something_is_asked_for() -> None:
    code = "import autoseg, sys; assert 'load_model' in dir(autoseg); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "pydantic", "autoseg.pipeline"} & set(found.stdout.split()) == set()
    assert autoseg.load_model is load_model and autoseg.LoadedModel is LoadedModel
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autoseg.nothing


@pytest.mark.parametrize("name", [*NETWORKS])
def test_every_architecture_is_measured_before_it_is_built_and_answers_the_same(name: str) -> None:
    strides = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2))
    plain = Network.plain((4, 8, 8, 8, 8), strides, architecture=Part(name=name), deep_supervision=False)
    one = settings(network=suited(NETWORKS.get(name), plain), patch=(64, 64))
    network = build_network(one, QUESTION).eval()
    weights, x = network.state_dict(), torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        expected, found = network(x)[0], network_of(one, QUESTION, weights, "here").eval()(x)[0]
    assert torch.allclose(found, expected, atol=1e-5)
    short = {name: value for name, value in weights.items() if name != max(weights, key=lambda n: weights[n].numel())}
    with pytest.raises(BadFile, match=r"here: the (network has [\d,]+ numbers|checkpoint is of another network)"):
        network_of(one, QUESTION, short, "here")


def suited(architecture: Any, network: Network) -> Network:
    """The network as the architecture wants it."""
    made: Network = architecture.suit(network) if hasattr(architecture, "suit") else network
    return made.model_copy(update={"depths": (1,) * len(made.features)})
