"""The tables: what is asked of a name, and the contract that every part of a table keeps."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from skimage.io import imsave

from autoseg import parts
from autoseg.arrays.intensity import describe
from autoseg.arrays.pairs import Measure, pairs
from autoseg.errors import BadPlan
from autoseg.nets import drawing, survey
from autoseg.parts import TABLES, Table
from autoseg.readers import ENDINGS, same_place
from autoseg.records import Network, Part
from tests.readers.slices import write_slice

EVERY = [(kind, name) for kind, table in TABLES.items() for name in table]


def every(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(TABLES[kind]))


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
    assert "one of angle, clip, ct, none, onehot, range, zscore" in said
    assert "--plugin" in said


def test_an_unknown_option_is_named_and_the_context_is_no_option() -> None:
    with pytest.raises(BadPlan, match=r"'noise' has no option 'sdd' \(did you mean sd\?\); expected one of prob"):
        parts.AUGMENTATIONS.build(Part(name="noise", options={"sdd": 1}), dims=2)
    with pytest.raises(BadPlan, match="has no option 'dims'"):
        parts.AUGMENTATIONS.build(Part(name="noise", options={"dims": 3}), dims=2)
    with pytest.raises(BadPlan, match="no options"):
        parts.AUGMENTATIONS.build(Part(name="turns", options={"x": 3}), dims=2)


def test_a_refused_value_is_a_bad_plan_that_names_the_part() -> None:
    with pytest.raises(BadPlan, match="augmentation 'mirror': axes"):
        parts.AUGMENTATIONS.build(Part(name="mirror", options={"axes": [2]}), dims=2)
    with pytest.raises(BadPlan, match="resampler 'spline': anisotropy"):
        parts.RESAMPLERS.build(Part(name="spline", options={"anisotropy": 0.5}))


def test_a_constructor_that_fails_is_a_bad_plan_that_names_the_part() -> None:
    def broken() -> None:
        raise KeyError("a")

    parts.INSERTS.add("broken")(broken)
    with pytest.raises(BadPlan, match="there: insert 'broken': KeyError: 'a'"):
        parts.INSERTS.build("broken", where="there")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reduction": "a"}, 'reduction is "a"; expected int'),
        ({"reduction": 2.5}, "reduction is 2.5; expected int"),
        ({"kernel": True}, "kernel is true; expected int"),
        ({"kernel": None}, "kernel is null; expected int"),
    ],
)
def test_a_value_of_another_type_is_told_with_the_one_expected(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadPlan, match=told):
        parts.INSERTS.build(Part(name="cbam", options=options), dims=2, channels=8, size=(4, 4))


def test_options_reach_the_part() -> None:
    assert parts.AUGMENTATIONS.build(Part(name="noise", options={"sd": 0.7}), dims=2).sd == 0.7


def test_a_name_is_never_replaced() -> None:
    assert "mine" not in TABLES["schedules"]
    TABLES["schedules"].add("mine")(lambda steps: lambda step: 0.5)
    assert "mine" in TABLES["schedules"] and "mine" in list(TABLES["schedules"])
    assert TABLES["schedules"].build("mine", steps=3)(1) == 0.5
    for name in ("mine", "poly"):
        with pytest.raises(BadPlan, match=f"{name!r} exists already"):
            TABLES["schedules"].add(name)(lambda steps: lambda step: 0.1)
    assert TABLES["schedules"].build("mine", steps=3)(1) == 0.5


@pytest.mark.parametrize("name", ["", "my-part", "2d", " mine", "é", 3, None])
def test_a_name_that_no_plan_could_spell_is_refused(name: Any) -> None:
    with pytest.raises(BadPlan, match="cannot name a part"):
        TABLES["schedules"].add(name)


def test_of_the_context_a_part_takes_what_it_has_parameters_for() -> None:
    class Bare(torch.nn.Module):
        """Has no constructor of its own."""

    TABLES["inserts"].add("bare")(Bare)
    TABLES["inserts"].add("some")(lambda size, dims: (size, dims))
    TABLES["inserts"].add("every")(lambda **context: context)
    context = {"dims": 2, "channels": 4, "size": (3, 3)}
    assert isinstance(parts.INSERTS.build("bare", **context), Bare)
    assert parts.INSERTS.build("some", **context) == ((3, 3), 2)
    assert parts.INSERTS.build("every", **context) == context


def test_what_was_added_can_be_taken_back() -> None:
    TABLES["schedules"].add("mine")(lambda steps: lambda step: 0.5)
    assert list(TABLES["schedules"].added) == ["mine"]
    TABLES["schedules"].take_back("mine")
    assert "mine" not in TABLES["schedules"] and TABLES["schedules"].added == {}


# -- contracts -----------------------------------------------------------------------------------------


@every("readers")
def test_readers_follow_the_protocol(name: str) -> None:
    reader = parts.READERS.build(name)
    assert list(reader.endings) == sorted(reader.endings, key=len, reverse=True)
    assert set(reader.endings) == {ending for ending, owner in ENDINGS.items() if owner == name}
    for method, arguments in (("read", 1), ("read_label", 1), ("write_label", 3), ("label_ending", 1)):
        assert len(inspect.signature(getattr(reader, method)).parameters) == arguments
    for ending in reader.endings:
        assert reader.label_ending(ending) in (reader.endings if name != "dicom" else (".nii.gz",))
        assert reader.label_ending(ending) not in (".jpg", ".jpeg")


def sample(file: Path) -> Path:
    """A volume or a picture of small whole numbers."""
    array = np.random.default_rng(0).integers(0, 99, (3, 6, 7))
    if ENDINGS["".join(file.suffixes)] == "raster":
        imsave(file, array[0].astype(np.uint8), check_contrast=False)
    elif file.suffix == ".dcm":
        write_slice(file, array[0], PixelSpacing=(2, 3), SliceThickness=4)
    else:
        image = SimpleITK.GetImageFromArray(array.astype(np.int16))
        image.SetSpacing((1.5, 2.0, 3.0))
        SimpleITK.WriteImage(image, str(file))
    return file


@pytest.mark.parametrize("ending", ENDINGS)
def test_readers_read_the_labels_that_they_write(ending: str, tmp_path: Path) -> None:
    reader = parts.READERS.build(ENDINGS[ending])
    image = reader.read([sample(tmp_path / f"a{ending}")])
    assert image.channels == 1 and image.array.any()
    label = (image.array[0] > 50).astype(np.uint8)
    file = tmp_path / f"label{reader.label_ending(ending)}"
    reader.write_label(file, label, image)
    read = reader.read_label(file)
    assert np.array_equal(read.array[0], label) and read.spacing == pytest.approx(image.spacing)
    assert not same_place(image, read)


@every("normalisers")
@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_normalisers_are_finite_and_zero_outside(name: str, odd: float) -> None:
    channel = np.random.default_rng(0).normal(100, 20, (3, 4, 5)).round().astype(np.float32)
    channel[1, 2, 3] = odd
    inside = np.ones(channel.shape, bool)
    inside[0] = False
    before = channel.copy()
    known = describe(channel[np.isfinite(channel)])
    options = {"onehot": {"values": [int(value) for value in channel[2].flat[:2]]}}
    normaliser = parts.NORMALISERS.build(Part(name=name, options=options.get(name, {})), intensity=known)
    result = normaliser(channel, inside)
    outputs = getattr(normaliser, "outputs", 1)
    assert result.dtype == np.float32 and result.shape == ((outputs,) if outputs > 1 else ()) + channel.shape
    assert np.isfinite(result).all()
    assert not result[..., 0, :, :].any() and result[..., 2, :, :].any()
    assert np.array_equal(channel, before, equal_nan=True)
    if hasattr(normaliser, "resample"):
        assert parts.RESAMPLERS.build(normaliser.resample)


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


def small(dims: int, **fields: Any) -> Network:
    """Three stages, the last of which halves one axis alone."""
    strides = ((1,) * dims, (2,) * dims, (1,) * (dims - 1) + (2,))
    return Network.plain((8, 12, 16), strides, **fields)


def suited(name: str, dims: int, **fields: Any) -> Network:
    """The small network as the architecture would have it."""
    suit = getattr(parts.NETWORKS.get(name), "suit", None)
    plain = small(dims, architecture=Part(name=name), **fields)
    made = plain if suit is None else suit(plain)
    assert isinstance(made, Network)
    return made


@every("architectures")
@pytest.mark.parametrize("dims", [2, 3])
def test_networks_give_logits_finest_first(name: str, dims: int) -> None:
    if (name, dims) == ("deeplabv3p", 3):
        with pytest.raises(BadPlan, match="2D"):
            suited(name, dims)
        return
    network = suited(name, dims)
    size = tuple(d * max(1, 16 // d) for d in network.divisor)
    model = survey.build(network, 2, 3, size)
    plain = [one for one in model.modules() if type(one) is torch.nn.Conv3d and one.kernel_size == (1, 1, 1)]
    assert all(one.groups > 1 for one in plain)  # a CPU may crash at the others
    outputs = list(model.train()(volume(2, 2, *size)))
    assert outputs[0].shape == (2, 3, *size)
    voxels = [output[0, 0].numel() for output in outputs]
    assert voxels == sorted(voxels, reverse=True)
    assert len(getattr(model, "head_weights", voxels)) == len(outputs)
    assert all(output.isfinite().all() for output in outputs)
    sum(output.float().square().mean() for output in outputs).backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in model.parameters() if w.requires_grad)
    with torch.no_grad():
        outputs = list(model.eval()(volume(2, 2, *size)))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *size)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(volume(2, 2, *size))[0].float()
    assert low.isfinite().all()
    assert (low - outputs[0]).abs().mean() < 0.1 * (outputs[0].std() + 0.1)
    stored = model.state_dict()
    assert len({tensor.data_ptr() for tensor in stored.values() if tensor.numel()}) == len(stored)  # for safetensors


@every("architectures")
@pytest.mark.parametrize("dims", [2, 3])
def test_a_survey_counts_what_a_network_has(name: str, dims: int) -> None:
    if (name, dims) == ("deeplabv3p", 3):
        return
    network = suited(name, dims)
    size = tuple(d * max(1, 16 // d) for d in network.divisor)
    found = survey.survey(network, 2, 3, size)
    model = survey.build(network, 2, 3, size)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.flops > 0 and found.kept > 0 and found.outputs[0] == (3, *size)
    assert 0.9 * found.parameters <= sum(unit.parameters for unit in found.units) <= found.parameters
    assert 0.9 * found.flops <= sum(unit.flops for unit in found.units) <= found.flops
    assert drawing.svg(network, found, size, name).startswith("<svg")


@every("blocks")
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (1, 1, 1), (2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("channels", [(3, 4), (8, 8)])
def test_blocks_round_the_shape_up(name: str, stride: tuple[int, ...], channels: tuple[int, int]) -> None:
    dims, (source, width) = len(stride), channels
    context: dict[str, Any] = {"dims": dims, "channels_in": source, "channels_out": width, "stride": stride}
    for kernel in ((3,) * dims, (1,) + (3,) * (dims - 1)):
        if (name, dims) == ("deformable", 3):
            with pytest.raises(BadPlan, match="2D"):
                parts.BLOCKS.build(name, **context, kernel=kernel, norm=Part(name="instance"))
            continue
        block = parts.BLOCKS.build(name, **context, kernel=kernel, norm=Part(name="instance"))
        for size in ((8, 6, 4)[:dims], (7, 5, 9)[:dims]):
            expected = [-(-n // s) for n, s in zip(size, stride, strict=True)]
            assert list(block(volume(2, source, *size)).shape) == [2, width, *expected]


MAPS = [(7, 6), (6, 5, 4)]


def stands(name: str, size: tuple[int, ...], channels: int = 8) -> tuple[torch.nn.Module, tuple[Any, ...]]:
    """An insert, and what it is called with after the map: the encoder's features where it wants them."""
    encoder = ((4, tuple(2 * n for n in size)), (channels, size))
    insert = parts.INSERTS.build(
        name, dims=len(size), channels=channels, size=size, norm=Part(name="instance"), encoder=encoder
    )
    for weight in insert.parameters():  # scales that start at zero hide what is behind them
        if not weight.any():
            torch.nn.init.constant_(weight, 0.5)
    wants = "encoder" in inspect.signature(parts.INSERTS.get(name)).parameters
    features = [volume(2, width, *edges, seed=7) for width, edges in encoder]
    return insert, ((features,) if wants else ())


