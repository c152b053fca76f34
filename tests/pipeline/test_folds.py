"""The folds of a task as a user asks for them: drawn once, extended, never changed in silence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.transform import Affine

from autoseg.cli import main
from autoseg.errors import BadTask, BadUsage
from autoseg.pipeline.folds import FoldsWish, folds_of
from autoseg.records import CaseFacts, CaseFiles, Channel, Dataset, Fingerprint, Folds, digest
from autoseg.store import Home, save_record

TASK = "Task01_A"


class Voice:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def status(self, *parts: str) -> None: ...

    def track(self, items: Iterable[Any], total: int, label: str, done: int = 0) -> Iterator[Any]:
        yield from items


def dataset_of(ids: Sequence[str], reader: str = "raster", **fields: Sequence[str | None]) -> Dataset:
    given = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)] or [{}] * len(ids)
    cases = [CaseFiles(id=id, images=(f"{id}.tif",), **some) for id, some in zip(ids, given, strict=True)]
    channels, labels = (Channel(name="a", kind="other"),), {"background": 0, "road": 1}
    return Dataset(name=TASK, reader=reader, channels=channels, labels=labels, cases=tuple(cases))


def drawn(home: Path, dataset: Dataset, with_road: Sequence[str] = (), **wish: Any) -> tuple[Folds, str]:
    """The folds as `plan` would leave them, and what was said."""
    facts = {case.id: CaseFacts(sha256="", voxels={"road": int(case.id in with_road)}) for case in dataset.cases}
    measured, voice, there = Fingerprint(question="", flat=True, cases=facts), Voice(), Home(home)
    made = folds_of(there, TASK, dataset, measured, voice, FoldsWish(**wish))
    save_record(there.folds_file(TASK), made)
    return made, "\n".join(voice.said)


IDS = [f"c{number}" for number in range(8)]


def test_folds_are_drawn_once_and_told(home: Path) -> None:
    dataset = dataset_of(IDS)
    first, said = drawn(home, dataset, IDS, count=4)
    assert len(first.folds) == 4 and said == f"4 folds: {first.rule}"
    for again in ({}, {"count": 4}, {"by": "groups"}):
        assert drawn(home, dataset, IDS, **again) == (first, "")
    file = Home(home).folds_file(TASK)
    for other in ({"count": 3}, {"by": "site"}):
        with pytest.raises(BadTask, match=rf"other folds already: 4 by groups; remove {file}"):
            drawn(home, dataset_of(IDS, site=[*"AABBAABB"]), IDS, **other)
    assert Home(home).folds(TASK) == first


def test_the_classes_that_were_measured_decide(home: Path) -> None:
    plain, _ = drawn(home, dataset_of(IDS), IDS, count=4)
    Home(home).folds_file(TASK).unlink()
    with_road = [plain.folds[0][0], plain.folds[0][1], plain.folds[1][0], plain.folds[1][1]]
    made, said = drawn(home, dataset_of(IDS), with_road, count=4)
    assert [len(set(fold) & set(with_road)) for fold in made.folds] == [1] * 4 and "class 'road' in 1 of them" in said


def test_one_fold_per_site_and_a_new_one(home: Path) -> None:
    old, said = drawn(home, dataset_of(IDS, site=[*"AABBAABB"]), by="site")
    assert old.names == ("A", "B") and said == "2 folds: leave one site out: A, B"
    new, said = drawn(home, dataset_of([*IDS, "c8", "c9"], site=[*"AABBAABBCA"]))
    assert new.names == ("A", "B", "C") and new.folds[2] == ("c8",)
    assert "2 new cases joined" in said and "the site 'C' is new: fold 2 validates on its 1 cases" in said
    with pytest.raises(BadTask, match="8 of 8 cases have no site"):
        drawn(home, dataset_of(IDS), by="site")


def test_groups_that_are_named_later_are_told_to_leak(home: Path) -> None:
    drawn(home, dataset_of(IDS), count=4)
    _, said = drawn(home, dataset_of(IDS, group=["p"] * 8))
    assert said.startswith("the folds leak: 1 groups are trained on and validated on at once (c0); remove ")


def test_cases_that_are_gone_are_told_and_folds_of_another_task_refused(home: Path) -> None:
    old, _ = drawn(home, dataset_of(IDS))
    kept, said = drawn(home, dataset_of(IDS[1:]))
    assert kept == old and said == "1 cases of the folds are no longer in the task: c0"
    with pytest.raises(BadTask, match=r"none of its cases \(.*\) is in the task; remove .* to draw the folds anew"):
        drawn(home, dataset_of(["x", "y"]))


def save_tiles(folder: Path, corners: Sequence[int]) -> None:
    """Rasters c0.tif … of 80 m, whose western edges lie at these metres."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, x in enumerate(corners):
        place = {"crs": "EPSG:32633", "transform": Affine(10, 0, x, 0, -10, 80)}
        options = {"driver": "GTiff", "count": 1, "height": 8, "width": 8, "dtype": "uint8"}
        with rasterio.open(folder / f"c{number}.tif", "w", **options, **place) as target:
            target.write(np.zeros((1, 8, 8), np.uint8))


