"""A swept image is the image predicted whole: on the plan's grid, on its own, in parts, with several members."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoseg.arrays.lines import line
from autoseg.arrays.resample import resample_logits
from autoseg.errors import BadUsage
from autoseg.image import Image
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train
from autoseg.steps import cases as casework
from autoseg.steps import predict as step
from autoseg.steps import preprocess
from autoseg.steps.restoring import logits_on_grid
from autoseg.steps.sweep import ArraySource, Sweep
from autoseg.steps.tiling import Flips, gaussian, tiles

CPU = torch.device("cpu")


class Mixing(nn.Module):
    """Random kernels of three voxels, two layers: every voxel's answer depends on its neighbours in the tile."""

    def __init__(self, dims: int, channels: int, outputs: int, seed: int = 0) -> None:
        super().__init__()
        conv = nn.Conv3d if dims == 3 else nn.Conv2d
        made = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList([conv(channels, 5, 3, padding=1), conv(5, outputs, 3, padding=1)])
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=made) * 0.5
        self.seen = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        self.seen += len(x)
        return [self.layers[1](torch.tanh(self.layers[0](x)))]


def question(outputs: int, reader: str = "nifti", regions: bool = False) -> Question:
    labels = {f"c{n}": n * 3 for n in range(outputs + regions)}
    fields = {}
    if regions:
        fields = {
            "regions": {f"r{n}": tuple(range(3 * n, 3 * outputs + 1, 3)) for n in range(1, outputs + 1)},
            "written": tuple(range(3, 3 * outputs + 1, 3)),
        }
    return Question(reader=reader, channels=(Channel(name="a", kind="other"),), labels=labels, **fields)


def configuration(patch: tuple[int, ...], spacing: tuple[float, ...], batch: int = 3, **fields) -> Configuration:
    dims = len(patch)
    train = Train(
        loss="ce", augment=(Part(name="mirror", options={"axes": list(range(dims))}),), steps=9,
        optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3,
    )  # fmt: skip
    return Configuration(
        spacing=spacing, patch=patch, batch=batch, normalise=(Part(name="none"),), resample=Part(name="spline"),
        network=Network.plain((4,), ((1,) * dims,)), train=train, memory=Memory(bytes=1, method=""), **fields,
    )  # fmt: skip


