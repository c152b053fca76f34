"""The sites that inserts and fusions mean, and what stands there."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import BadPlan
from autoseg.nets.places import Inserts, Site, parse
from autoseg.nets.survey import build, survey
from autoseg.parts import INSERTS, JOINS
from autoseg.records import Network, Part

WIDTHS, SIZES = (4, 6, 8, 10), ((16, 8), (8, 4), (4, 4), (2, 2))
SITES = [
    *(Site(place, i, WIDTHS[i], SIZES[i]) for place in ("encoder", "skip", "join", "decoder") for i in range(3)),
    Site("bottleneck", 3, WIDTHS[3], SIZES[3]),
    Site("head", 0, WIDTHS[0], SIZES[0]),
]


def network(text: str = "") -> Network:
    return Network(
        architecture=Part(name="unet"), block=Part(name="plain"), decoder_block=Part(name="plain"),
        norm=Part(name="instance"), inserts=parse(text), features=WIDTHS, strides=((1, 1), (2, 2), (2, 1), (2, 2)),
        kernels=((3, 3),) * 4, depths=(1,) * 4, decoder_depths=(1,) * 3,
    )  # fmt: skip


def standing(text: str, sites: list[Site] = SITES) -> Inserts:
    return Inserts(network(text), sites, tuple(zip(WIDTHS, SIZES, strict=True)))


def feature(site: Site) -> Tensor:
    return torch.randn(2, site.channels, *site.size, generator=torch.Generator().manual_seed(0))


# -- the sites that are meant --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "meant"),
    [
        ("", [0, 1, 2]),
        ("[0]", [0]),
        ("[-1]", [2]),
        ("[1]", [1]),
        ("[0:2]", [0, 1]),
        ("[1:]", [1, 2]),
        ("[:-1]", [0, 1]),
        ("[-2:]", [1, 2]),
        ("[0:9]", [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("place", ["encoder", "skip", "decoder"])
def test_a_slice_takes_the_stages_of_its_place_finest_first(stages: str, meant: list[int], place: str) -> None:
    assert standing(f"se@{place}{stages}").names == {f"{place}_{i}": ["se"] for i in meant}


def test_a_place_of_one_stage_counts_from_zero() -> None:
    assert standing("se@bottleneck[0]+se@head[-1]").names == {"bottleneck_3": ["se"], "head_0": ["se"]}


@pytest.mark.parametrize("text", ["se@skip[3]", "se@skip[2:1]", "se@skip[1:1]", "se@bottleneck[3]"])
def test_an_empty_slice_is_told(text: str) -> None:
    shown = parse(text)[0].text.replace("[", r"\[").replace("]", r"\]")
    last = 0 if "bottleneck" in text else 2
    with pytest.raises(BadPlan, match=f"^{shown}: no stage of .* is meant; expected 0 to {last}$"):
        standing(text)


def test_sites_of_one_stage_are_told_apart_by_their_keys() -> None:
    sites = [Site("decoder", 0, 4, (8, 8), key=f"x_0_{j}") for j in (1, 2)] + [Site("decoder", 1, 6, (4, 4))]
    assert standing("se@decoder[0]", sites).names == {"x_0_1": ["se"], "x_0_2": ["se"]}
    assert standing("se@decoder[1]", sites).names == {"decoder_1": ["se"]}


def test_a_place_that_the_network_lacks_is_told_with_those_it_has() -> None:
    few = [site for site in SITES if site.place in ("encoder", "head")]
    with pytest.raises(BadPlan, match=r"^cbam@skip: unet has no place skip; expected one of encoder, head$"):
        standing("cbam@skip", few)
    with pytest.raises(BadPlan, match="unet has no place skip; expected no insert at all"):
        standing("cbam@skip", [])


def test_a_part_may_forbid_a_place() -> None:
    @INSERTS.add("deep")
    class Deep(nn.Identity):
        places: ClassVar[tuple[str, ...]] = ("bottleneck", "decoder")

        def __init__(self) -> None:
            super().__init__()

    assert standing("deep@bottleneck+deep@decoder[0]").names == {"bottleneck_3": ["deep"], "decoder_0": ["deep"]}
    with pytest.raises(BadPlan, match=r"^deep@skip\[0\]: deep does not stand at skip; expected one of bottleneck"):
        standing("deep@skip[0]")


# -- what stands there ---------------------------------------------------------------------------------


def test_inserts_of_one_site_act_in_the_order_of_the_text() -> None:
    class Add(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Tensor) -> Tensor:
            return x + self.by

    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    INSERTS.add("add")(Add)
    INSERTS.add("double")(Double)
    x = feature(SITES[0])
    for text, expected in [
        ("add(by=3)@encoder+double@encoder[0]", 2 * (x + 3)),
        ("double@encoder+add(by=3)@encoder", 2 * x + 3),
        ("double@encoder[1]+add(by=3)@skip", x),
    ]:
        assert torch.equal(standing(text)("encoder_0", x), expected)


def test_an_insert_is_given_its_site() -> None:
    given_: list[tuple[Any, ...]] = []

    @INSERTS.add("seeing")
    class Seeing(nn.Module):
        def __init__(self, dims: int, channels: int, size: tuple[int, ...], norm: Part, encoder: Any) -> None:
            super().__init__()
            given_.append((dims, channels, size, norm.name, encoder))

        def forward(self, x: Tensor, features: list[Tensor]) -> Tensor:
            return x + len(features)

    x, deepest = feature(SITES[4]), [torch.zeros(1)] * 3
    those = standing("seeing@skip[1]")
    assert given_ == [(2, 6, (8, 4), "instance", tuple(zip(WIDTHS, SIZES, strict=True)))]
    assert torch.equal(those("skip_1", x, deepest), x + 3)


def test_what_an_insert_refuses_is_told_with_its_site() -> None:
    with pytest.raises(BadPlan, match=r"^cbam at skip stage 1 \(6 channels, 8×4\): insert 'cbam': kernel is 2"):
        standing("cbam(kernel=2)@skip[1]")
    with pytest.raises(BadPlan, match=r"^cga_fusion at join stage 0 .*no option 'kernal' \(did you mean kernel\?\)"):
        standing("cga_fusion(kernal=2)@join")


def test_every_join_without_a_fusion_concatenates() -> None:
    those = standing("cga_fusion@join[1]+attention_gate@join[2]")
    assert [those.joined(f"join_{i}") for i in range(3)] == [8, 6, 16]
    assert those.names == {"join_1": ["cga_fusion"], "join_2": ["attention_gate"]}
    skip = feature(SITES[6])
    assert torch.equal(those.join("join_0", skip, -skip), torch.cat([-skip, skip], dim=1))


def test_two_fusions_at_one_join_are_refused() -> None:
    with pytest.raises(BadPlan, match=r"^cga_fusion@join\[1:\]: two fusions at one join; name other stages"):
        standing("attention_gate@join[:2]+cga_fusion@join[1:]")


def test_a_fusion_must_say_what_it_answers() -> None:
    JOINS.add("silent")(nn.Identity)
    with pytest.raises(BadPlan, match="fusion 'silent' does not say its channels_out"):
        standing("silent@join")


@pytest.mark.parametrize(("place", "kind"), [("skip", "insert"), ("join", "fusion")])
def test_an_answer_of_another_shape_names_the_part_and_its_site(place: str, kind: str) -> None:
    class Halved(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.channels_out = channels

        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return x[..., ::2]

    (JOINS if place == "join" else INSERTS).add("halved")(Halved)
    with pytest.raises(BadPlan, match=f"^{kind} halved at {place} stage 1 .*answers .*expected"):
        survey(network(f"halved@{place}[1]"), 1, 2, SIZES[0])


EVERYWHERE = (
    "scse(join=max)@encoder+se@skip[0]+eca@skip[0]+attention_gate@join[-1]+cga_fusion@join[0]"
    "+polarized@decoder[1:]+coord@bottleneck+scconv@head"
)


def test_a_network_holds_what_its_text_says_and_learns() -> None:
    found = survey(network(EVERYWHERE), 1, 2, SIZES[0])
    where = {(unit.place, unit.stage): unit.inserts for unit in found.units if unit.inserts}
    assert where == {
        **{("encoder", i): ("scse",) for i in range(3)},
        ("skip", 0): ("se", "eca"),
        ("bottleneck", 3): ("coord",),
        ("decoder", 0): ("cga_fusion",),
        ("decoder", 1): ("polarized",),
        ("decoder", 2): ("attention_gate", "polarized"),
        ("head", 0): ("scconv",),
    }
    torch.manual_seed(0)
    net = build(network(EVERYWHERE), 1, 2, SIZES[0]).train()
    sum(output.square().mean() for output in net(torch.randn(2, 1, *SIZES[0]))).backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []
