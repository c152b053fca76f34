"""The tables: what is asked of a name, and the contract that every part of a table keeps."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg import parts
from autoseg.arrays.intensity import describe
from autoseg.errors import BadPlan, BadUsage
from autoseg.parts import TABLES, Table, catalogue, load_plugin
from autoseg.readers import ENDINGS
from autoseg.records import Network, Part

EVERY = [(kind, name) for kind, table in TABLES.items() for name in table]


def every(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(TABLES[kind]))


@pytest.fixture
def tables() -> Iterator[dict[str, Table]]:
    """The tables, put back as they were."""
    before = {kind: dict(table._added) for kind, table in TABLES.items()}
    modules = set(sys.modules)
    yield TABLES
    for kind, table in TABLES.items():
        table._added = before[kind]
    for module in set(sys.modules) - modules:
        if module.startswith("autoseg_plugin_"):
            del sys.modules[module]


def volume(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- names ---------------------------------------------------------------------------------------------


def test_every_table_is_listed() -> None:
    assert {id(table) for table in vars(parts).values() if isinstance(table, Table)} == {
        id(table) for table in TABLES.values()
    }


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_name_resolves_and_says_what_it_is(kind: str, name: str) -> None:
    factory = TABLES[kind].get(name)
    assert callable(factory)
    assert factory.__doc__
    assert not factory.__doc__.startswith(f"{factory.__name__}(")  # what dataclass writes when nobody did


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(BadPlan) as told:
        parts.NORMALISERS.build("zscor")
    said = str(told.value)
    assert "unknown normaliser 'zscor' (did you mean zscore?)" in said
    assert "one of ct, none, range, zscore" in said
    assert "--plugin" in said


def test_an_unknown_option_is_named_and_the_context_is_no_option() -> None:
    with pytest.raises(BadPlan, match=r"'noise' has no option 'sdd' \(did you mean sd\?\); expected one of prob"):
        parts.AUGMENTATIONS.build(Part(name="noise", options={"sdd": 1}), dims=2)
    with pytest.raises(BadPlan, match="has no option 'dims'"):
        parts.AUGMENTATIONS.build(Part(name="noise", options={"dims": 3}), dims=2)
    with pytest.raises(BadPlan, match="no options"):
        parts.SCHEDULES.build(Part(name="constant", options={"x": 3}), steps=2)


def test_a_refused_value_is_a_bad_plan_that_names_the_part() -> None:
    with pytest.raises(BadPlan, match="augmentation 'mirror': axes"):
        parts.AUGMENTATIONS.build(Part(name="mirror", options={"axes": [2]}), dims=2)
    with pytest.raises(BadPlan, match="resampler 'spline': anisotropy"):
        parts.RESAMPLERS.build(Part(name="spline", options={"anisotropy": 0.5}))


def test_options_reach_the_part() -> None:
    assert parts.AUGMENTATIONS.build(Part(name="noise", options={"sd": 0.7}), dims=2).sd == 0.7


def test_a_name_is_never_replaced(tables: dict[str, Table]) -> None:
    assert "mine" not in tables["schedules"]
    tables["schedules"].add("mine")(lambda steps: lambda step: 0.5)
    assert "mine" in tables["schedules"] and "mine" in list(tables["schedules"])
    assert tables["schedules"].build("mine", steps=3)(1) == 0.5
    for name in ("mine", "poly"):
        with pytest.raises(BadPlan, match=f"{name!r} exists already"):
            tables["schedules"].add(name)(lambda steps: lambda step: 0.1)
    assert tables["schedules"].build("mine", steps=3)(1) == 0.5


def test_the_catalogue_has_a_row_per_part() -> None:
    rows = catalogue()
    assert [row["name"] for row in rows] == [name for _, name in EVERY]
    assert all(row["what"] for row in rows)
    assert [row["kind"] for row in catalogue("keep")] == ["resampler"]
    assert "sd=0.1" in catalogue("noise")[0]["options"]
    with pytest.raises(BadUsage, match=r"'unett' \(did you mean unet"):
        catalogue("unett")


# -- plug-ins ------------------------------------------------------------------------------------------

PLUGIN = '''
from autoseg.parts import SCHEDULES

@SCHEDULES.add("halved")
def halved(steps: int, by: float = 2.0):
    """One over by."""
    return lambda step: 1 / by
'''


def test_a_plugin_adds_its_part_and_answers_its_hash(tables: dict[str, Table], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    assert load_plugin(file) == ("mine.py", hashlib.sha256(PLUGIN.encode()).hexdigest())
    assert tables["schedules"].build(Part(name="halved", options={"by": 4.0}), steps=1)(0) == 0.25
    assert catalogue("halved")[0]["what"] == "One over by."


@pytest.mark.parametrize("text", ["1 / 0", "def", "import nothing_of_that_name", PLUGIN.replace("halved", "poly")])
def test_a_plugin_that_fails_is_named(tables: dict[str, Table], tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(BadUsage, match=r"--plugin: .*broken\.py could not be loaded: \w+: "):
        load_plugin(file)


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no file"):
        load_plugin(tmp_path / "absent.py")
    (tmp_path / "a.txt").write_text(PLUGIN)
    with pytest.raises(BadUsage, match="is not a Python file"):
        load_plugin(tmp_path / "a.txt")


def test_the_plugins_of_these_tests_are_gone() -> None:
    assert not any(table._added for table in TABLES.values())


# -- contracts -----------------------------------------------------------------------------------------


@every("readers")
def test_readers_follow_the_protocol(name: str) -> None:
    reader = parts.READERS.build(name)
    assert list(reader.endings) == sorted(reader.endings, key=len, reverse=True)
    assert set(reader.endings) == {ending for ending, owner in ENDINGS.items() if owner == name}
    for method, arguments in (("read", 1), ("read_label", 1), ("write_label", 3), ("label_ending", 1)):
        assert len(inspect.signature(getattr(reader, method)).parameters) == arguments
    for ending in reader.endings:
        assert reader.label_ending(ending) in reader.endings
        assert reader.label_ending(ending) not in (".jpg", ".jpeg")


@every("normalisers")
@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_normalisers_are_finite_and_zero_outside(name: str, odd: float) -> None:
    channel = np.random.default_rng(0).normal(100, 20, (3, 4, 5)).astype(np.float32)
    channel[1, 2, 3] = odd
    inside = np.ones(channel.shape, bool)
    inside[0] = False
    before = channel.copy()
    known = describe(channel[np.isfinite(channel)])
    result = parts.NORMALISERS.build(name, intensity=known)(channel, inside)
    assert result.dtype == np.float32 and result.shape == channel.shape
    assert np.isfinite(result).all()
    assert not result[0].any() and result[2].any()
    assert np.array_equal(channel, before, equal_nan=True)


@every("resamplers")
@pytest.mark.parametrize("coarse", [None, 0])
def test_resamplers_give_the_shape_that_is_asked(name: str, coarse: int | None) -> None:
    array = np.full((2, 3, 4, 5), 2.5, np.float32)
    shape = (3, 4, 5) if name == "keep" else (5, 2, 9)
    result = parts.RESAMPLERS.build(name)(array, shape, coarse=coarse)
    assert result.shape == (2, *shape) and result.dtype == np.float32
    assert np.allclose(result, 2.5, atol=1e-5)


def test_keep_refuses_to_resample() -> None:
    with pytest.raises(ValueError, match="nothing may be resampled"):
        parts.RESAMPLERS.build("keep")(np.zeros((1, 3, 4, 5), np.float32), (3, 4, 6), coarse=None)


@every("architectures")
@pytest.mark.parametrize("dims", [2, 3])
def test_networks_give_logits_finest_first(name: str, dims: int) -> None:
    network = Network(
        architecture=Part(name=name), block=Part(name="plain"), norm=Part(name="instance"), features=(4, 6, 8),
        strides=((1,) * dims, (2,) * dims, (1,) * (dims - 1) + (2,)), kernels=((3,) * dims,) * 3,
    )  # fmt: skip
    model = parts.NETWORKS.build(network.architecture, network=network, channels=2, classes=3)
    size = tuple(3 * d for d in network.divisor)
    outputs = model.train()(volume(2, 2, *size))
    assert outputs[0].shape == (2, 3, *size)
    voxels = [output[0, 0].numel() for output in outputs]
    assert len(outputs) > 1 and voxels == sorted(voxels, reverse=True)
    assert all(output.isfinite().all() for output in outputs)
    outputs[0].sum().backward()
    with torch.no_grad():
        outputs = model.eval()(volume(2, 2, *size))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *size)]


@every("blocks")
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (1, 1, 1), (2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("convs", [1, 2])
def test_blocks_round_the_shape_up(name: str, stride: tuple[int, ...], convs: int) -> None:
    dims = len(stride)
    context: dict[str, Any] = {"dims": dims, "channels_in": 3, "channels_out": 4, "stride": stride, "convs": convs}
    for kernel in ((3,) * dims, (1,) + (3,) * (dims - 1)):
        block = parts.BLOCKS.build(name, **context, kernel=kernel, norm=Part(name="instance"))
        for size in ((8, 6, 4)[:dims], (7, 5, 9)[:dims]):
            expected = [-(-n // s) for n, s in zip(size, stride, strict=True)]
            assert list(block(volume(2, 3, *size)).shape) == [2, 4, *expected]


@every("norms")
@pytest.mark.parametrize("dims", [2, 3])
def test_norms_centre_and_scale(name: str, dims: int) -> None:
    for channels in (1, 6, 8, 13):
        norm = parts.NORMS.build(name, dims=dims, channels=channels)
        x = 5 + 3 * volume(2, channels, *(12,) * dims)
        y = norm(x).detach()
        assert y.shape == x.shape
        assert abs(float(y.mean())) < 1e-4 and abs(float(y.std()) - 1) < 0.01
        assert sum(p.numel() for p in norm.parameters()) == 2 * channels


@every("optimisers")
def test_optimisers_go_downhill(name: str) -> None:
    weights = torch.nn.Parameter(volume(20))
    optimiser = parts.OPTIMISERS.build(name, parameters=[weights])
    assert isinstance(optimiser, torch.optim.Optimizer)
    start = float((weights**2).sum().detach())
    for _ in range(20):
        optimiser.zero_grad()
        (weights**2).sum().backward()
        optimiser.step()
    assert float((weights**2).sum().detach()) < start


@every("schedules")
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_schedules_start_at_one_and_stay_within_0_and_1(name: str, steps: int) -> None:
    schedule = parts.SCHEDULES.build(name, steps=steps)
    factors = [schedule(step) for step in range(steps + 1)]
    assert factors[0] == 1
    assert all(isinstance(factor, float) and 0 <= factor <= 1 for factor in factors)
    assert all(factor > 0 for factor in factors[:-1])
