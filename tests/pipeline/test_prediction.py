"""Which files make one input, and which runs make one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import BadUsage
from autoseg.pipeline.prediction import inputs, require_plugins
from autoseg.records import Channel, Question, Run


def question(files: int) -> Question:
    named = tuple(Channel(name=f"c{n}", kind="other") for n in range(3))
    return Question(reader="raster", channels=named, files=files, labels={"background": 0, "a": 1})


def names(folder: Path, files: list[str], per_case: int) -> dict[str, list[str]]:
    for name in files:
        (folder / name).touch()
    return {stem: [f.name for f in found] for stem, found in inputs(folder, question(per_case)).items()}


def test_channel_files_make_one_case_in_their_order(tmp_path: Path) -> None:
    found = names(tmp_path, ["a_0001.tif", "a_0000.tif", "b.tif", "._a_0000.tif", ".DS_Store", "notes.txt"], 2)
    assert found == {"a": ["a_0000.tif", "a_0001.tif"], "b": ["b.tif"]}


def test_a_suffix_of_one_file_is_dropped(tmp_path: Path) -> None:
    assert names(tmp_path, ["a_0000.tif", "b_0000.tif"], 1) == {"a": ["a_0000.tif"], "b": ["b_0000.tif"]}


def test_numbered_tiles_with_all_their_bands_are_cases_of_their_own(tmp_path: Path) -> None:
    found = names(tmp_path, [f"t_000{number}.tif" for number in range(3)], 1)
    assert list(found) == ["t_0000", "t_0001", "t_0002"]


def test_years_are_no_channels(tmp_path: Path) -> None:
    found = names(tmp_path, ["scene_2023.tif", "scene_2024.tif"], 1)
    assert found == {"scene_2023": ["scene_2023.tif"], "scene_2024": ["scene_2024.tif"]}


def test_two_inputs_of_one_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="two images are called 'a'"):
        names(tmp_path, ["a.tif", "a.png"], 1)


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p])
def test_nothing_to_predict_is_told(tmp_path: Path, make) -> None:
    with pytest.raises(BadUsage, match=r"no such file|holds no image"):
        inputs(make(tmp_path), question(1))


def test_a_plugin_of_other_contents_is_not_the_one() -> None:
    run = Run.model_construct(plugins={"mine.py": "a" * 64})
    require_plugins(run, {"mine.py": "a" * 64, "other.py": "b" * 64})
    with pytest.raises(BadUsage, match=r"was not given: mine\.py"):
        require_plugins(run, {})
    with pytest.raises(BadUsage, match=r"is another version of mine\.py"):
        require_plugins(run, {"mine.py": "b" * 64})


def test_a_file_of_another_ending_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.dat").touch()
    with pytest.raises(BadUsage, match="is no image of this task"):
        inputs(tmp_path / "a.dat", question(1))