def whole_logits(array: np.ndarray, network: nn.Module, one: Configuration, share: float) -> Tensor:
    """All tiles added up in one array: what a sweep has to equal."""
    patch = (1,) * (3 - one.dims) + one.patch
    missing = [max(0, edge - size) for edge, size in zip(patch, array.shape[1:], strict=True)]
    padded = np.pad(array, [(0, 0), *((extra // 2, extra - extra // 2) for extra in missing)])
    outputs = network.layers[1].out_channels
    total, weight = torch.zeros((outputs, *padded.shape[1:])), torch.zeros(padded.shape[1:])
    for start in tiles(padded.shape[1:], patch, share):
        box = tuple(slice(a, a + edge) for a, edge in zip(start, patch, strict=True))
        tile = torch.from_numpy(padded[(slice(None), *box)].copy()).reshape(1, -1, *one.patch)
        with torch.no_grad():
            total[(slice(None), *box)] += network(tile)[0].reshape(outputs, *patch) * gaussian(patch)
        weight[box] += gaussian(patch)
    inside = tuple(slice(extra // 2, extra // 2 + size) for extra, size in zip(missing, array.shape[1:], strict=True))
    return (total / weight)[(slice(None), *inside)]


@settings(deadline=None, max_examples=15)
@given(
    st.tuples(*[st.integers(1, 19)] * 3), st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2),
    st.floats(0.2, 1), st.integers(1, 5), st.booleans(),
)  # fmt: skip
def test_swept_along_any_axis_the_logits_are_those_of_the_whole(shape, patch, axis, share, batch, flat) -> None:
    if flat:
        patch = (1, *patch[1:])
    one = configuration(patch[1:] if flat else patch, (1.0,) * (2 if flat else 3), batch)
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    network = Mixing(one.dims, 2, 3)

    def answer(tile: Tensor) -> Tensor:
        found = network(tile.reshape(len(tile), -1, *one.patch))[0]
        return found.reshape(len(tile), -1, *patch)

    sweep = Sweep(ArraySource(array), patch, share, axis, 3, answer, batch=batch)
    assert torch.allclose(logits_on_grid(sweep), whole_logits(array, network, one, share), atol=1e-5)


def test_the_front_is_what_a_sweep_keeps() -> None:
    array = np.random.default_rng(0).normal(size=(1, 60, 16, 16)).astype(np.float32)
    sweep = Sweep(ArraySource(array), (8, 8, 8), 0.5, 0, 2, lambda tile: torch.cat([tile, -tile], 1))
    assert sweep.front == 4 * 3 * 8 * 16 * 16
    rows = [(slab.first, slab.logits.shape) for slab in sweep]
    assert rows[0] == (0, (2, 4, 16, 16)) and sum(shape[1] for _, shape in rows) == 60


def test_tiles_of_one_value_are_answered_once_and_tiles_without_measurement_never() -> None:
    array = np.full((1, 32, 32, 32), -3, np.float32)
    array[:, :8, :8, :8] = np.random.default_rng(0).normal(size=(1, 8, 8, 8))
    network = Mixing(3, 1, 2)
    sweep = Sweep(ArraySource(array), (8, 8, 8), 1.0, 0, 2, lambda tile: network(tile)[0])
    found = logits_on_grid(sweep)
    assert network.seen == 2 and sweep.tiles == 64
    assert torch.allclose(found, whole_logits(array, network, configuration((8, 8, 8), (1.0,) * 3), 1.0), atol=1e-6)

    class Partly(ArraySource):
        def valid(self, box) -> bool:
            return box[0].start < 16

    network.seen = 0
    found = logits_on_grid(Sweep(Partly(array), (8, 8, 8), 1.0, 0, 2, lambda tile: network(tile)[0]))
    assert network.seen == 2 and not found[:, 16:].any() and found[:, :16].any()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_lines_are_torchs_interpolation_in_any_parts(n: int, m: int, nearest: bool) -> None:
    values = torch.randn(n)
    mode = "nearest-exact" if nearest else "linear"
    options = {} if nearest else {"align_corners": False}
    expected = torch.nn.functional.interpolate(values[None, None].double(), m, mode=mode, **options)[0, 0].float()
    one = line(n, m, nearest)
    for start, stop in itertools.pairwise([0, m // 3, m // 2, m]):
        if start < stop:
            need = one.needs(slice(start, stop))
            found = one.take(values[need], 0, slice(start, stop), need.start)
            if not nearest or (2 * m) % n or n == m:  # where a centre lies on a border torch rounds as it likes
                assert torch.allclose(found, expected[start:stop], atol=1e-5)
    for stop in range(n + 1):
        assert one.ready(stop) == sum(far < stop for far in one.far)
        reach = one.within(slice(stop // 2, stop))
        touched = [j for j in range(m) if one.near[j] < stop and one.far[j] >= stop // 2]
        assert touched == [*range(reach.start, reach.stop)] or not touched


MATRIX = [
    pytest.param((21, 18, 13), (1.0, 1.0, 1.0), (8, 8, 8), (1.0, 1.0, 1.0), (0, 1, 2), id="plain"),
    pytest.param((9, 30, 26), (2.0, 0.7, 0.8), (8, 8, 8), (1.1, 1.3, 1.0), (0, 1, 2), id="resampled"),
    pytest.param((26, 9, 30), (0.8, 2.0, 0.7), (4, 8, 8), (1.1, 1.3, 1.0), (1, 0, 2), id="turned"),
    pytest.param((5, 40, 30), (5.0, 1.0, 1.0), (2, 8, 8), (4.0, 1.5, 1.5), (0, 1, 2), id="coarse"),
    pytest.param((7, 20, 30), (5.0, 1.0, 1.0), (8, 8), (1.5, 1.5), (0, 1, 2), id="slices"),
    pytest.param((4, 3, 5), (1.0, 1.0, 1.0), (8, 8, 8), (0.8, 0.8, 0.8), (2, 0, 1), id="smaller than a patch"),
    pytest.param((1, 1, 1), (1.0, 1.0, 1.0), (8, 8, 8), (1.0, 1.0, 1.0), (0, 1, 2), id="one voxel"),
    pytest.param((1, 20, 17), (1.0, 1.0, 1.0), (8, 8, 8), (1.0, 1.0, 1.0), (0, 1, 2), id="one slice"),
    pytest.param((3, 30, 26), (50.0, 1.0, 1.0), (2, 8, 8), (45.0, 1.3, 1.3), (0, 1, 2), id="50 to 1"),
]


@pytest.mark.parametrize(("shape", "had", "patch", "spacing", "axes"), MATRIX)
@pytest.mark.parametrize("regions", [False, True])
def test_the_label_is_that_of_all_logits_resampled_at_once(shape, had, patch, spacing, axes, regions) -> None:
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    image[0, :, :2] = 0  # an empty border, which is cropped
    ours, asked = configuration(patch, spacing, axes=axes), question(4, regions=regions)
    network = Mixing(len(patch), 1, 4)
    label = step.predict(Image(image, had), [network], ours, asked, CPU, "float32", mirror=False)
    array, geometry = preprocess.prepare_image(Image(image, had), ours, asked)
    logits = whole_logits(array, network, ours, 0.5)
    if regions:
        size = geometry.cropped
        one = [resample_logits(torch.stack([torch.zeros_like(a), a]), size, geometry.coarse) for a in logits]
        expected = np.zeros(size, np.uint8)
        for number, there in enumerate(one, 1):
            expected[there == 1] = number
    else:
        expected = resample_logits(logits, geometry.cropped, geometry.coarse)
    assert (label == preprocess.restore(expected, geometry) * 3).mean() > 0.9999


@pytest.mark.parametrize(("shape", "had", "patch", "spacing", "axes"), MATRIX)
def test_in_parts_and_as_probabilities_it_is_the_same_label(shape, had, patch, spacing, axes) -> None:
    image = Image(np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32), had)
    ours, asked = configuration(patch, spacing, axes=axes), question(4)
    networks = [Mixing(len(patch), 1, 4, seed) for seed in range(2)]
    whole = step.predict(image, networks, ours, asked, CPU, "float32", mirror=False)
    ways = [step.How(room=1000 * 2**n, mirror=False) for n in (2, 3, 5, 6, 8)]
    ways += [step.How(probabilities=True, mirror=False), step.How(at_once=8, disagreement=True, mirror=False)]
    met = set()
    for how in ways:
        seen = step.views(image, [(networks, ours, "float32")], asked, CPU, how, {})
        try:
            met.add(len(step.plan_cuts(seen, asked, how)[1]))
        except BadUsage:
            continue
        found = list(step.pieces(seen, asked, how))
        count = np.zeros(shape, int)
        for piece in found:
            count[piece.box] += 1
            if how.probabilities:
                assert torch.allclose(piece.probabilities.sum(0), torch.ones(piece.indices.shape), atol=1e-5)
            if how.disagreement:
                assert piece.disagreement.shape == piece.indices.shape and float(piece.disagreement.min()) >= 0
        assert (count == 1).all()
        assert (step.label_of(shape, iter(found), asked) == whole).mean() > 0.9999
    assert len(met) > 1 or np.prod(shape) < 1000


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("shape", "had", "patch", "spacing", "axes"), MATRIX)
def test_several_sets_of_views_swept_once_decide_as_each_of_them_does(
    shape, had, patch, spacing, axes, regions
) -> None:
    image = Image(np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32), had)
    ours, asked, how = configuration(patch, spacing, axes=axes), question(4, regions=regions), step.How(mirror=False)
    members = [([Mixing(len(patch), 1, 4, seed)], ours, "float32") for seed in range(3)]
    among = [(0, 1), (0, 2), (0, 1, 2)]
    made = [np.zeros(shape, np.uint8) for _ in among]
    count = np.zeros(shape, int)
    for parts in step.ways(step.views(image, members, asked, CPU, how, {}), asked, how, among):
        count[parts[0].box] += 1
        for label, part in zip(made, parts, strict=True):
            label[part.box] = part.indices
    assert (count == 1).all()
    for way, label in zip(among, made, strict=True):
        seen = step.views(image, [members[n] for n in way], asked, CPU, how, {})
        alone = step.label_of(shape, step.pieces(seen, asked, how), asked)
        assert (casework.to_values(label, asked) == alone).mean() > 0.9999


@pytest.mark.parametrize(("shape", "had", "patch", "spacing", "axes"), MATRIX)
def test_the_probabilities_are_those_of_all_logits_resampled_at_once(shape, had, patch, spacing, axes) -> None:
    image = Image(np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32), had)
    ours, asked, network = configuration(patch, spacing, axes=axes), question(3), Mixing(len(patch), 1, 3)
    how = step.How(probabilities=True, mirror=False, room=10**5)
    array, geometry = preprocess.prepare_image(image, ours, asked)
    logits = whole_logits(array, network, ours, 0.5)
    if geometry.coarse is not None:  # along it the nearest slice is taken
        size = list(logits.shape[1:])
        n, m = size[geometry.coarse], geometry.cropped[geometry.coarse]
        logits = logits.index_select(geometry.coarse + 1, torch.from_numpy((2 * np.arange(m) + 1) * n // (2 * m)))
    grid = torch.nn.functional.interpolate(logits[None], geometry.cropped, mode="trilinear", align_corners=False)[0]
    expected = torch.softmax(grid, 0).permute(0, *(1 + int(axis) for axis in np.argsort(geometry.axes)))
    for piece in step.pieces(step.views(image, [([network], ours, "float32")], asked, CPU, how, {}), asked, how):
        inside = (slice(None), *piece.box)
        assert torch.allclose(piece.probabilities, expected[inside], atol=1e-4)


def test_several_configurations_are_the_mean_of_their_probabilities() -> None:
    image = Image(np.random.default_rng(1).normal(size=(1, 9, 24, 20)).astype(np.float32), (3.0, 1.0, 1.0))
    asked, how = question(3), step.How(probabilities=True, mirror=False)
    one, two = configuration((8, 8), (1.2, 1.2)), configuration((4, 8, 8), (2.0, 1.5, 1.5), axes=(0, 2, 1))
    members = [([Mixing(2, 1, 3, 1)], one, "float32"), ([Mixing(3, 1, 3, 2)], two, "float32")]

    def chances(members) -> np.ndarray:
        out = np.zeros((3, *image.shape), np.float32)
        for piece in step.pieces(step.views(image, members, asked, CPU, how, {}), asked, how):
            out[(slice(None), *piece.box)] = piece.probabilities
        return out

    both, each = chances(members), [chances([member]) for member in members]
    assert np.allclose(both, (each[0] + each[1]) / 2, atol=1e-5)


def test_another_scale_is_another_spacing_and_averaged_with_the_first() -> None:
    image = Image(np.random.default_rng(1).normal(size=(1, 40, 30)).astype(np.float32), (1.0, 1.0))
    asked, network = question(3, "raster"), Mixing(2, 1, 3)
    kept = configuration((8, 8), (1.0, 1.0)).model_copy(update={"resample": Part(name="keep")})
    how = step.How(scales=(0.5, 1.0, 1.25), mirror=False)
    seen = step.views(image, [([network], kept, "float32")], asked, CPU, how, {})
    assert [one.prepared.source.shape for one in seen] == [(1, 20, 15), (1, 40, 30), (1, 50, 38)]
    assert step.label_of((40, 30), step.pieces(seen, asked, how), asked).shape == (40, 30)


def test_networks_that_agree_do_not_disagree() -> None:
    from autoseg.steps.tiling import logits_and_disagreement, mean_logits

    batch, flips = torch.randn(2, 1, 8, 8), Flips((0, 1))
    networks = [Mixing(2, 1, 3, seed) for seed in (0, 0, 1)]
    with torch.no_grad():
        same = logits_and_disagreement(networks[:2], batch, flips, regions=False)
        other = logits_and_disagreement(networks, batch, flips, 8, regions=False)
        assert torch.allclose(other[:, :3], mean_logits(networks, batch, flips), atol=1e-6)
    assert float(same[:, 3].abs().max()) < 1e-6 < 1e-3 < float(other[:, 3].mean())


def test_a_room_that_holds_no_front_is_told() -> None:
    image = Image(np.ones((1, 30, 30, 30), np.float32), (1.0, 1.0, 1.0))
    how = step.How(room=1000)
    seen = step.views(
        image, [([Mixing(3, 1, 2)], configuration((8, 8, 8), (1.0,) * 3), "float32")], question(2), CPU, how, {}
    )
    with pytest.raises(BadUsage, match=r"--ram: the memory holds no part"):
        list(step.pieces(seen, question(2), how))
