"""Pictures of networks: well-formed, everything on the page and named, nothing on top of another."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest

from autoseg.nets import drawing, survey
from autoseg.nets.drawing import WIDE, count, svg
from autoseg.records import Part
from autoseg.steps.design import Variant, network_of
from autoseg.steps.topology import Topology

FOUND = Topology((32, 32), ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)), ((3, 3),) * 5, (8, 16, 16, 16, 16), 2)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str, inserts: str = "", title: str = "title") -> tuple[survey.Survey, ElementTree.Element]:
    from autoseg.nets.places import parse

    network = network_of(FOUND, Variant(Part(name=name), inserts=parse(inserts)))
    patch = tuple(-(-edge // d) * d for edge, d in zip(FOUND.patch, network.divisor, strict=True))
    found = survey.survey(network, 1, 3, patch)
    return found, ElementTree.fromstring(svg(network, found, patch, title))


def boxes(page: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) of every unit."""
    rectangles = [{key: float(r.attrib[key]) for key in ("x", "y", "width", "height")} for r in page.iter(f"{SVG}rect")
                  if float(r.attrib["width"]) == WIDE]  # fmt: skip
    return [(r["x"], r["y"], r["x"] + r["width"], r["y"] + r["height"]) for r in rectangles]


@pytest.mark.parametrize("name", ["unet", "resenc", "unetpp", "hrnet", "deeplabv3p", "ggnet", "swin_unet"])
def test_every_unit_has_a_box_of_its_own_on_the_page(name: str) -> None:
    found, page = drawn(name)
    made = boxes(page)
    assert len(made) == len(found.units) == len(set(made))
    width, height = float(page.attrib["width"]), float(page.attrib["height"])
    assert all(left >= 0 and top >= 0 and right <= width and bottom <= height for left, top, right, bottom in made)
    for one, other in itertools.combinations(made, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart


def test_inserts_stand_in_the_picture_where_they_stand_in_the_network() -> None:
    _, page = drawn("unet", "se@skip[0:2]+attention_gate@join[1]+eca@bottleneck")
    texts = [text.text for text in page.iter(f"{SVG}text")]
    assert [texts.count(name) for name in ("se", "attention_gate", "eca", "concat")] == [2, 1, 1, 0]


def test_a_title_is_text_and_nothing_else() -> None:
    _, page = drawn("unet", title="<script>&</script>")
    assert next(text.text for text in page.iter(f"{SVG}text")) == "<script>&</script>"
    assert not list(page.iter(f"{SVG}script"))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 "), (51, "51 "), (1_353_145, "1.35 M"), (10.31e9, "10.3 G"), (999, "999 "), (2e12, "2 T")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert count(number) == text


def test_heads_of_one_stage_stand_above_their_nodes() -> None:
    found, page = drawn("unetpp")
    heads = sum(unit.place == "head" for unit in found.units)
    lines = [line.attrib for line in page.iter(f"{SVG}line")]
    upright = [line for line in lines if line["x1"] == line["x2"] and float(line["y2"]) == drawing.TOP + drawing.HIGH]
    assert heads == len(upright) == 4
