"""Folds by blocks of the map: whole blocks, and no training tile in the buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import BadUsage
from autoseg.layouts import extend_folds
from autoseg.layouts.blocks import DEGREES, PLANE, Blocks, Tiles, tiles_of
from autoseg.layouts.folds import block_folds
from autoseg.layouts.units import leaks
from autoseg.records import CaseFiles, Folds


def cases_of(*ids: str, groups: Mapping[str, str] | None = None) -> list[CaseFiles]:
    return [CaseFiles(id=id, images=(f"{id}.tif",), group=(groups or {}).get(id)) for id in ids]


def names(count: int) -> list[str]:
    return [f"case_{number:02d}" for number in range(count)]


places = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=6, max_size=40, unique=True)


def tiles_at(corners: Sequence[tuple[int, int]], edge: float = 100.0) -> Tiles:
    """Square tiles whose south-western corners lie at multiples of the edge, in metres."""
    bounds = np.array([(x, y, x + 1, y + 1) for x, y in corners], float) * edge
    return Tiles(tuple(names(len(corners))), bounds.reshape(-1, 4), PLANE)


def gap(one: tuple[int, int], other: tuple[int, int], edge: float = 100.0) -> float:
    return edge * float(np.hypot(*(max(0, abs(a - b) - 1) for a, b in zip(one, other, strict=True))))


@settings(max_examples=60)
@given(places, st.sampled_from([200.0, 400.0, 1000.0]), st.sampled_from([0.0, 50.0, 100.0, 250.0]))
def test_no_training_tile_lies_in_the_buffer(corners: list[tuple[int, int]], size: float, buffer: float) -> None:
    cases, tiles = cases_of(*names(len(corners))), tiles_at(corners)
    at = dict(zip(tiles.ids, corners, strict=True))
    try:
        made = block_folds(cases, tiles, Blocks(size, buffer), 4)
    except BadUsage as problem:
        assert "one block" in str(problem) or "nothing is left" in str(problem)
        return
    require_distance(made, at, buffer)
    for held_out in made.folds:
        inside = {tiles.blocks(size)[id] for id in held_out}
        assert inside.isdisjoint(tiles.blocks(size)[id] for ids in made.folds if ids != held_out for id in ids)


def require_distance(folds: Folds, at: Mapping[str, tuple[int, int]], buffer: float) -> None:
    """Every tile validates once, and a fold trains on exactly the others that are not near its own."""
    assert sorted(id for fold in folds.folds for id in fold) == sorted(at)
    for fold in range(len(folds.folds)):
        training, held_out = folds.split(fold)
        near = {id for id in at if any(gap(at[id], at[other]) < buffer for other in held_out)}
        assert set(training) == set(at) - near - set(held_out)


def test_new_tiles_join_their_block_and_keep_their_distance() -> None:
    corners = [(0, 0), (1, 0), (6, 0), (7, 0), (1, 1), (4, 1), (12, 0)]
    everyone, tiles = cases_of(*names(7)), tiles_at(corners)
    blocks = Blocks(500, 150)
    old = block_folds(everyone[:4], tiles_at(corners[:4]), blocks, 2)
    assert sorted(old.folds) == [("case_00", "case_01"), ("case_02", "case_03")] and old.apart == ()
    new = extend_folds(old, everyone, tiles=tiles)
    first = next(fold for fold in new.folds if "case_00" in fold)
    assert first[:3] == ("case_00", "case_01", "case_04") and new.by == "blocks:500:150"
    assert all(fold[: len(kept)] == kept for fold, kept in zip(new.folds, old.folds, strict=True))
    require_distance(new, dict(zip(tiles.ids, corners, strict=True)), 150)
    assert sum(map(len, new.apart)) == 2  # case_05 and case_02 lie 100 m apart


def test_groups_are_kept_whole_across_blocks() -> None:
    cases = cases_of(*names(4), groups={"case_00": "scene", "case_03": "scene"})
    made = block_folds(cases, tiles_at([(0, 0), (10, 0), (20, 0), (30, 0)]), Blocks(500, 0), 3)
    assert ("case_00", "case_03") in made.folds and leaks(made, cases) == []


def test_the_rule_of_blocks_tells_what_is_left_out() -> None:
    row = tiles_at([(x, 0) for x in range(10)])
    made = block_folds(cases_of(*names(10)), row, Blocks(500, 150), 2)
    assert made.rule.startswith("2 blocks of 500 m dealt by KFold over the sorted blocks")
    assert made.rule.endswith("; up to 2 tiles that lie nearer than 150 m to those of a fold are not trained on in it")
    assert block_folds(cases_of(*names(10)), row, Blocks(500, 0), 2).rule.endswith(
        "no tiles overlap those of another fold"
    )


def test_blocks_and_buffers_that_leave_nothing() -> None:
    cases, tiles = cases_of(*names(4)), tiles_at([(0, 0), (1, 0), (2, 0), (3, 0)])
    with pytest.raises(BadUsage, match=r"all 4 tiles lie in one block of 9 km; give a smaller size"):
        block_folds(cases, tiles, Blocks(9000, 0), 2)
    with pytest.raises(BadUsage, match=r"buffer of 5 km nothing is left to train fold 0; give a smaller buffer"):
        block_folds(cases, tiles, Blocks(200, 5000), 2)


def test_scenes_of_the_amazon(real: Path) -> None:
    files = sorted((real / "Amazon_Forest_GeoTIFF" / "imagesTr").glob("*.tif"))
    cases = [CaseFiles(id=file.stem, images=(str(file),)) for file in files]
    tiles = tiles_of(real, cases)
    assert tiles.grid is DEGREES and len(tiles.ids) == 29 and len(set(tiles.blocks(100_000).values())) == 28
    # 8.99e-05 and 9e-05 degrees per pixel: 512 of them are about 5 km
    assert np.allclose(np.ptp(tiles.bounds[:, 1::2], axis=1) * 111_000, 5120, rtol=0.01)
    made = block_folds(cases, tiles, Blocks(300_000, 100_000))
    assert len(made.folds) == 5 and "up to 1 tiles that lie nearer than 100 km" in made.rule
