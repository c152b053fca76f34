"""Global guidance: the guidance map, both guided blocks, and their place in a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.nets.inserts.guidance import GlobalGuidance, GuidanceMap, GuidedChannels, GuidedPositions
from autoseg.nets.survey import build, survey
from autoseg.parts import INSERTS
from autoseg.records import Insert, Network, Part

LAYER = Part(name="layer")
SIZES = pytest.mark.parametrize(
    "sizes", [((8, 12), (4, 6), (2, 3)), ((4, 8, 6), (4, 4, 3), (2, 2, 1)), ((3, 2), (1, 1))]
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def stages(sizes: tuple[tuple[int, ...], ...]) -> list[tuple[int, tuple[int, ...]]]:
    return [(3 + i, size) for i, size in enumerate(sizes)]


def seen(sizes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    return [torch.randn(2, channels, *size) for channels, size in stages(sizes)]


def made(sizes: tuple[tuple[int, ...], ...], stage: int, scale: float) -> GlobalGuidance:
    insert = GlobalGuidance(len(sizes[0]), 6, sizes[stage], LAYER, stages(sizes))
    torch.nn.init.constant_(insert.positions.scale, scale)
    torch.nn.init.constant_(insert.channels.scale, -scale)
    return insert


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_positions_are_weighed_by_the_product_of_both_similarities(size: tuple[int, ...]) -> None:
    block, x, guide = GuidedPositions(len(size), 5), *torch.randn(2, 2, 5, *size)
    torch.nn.init.constant_(block.scale, 0.7)
    rows, guiding = x.flatten(2), guide.flatten(2)
    query, key, value = (block.project.weight.flatten(1) @ rows + block.project.bias[:, None]).split(5, dim=1)
    other, lock = (block.guide.weight.flatten(1) @ guiding + block.guide.bias[:, None]).split(5, dim=1)
    own = torch.einsum("bci,bcj->bij", query, key) / 5**0.5
    alike = torch.einsum("bci,bcj->bij", other, lock) / 5**0.5
    expected = rows + 0.7 * torch.einsum("bij,bcj->bci", (own * alike).softmax(-1), value)
    assert torch.allclose(block(x, guide).flatten(2), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_channels_are_weighed_by_the_product_of_both_grams(size: tuple[int, ...]) -> None:
    block, x, guide = GuidedChannels(len(size), 5), *torch.randn(2, 2, 5, *size)
    torch.nn.init.constant_(block.scale, 0.7)
    rows, guiding = x.flatten(2), block.excite(guide).flatten(2)
    assert not torch.allclose(guiding, guide.flatten(2), atol=0.1)
    own, alike = ((map_[:, :, None] * map_[:, None]).mean(-1) for map_ in (rows, guiding))
    weights = (own[:, :, :, None] * alike[:, None]).sum(2).softmax(-1)
    expected = rows + 0.7 * (weights[..., None] * rows[:, None]).sum(2)
    assert torch.allclose(block(x, guide).flatten(2), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 6), (2, 4, 2)])
def test_the_map_pools_finer_stages_and_interpolates_coarser_ones(size: tuple[int, ...]) -> None:
    finer, coarser = tuple(3 * n for n in size), tuple(n // 2 for n in size)
    guide = GuidanceMap(len(size), 5, size, LAYER, [(3, finer), (4, size), (2, coarser)])
    features = [torch.randn(2, 3, *finer), torch.randn(2, 4, *size), torch.randn(2, 2, *coarser)]
    cells = features[0].reshape(2, 3, *(length for n in size for length in (n, 3)))
    pooled = cells.mean(dim=tuple(range(3, cells.ndim, 2)))
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    raised = F.interpolate(features[2], size=size, mode=mode, align_corners=False)
    expected = guide.pyramid(guide.mix(torch.cat([pooled, features[1], raised], dim=1)))
    assert expected.shape == (2, 5, *size)
    assert torch.allclose(guide(features), expected, atol=1e-5)


@SIZES
def test_it_is_positions_then_channels_under_one_guide(sizes: tuple[tuple[int, ...], ...]) -> None:
    insert, features, x = made(sizes, 1, 0.7), seen(sizes), torch.randn(2, 6, *sizes[1])
    guide = insert.guide(features)
    assert torch.equal(insert(x, features), insert.channels(insert.positions(x, guide), guide))


@SIZES
def test_it_starts_as_the_identity(sizes: tuple[tuple[int, ...], ...]) -> None:
    x = torch.randn(2, 6, *sizes[1])
    insert = GlobalGuidance(len(sizes[0]), 6, sizes[1], LAYER, stages(sizes))
    assert torch.equal(insert(x, seen(sizes)), x)


@SIZES
def test_every_parameter_learns_and_every_stage_guides(sizes: tuple[tuple[int, ...], ...]) -> None:
    insert, features = made(sizes, 1, 0.7), [feature.requires_grad_() for feature in seen(sizes)]
    insert(torch.randn(2, 6, *sizes[1]), features).square().sum().backward()
    still = [name for name, p in insert.named_parameters() if p.grad is None or not p.grad.any()]
    alone = max(sizes[1]) == 1  # one position has one weight, whatever guides it
    assert still == (["positions.guide.weight", "positions.guide.bias"] if alone else [])
    assert all(feature.grad is not None and feature.grad.any() for feature in features)


@pytest.mark.parametrize(
    ("context", "said"),
    [({"size": (65, 64)}, "4160 positions is above the limit of 4096"), ({"encoder": ()}, "no encoder stages")],
)
def test_what_cannot_be_is_refused(context: dict[str, object], said: str) -> None:
    whole = {"dims": 2, "channels": 4, "size": (4, 3), "norm": LAYER, "encoder": ((4, (4, 3)),)}
    with pytest.raises(BadPlan, match=f"insert 'global_guidance': .*{said}"):
        INSERTS.build("global_guidance", **{**whole, **context})


def network(*places: str) -> Network:
    inserts = tuple(Insert(part=Part(name="global_guidance"), place=place) for place in places)  # type: ignore[arg-type]
    return Network(
        architecture=Part(name="unet"), block=Part(name="plain"), decoder_block=Part(name="plain"),
        norm=Part(name="instance"), features=(4, 6, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3,
        depths=(1, 1, 1), decoder_depths=(1, 1), inserts=inserts,
    )  # fmt: skip


def test_a_network_keeps_its_output_when_guidance_is_added() -> None:
    plain, x = build(network(), 1, 2, (16, 8)), torch.randn(1, 1, 16, 8)
    guided = build(network("bottleneck", "decoder"), 1, 2, (16, 8))
    missing, unknown = guided.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unknown
    assert all(torch.equal(a, b) for a, b in zip(guided.train()(x), plain.train()(x), strict=True))
    found = survey(network("bottleneck", "decoder"), 1, 2, (16, 8))
    assert [unit.place for unit in found.units if unit.inserts] == ["bottleneck", "decoder", "decoder"]


def test_it_stands_where_all_stages_have_been_seen() -> None:
    with pytest.raises(BadPlan, match="does not stand at encoder; expected one of bottleneck, decoder"):
        build(network("encoder"), 1, 2, (16, 8))