@every("inserts")
@pytest.mark.parametrize("size", MAPS)
def test_inserts_keep_the_shape_and_learn(name: str, size: tuple[int, ...]) -> None:
    insert, more = stands(name, size)
    x = volume(2, 8, *size).requires_grad_()
    y = insert(x, *more)
    assert y.shape == x.shape and y.isfinite().all()
    (y * volume(*y.shape, seed=1)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in insert.parameters())
    assert not torch.equal(y, x)


@every("inserts")
@pytest.mark.parametrize("size", MAPS)
def test_neither_precision_nor_layout_nor_mode_matters_to_inserts(name: str, size: tuple[int, ...]) -> None:
    insert, more = stands(name, size)
    x = volume(2, 8, *size)
    layout: Any = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    plain = insert(x, *more).detach()
    assert torch.equal(insert.eval()(x, *more), insert.train()(x, *more))
    last = insert.to(memory_format=layout)
    assert torch.allclose(last(x.contiguous(memory_format=layout), *more), plain, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        low = insert(x.bfloat16(), *([f.bfloat16() for f in features] for features in more))
        low.square().sum().backward()
    assert low.isfinite().all()
    assert (low.float() - plain).abs().mean() < 0.1 * plain.abs().mean() + 0.02
    assert insert.to("meta")(x.to("meta"), *([f.to("meta") for f in features] for features in more)).shape == x.shape


@every("inserts")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3, 32])
def test_inserts_stand_on_small_maps(name: str, dims: int, channels: int) -> None:
    """A map of one position, at its site in evaluation; refused with a sentence or answered in shape."""
    for size in ((1,) * dims, (1,) * (dims - 1) + (5,)):
        insert, more = stands(name, size, channels)
        with torch.no_grad():
            y = insert.eval()(volume(2, channels, *size), *more)
        assert y.shape == (2, channels, *size) and y.isfinite().all()


