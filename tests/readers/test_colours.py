"""Labels coded by colours: refused with the way out, read where the colours have values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.image import Image
from autoseg.readers.colours import UNKNOWN, ColourCoded, counted, labels_map, packed, remedy, spelled, values_of
from autoseg.readers.raster import Raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
PALETTE = {0: (60, 16, 152, 255), 1: (132, 41, 246, 255), 2: (1, 2, 3, 255)}
COLOURS = {"#3c1098": 4, "#8429f6": 0, "#ffffff": 9}
pictures = arrays.arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 60, 255]))


def save(file: Path, bands: np.ndarray) -> Path:
    count, height, width = bands.shape
    with rasterio.open(file, "w", driver="PNG", count=count, height=height, width=width, dtype="uint8") as target:
        target.write(bands)
    return file


def painted(codes: np.ndarray) -> np.ndarray:
    """(3, y, x) of colours by their place in the palette."""
    return np.moveaxis(np.array([PALETTE[place][:3] for place in range(3)], np.uint8)[codes], -1, 0)


def by_colours(file: Path) -> Image:
    with Raster().open_label(file, COLOURS) as label:
        return label.whole()


@settings(max_examples=40, deadline=None)
@given(pictures)
def test_every_colour_is_counted_and_keeps_its_value_or_its_bits(bands):
    met = counted(bands)
    assert sum(met.values()) == 20 and list(met.values()) == sorted(met.values(), reverse=True)
    colours = {colour: number for number, colour in enumerate(sorted(met)[::2])}
    values = values_of(bands, colours or {"#010101": 0})
    for place in np.ndindex(4, 5):
        colour = "#" + "".join(f"{band[place]:02x}" for band in bands)
        value = int(values[place])
        assert value == colours[colour] if colour in colours else spelled(value) == colour
    assert (packed(bands) < UNKNOWN).all()


def test_values_are_spelled_as_users_know_them():
    assert [spelled(value) for value in (7, 0.5, -1, UNKNOWN, UNKNOWN + 0x3C1098)] == [
        "7", "0.5", "-1", "#000000", "#3c1098",
    ]  # fmt: skip
    assert spelled(float("nan")) == "nan" and spelled(float("inf")) == "inf"


def test_colours_without_values_are_refused_with_the_map_that_names_them(tmp_path: Path) -> None:
    codes = np.array([[0, 1, 1], [1, 1, 0]])
    file = save(tmp_path / "a.png", painted(codes))
    with pytest.raises(ColourCoded, match=r"#8429f6 \(4 pixels\), #3c1098 \(2 .*'#8429f6=class_1,#3c1098=class_2'"):
        Raster().read_label(file)
    assert Raster().colours(file) == {"#8429f6": 4, "#3c1098": 2}
    assert labels_map(Raster().colours(file)) == "#8429f6=class_1,#3c1098=class_2"
    assert "labels-map" not in remedy({f"#{n:06x}": 1 for n in range(99)})


def test_bands_and_palettes_are_read_by_colours_and_values_as_they_are(tmp_path: Path) -> None:
    codes = np.array([[0, 1, 2], [1, 1, 0]], np.uint8)
    expected = [[4, 0, UNKNOWN + 0x010203], [0, 0, 4]]
    bands = save(tmp_path / "a.png", painted(codes))
    with rasterio.open(tmp_path / "p.png", "w", driver="PNG", count=1, height=2, width=3, dtype="uint8") as target:
        target.write_colormap(1, PALETTE)
        target.write(codes[None])
    for file in (bands, tmp_path / "p.png"):
        assert by_colours(file).array[0].tolist() == expected
        with Raster().open_label(file, COLOURS) as label:
            assert label.read((slice(0, 1), slice(0, 2))).array[0].tolist() == [[4, 0]]
    plain = save(tmp_path / "v.png", codes[None])
    assert by_colours(plain).array[0].tolist() == codes.tolist()
    assert Raster().read_label(tmp_path / "p.png").array[0].tolist() == codes.tolist() and Raster().colours(plain) == {}


def test_a_grey_patch_is_a_colour_where_there_are_colours(tmp_path: Path) -> None:
    file = save(tmp_path / "w.png", np.full((3, 2, 2), 255, np.uint8))
    assert by_colours(file).array.tolist() == [[[9, 9], [9, 9]]]
    assert Raster().read_label(file).array.tolist() == [[[255, 255], [255, 255]]]