def test_blocks_are_kept_when_tiles_are_added(home: Path) -> None:
    folder = home / "datasets" / TASK
    save_tiles(folder, [0, 100, 1000, 1100, 2000, 2100])
    old, said = drawn(home, dataset_of(IDS[:6]), by="blocks:1km:50m", count=3)
    assert sorted(old.folds) == [("c0", "c1"), ("c2", "c3"), ("c4", "c5")] and old.by == "blocks:1000:50"
    assert said.startswith("3 folds: 3 blocks of 1 km dealt by KFold")
    save_tiles(folder, [0, 100, 1000, 1100, 2000, 2100, 900])
    (folder / "c7.tif").write_bytes(b"damaged")
    new, said = drawn(home, dataset_of(IDS))
    home_of = {id: number for number, fold in enumerate(new.folds) for id in fold}
    assert home_of["c6"] == home_of["c0"] and "c7" not in home_of and "1 cases cannot be opened" in said
    assert "c2" in new.apart[home_of["c0"]] and "c6" in new.apart[home_of["c2"]]
    assert drawn(home, dataset_of(IDS[:7]), by="blocks:1000:50", count=3)[0] == new


def test_tiles_that_touch_across_folds_are_told(home: Path) -> None:
    save_tiles(home / "datasets" / TASK, [0, 80, 1000, 2000, 3000])
    _, said = drawn(home, dataset_of(IDS[:5]))
    assert "2 tiles touch or overlap tiles of other folds" in said and "--folds-by blocks:SIZE:BUFFER" in said
    Home(home).folds_file(TASK).unlink()
    _, said = drawn(home, dataset_of(IDS[:5], group=["p", "p", None, None, None]))
    assert "touch" not in said


def test_volumes_have_no_blocks(home: Path) -> None:
    with pytest.raises(BadTask, match="are read by nifti and have no map coordinates"):
        drawn(home, dataset_of(IDS, reader="nifti"), by="blocks:2km")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"by": "stie"}, "--folds-by: unknown rule 'stie'; expected groups, site or blocks:SIZE:BUFFER"),
        ({"by": "blocks:x"}, "spells no blocks"),
        ({"by": "site", "count": 3}, "--folds: there is one fold per site"),
        ({"splits": Path("x"), "count": 3}, "--splits, --folds: a file of splits says itself"),
        ({"force": True}, "--force-splits: there are no splits to force"),
    ],
)
def test_wishes_that_make_no_sense(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(BadUsage, match=message):
        FoldsWish(**wish)


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


PLAN = ("plan", "Task02", "--device", "cuda", "--memory", "8GB")


def test_plan_draws_as_many_folds_as_asked_and_cites_them(balls_2d: Path) -> None:
    assert run(balls_2d, *PLAN, "--folds", "1").exit_code == 2
    told = run(balls_2d, *PLAN, "--folds", "3", "--json")
    assert told.exit_code == 0, told.output
    folds = Home(balls_2d).folds("Task02_Discs")
    plan = json.loads(told.stdout)
    assert folds is not None and len(folds.folds) == 3
    assert plan["folds"] == digest(folds) and plan["because"]["folds"] == folds.rule
    other = json.loads(run(balls_2d, *PLAN, "--as", "other", "--json").stdout)
    assert other["folds"] == plan["folds"]
    told = run(balls_2d, *PLAN, "--folds", "4")
    assert told.exit_code == 2 and "other folds already: 3 by groups; remove" in told.stderr.replace("\n", " ")


def test_a_plan_that_fails_leaves_no_folds(balls_2d: Path) -> None:
    assert run(balls_2d, *PLAN, "--loss", "dize").exit_code == 2
    assert not Home(balls_2d).folds_file("Task02_Discs").exists()


def test_splits_that_leak_are_refused_unless_forced(balls_2d: Path) -> None:
    task, file = balls_2d / "datasets" / "Task02_Discs" / "dataset.json", balls_2d / "splits.json"
    task.write_text(json.dumps(json.loads(task.read_text()) | {"group": "disc"}))
    ids = [f"disc_{n:02d}" for n in range(10)]
    file.write_text(json.dumps([{"train": ids[5:], "val": ids[:5]}, {"train": ids[:5], "val": ids[5:]}]))
    told = run(balls_2d, *PLAN, "--splits", str(file))
    assert told.exit_code == 2 and "of group 'disc' are in different folds" in told.stderr
    told = run(balls_2d, *PLAN, "--splits", str(file), "--force-splits")
    assert told.exit_code == 0 and "forced, though 1 groups" in told.stderr.replace("\n", " ")