@every("fusions")
@pytest.mark.parametrize("size", [*MAPS, (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("channels", [1, 8])
def test_fusions_answer_the_channels_they_say(name: str, size: tuple[int, ...], channels: int) -> None:
    fusion = parts.JOINS.build(name, dims=len(size), channels=channels, size=size, norm=Part(name="group"))
    skip, up = (volume(2, channels, *size, seed=seed).requires_grad_() for seed in (0, 1))
    y = fusion(skip, up)
    assert y.shape == (2, fusion.channels_out, *size) and y.isfinite().all()
    (y * volume(*y.shape, seed=2)).sum().backward()
    assert all(x.grad is not None and x.grad.any() for x in (skip, up))
    assert all(w.grad is not None for w in fusion.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = fusion(skip.bfloat16(), up.bfloat16()).float()
    assert (low - y).abs().mean() < 0.1 * y.abs().mean() + 0.02


@every("downsampling")
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (2, 2, 2), (1, 2, 2)])
def test_ways_down_round_the_shape_up(name: str, stride: tuple[int, ...]) -> None:
    down = parts.DOWNSAMPLERS.build(name, dims=len(stride), channels=3, stride=stride)
    size = (7, 6, 5)[: len(stride)]
    if down is not None:
        assert list(down(volume(2, 3, *size)).shape) == [2, 3, *(-(-n // s) for n, s in zip(size, stride, strict=True))]


@every("upsampling")
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (2, 2, 2), (1, 2, 2)])
def test_ways_up_multiply_the_shape(name: str, stride: tuple[int, ...]) -> None:
    up = parts.UPSAMPLERS.build(name, dims=len(stride), channels_in=4, channels_out=3, stride=stride)
    size = (3, 2, 5)[: len(stride)]
    assert list(up(volume(2, 4, *size)).shape) == [2, 3, *(n * s for n, s in zip(size, stride, strict=True))]


@every("norms")
@pytest.mark.parametrize("dims", [2, 3])
def test_norms_centre_and_scale(name: str, dims: int) -> None:
    for channels in (2 if name == "layer" else 1, 6, 8, 13):  # one channel leaves a layer norm nothing
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
def test_schedules_reach_one_and_stay_within_0_and_1(name: str, steps: int) -> None:
    schedule = parts.SCHEDULES.build(name, steps=steps)
    factors = [schedule(step) for step in range(steps + 1)]
    assert steps < 1000 or max(factors) == pytest.approx(1, abs=1e-3)
    assert all(isinstance(factor, float) and 0 <= factor <= 1 for factor in factors)
    assert all(factor > 0 for factor in factors[:-1])


# -- measures --------------------------------------------------------------------------------------------


@every("measures")
def test_measures_know_the_best_the_worst_and_nothing(name: str) -> None:
    there, other, nothing = (np.zeros((24, 24), np.uint8) for _ in range(3))
    there[3:12, 3:12], other[5:20, 4:12] = 1, 1
    measure = parts.MEASURES.build(name, voxel=1.0)
    assert isinstance(measure, Measure) and measure.said

    def of(prediction: np.ndarray, reference: np.ndarray) -> float | None:
        (pair,) = pairs(prediction, reference, [(1,)], (1.0, 1.0))
        found = measure(pair)
        assert measure.counts is None or (measure.ratio and measure.ratio(*measure.counts(pair)) == found)
        return found

    best, some, worst = of(there, there), of(other, there), of(nothing, there)
    assert best == (0 if measure.better == "lower" else 1)
    assert some is not None and (worst is None or (worst >= some if measure.better == "lower" else worst <= some))
    assert of(nothing, nothing) is None


@every("postprocessing")
def test_postprocessing_leaves_what_needs_none_and_invents_no_class(name: str) -> None:
    options = {"remove_small": {"size": 3.0}, "fill_holes": {"label": "a"}}.get(name, {})
    act = parts.POSTPROCESSORS.build(Part(name=name, options=options), classes={"a": 1, "b": 4})
    clean = np.zeros((6, 12, 12), np.uint8)
    clean[1:5, 1:6, 1:6], clean[1:5, 6:9, 1:6] = 1, 4
    noisy = clean.copy()
    noisy[3, 3, 3], noisy[2, 11, 11] = 0, 4
    for labels in (clean, noisy, clean[3], np.zeros((1, 1), np.uint8)):
        found = act(labels, (1.0,) * labels.ndim)
        assert found.dtype == np.uint8 and found.shape == labels.shape and set(np.unique(found)) <= {0, 1, 4}
    assert (act(clean, (1.0, 1.0, 1.0)) == clean).all() and (act(noisy, (1.0, 1.0, 1.0)) != noisy).any()
