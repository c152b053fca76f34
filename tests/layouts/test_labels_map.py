"""What the text of --labels-map makes of values, ranges and colours."""

from __future__ import annotations

import pytest

from autoseg.errors import BadUsage
from autoseg.layouts.labels_map import fields_of
from autoseg.records import Channel, Question


def question(text: str) -> Question:
    return Question(reader="raster", channels=(Channel(name="a", kind="other"),), **fields_of(text))


def test_a_range_is_every_value_in_it() -> None:
    asked = question("0..2=background,255=road,253..254=road,7=ignore")
    assert asked.labels == {"background": 0, "road": 255} and asked.ignore == 7
    assert asked.merged == {1: 0, 2: 0, 253: 255, 254: 255} and asked.colours == {}
    assert fields_of("0=a,-3..-1=b") == {"labels": {"a": 0, "b": -3}, "merged": {-2: -3, -1: -3}, "ignore": None}


def test_colours_stand_for_values_of_their_own() -> None:
    asked = question("#9B9B9B=ignore,60/16/152=roof,#8429f6=sand, #000000 = Background ,#8429f7=sand")
    assert asked.labels == {"Background": 0, "roof": 1, "sand": 2} and asked.ignore == 255
    assert asked.colours == {"#9b9b9b": 255, "#3c1098": 1, "#8429f6": 2, "#000000": 0, "#8429f7": 2}
    assert asked.classes == ("Background", "roof", "sand") and asked.merged == {}


def test_colours_of_regions() -> None:
    asked = question("#000000=background,#ff0000=whole,#00ff00=whole+core")
    assert asked.regions == {"whole": (1, 2), "core": (2,)}
    assert asked.colours == {"#000000": 0, "#ff0000": 1, "#00ff00": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0=a,1..0=b", "1..0=b"),
        ("0=a,1..9999=b", "9999 values"),
        ("0..5=a,3=b", "the value 3 is named twice"),
        ("0=a,#ff0000=b", "both values and colours"),
        ("#ff0000=a,255/0/0=b", "names a colour twice"),
        ("#ff0000=a,#ff0000=b", "a colour twice"),
        ("#ff00=a,#000000=b", "#ff00=a"),
        ("256/0/0=a", "256/0/0=a"),
        ("1/2=a", "1/2=a"),
        ("#ff0000=", "#ff0000="),
        ("..=a", "..=a"),
    ],
)
def test_what_says_nothing_is_told(text: str, message: str) -> None:
    with pytest.raises(BadUsage, match="--labels-map.*" + message.replace("+", r"\+")):
        fields_of(text)
