"""Globs to a dataset: pairs by name, channels, classes; nothing is guessed that is not unambiguous."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from autoseg.errors import BadUsage
from autoseg.layouts import from_globs, native, read_task
from autoseg.layouts.pairing import cases_of, pair
from autoseg.readers.raster import Raster
from autoseg.steps.cases import load

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def save(path: Path, values: object, bands: int = 1, alpha: bool = False) -> None:
    array = np.broadcast_to(np.asarray(values, dtype=np.uint8), (bands, 2, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(path, "w", driver=driver, count=bands, height=2, width=2, dtype="uint8") as target:
        if bands == 4 and driver == "GTiff" and not alpha:
            target.colorinterp = [ColorInterp.undefined] * 4
        target.write(array)


def pictures(folder: Path, image: str, label: str, count: int = 3, bands: int = 3) -> tuple[list[str], list[str]]:
    for number in range(1, count + 1):
        save(folder / "im" / image.format(number), number, bands)
        save(folder / "la" / label.format(number), [[0, 0], [0, 255]])
    return [str(folder / "im/*")], [str(folder / "la/*")]


def test_added_then_read_back(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "img_{:03d}.png", "mask_{:03d}.png")
    dataset, faults = from_globs("T", *globs, labels_map="255=road,0=background", group=r"\d")
    assert faults == () and dataset.name == "T" and dataset.reader == "raster"
    assert dataset.labels == {"road": 255, "background": 0}
    assert [channel.name for channel in dataset.channels] == ["R", "G", "B"]
    assert {channel.kind for channel in dataset.channels} == {"rgb"}
    assert dataset.cases[1].id == "img_002" and dataset.cases[1].group == "0"
    assert dataset.cases[1].label == str(tmp_path / "la/mask_002.png")
    (tmp_path / "dataset.json").write_text(native.dump(dataset))
    assert read_task(tmp_path) == (dataset, ())


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["img_1", "img_2", "img_12"], ["mask_1", "mask_2", "mask_12"]),
        (["img_1", "img_2", "img_12"], ["1_mask", "2_mask", "12_mask"]),
        (["img_1", "img_2", "img_12"], ["gt001", "gt002", "gt012"]),
        (["x_image", "y_image"], ["x_label", "y_label"]),
        (["x_image"], ["y_label"]),
        (["Ghana_83_S1Hand", "India_9_S1Hand"], ["Ghana_83_LabelHand", "India_9_LabelHand"]),
        (["p1_img_s1", "p1_img_s2", "p2_img_s1"], ["p1_seg_s1", "p1_seg_s2", "p2_seg_s1"]),
        (["a (1)", "a (2)"], ["a (1)_mask", "a (2)_mask"]),
        (["scan-7-raw", "scan-8-raw"], ["007_label", "008_label"]),
    ],
)
def test_names_that_pair(images: list[str], labels: list[str]) -> None:
    assert pair(images, labels[::-1]) == dict(zip(images, labels, strict=True))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["img_1", "img_2"], ["mask_2", "mask_3"]),
        (["a", "b"], ["x", "y"]),
        (["img_1", "img_01"], ["mask_1", "mask_2"]),
        (["a_1_2", "a_2_1"], ["m_12", "m_21"]),
    ],
)
def test_names_that_do_not_pair(images: list[str], labels: list[str]) -> None:
    with pytest.raises(BadUsage, match=images[0]):
        pair(images, labels)


def test_orphans_are_faults(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.png", "{}.png")
    save(tmp_path / "im/x.png", 1, 3)
    save(tmp_path / "la/y.png", 1)
    dataset, faults = from_globs("T", *globs)
    assert len(dataset.cases) == 3
    assert [(f.case, f.fault, f.fatal) for f in faults] == [("x", "orphan image", False), ("y", "orphan label", False)]


def test_labels_beside_their_images_and_folders_of_one_name(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        save(tmp_path / patient / "scan.png", 1, 3)
        save(tmp_path / patient / "scan_mask.png", [[0, 1], [0, 0]])
        (tmp_path / patient / "._scan.png").touch()
    dataset, _ = from_globs("T", [str(tmp_path / "**/*.png")], [str(tmp_path / "**/*_mask.png")])
    assert [(case.id, Path(case.labels["reference"]).parent.name) for case in dataset.cases] == [
        ("p1_scan", "p1"),
        ("p2_scan", "p2"),
    ]
    assert dataset.labels == {"background": 0, "class_1": 1}


def test_suffixed_files_are_channels_and_numbers_are_not(tmp_path: Path) -> None:
    channels = [Path(f"{case}_{number:04d}.nii.gz") for case in "ab" for number in range(2)]
    assert {case: len(files) for case, files in cases_of(channels, 2).items()} == {"a": 2, "b": 2}
    frames = [Path(f"frame_{number:04d}.png") for number in range(4)]
    assert list(cases_of(frames, 4)) == [f"frame_{number:04d}" for number in range(4)]


def test_named_channels(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.tif", "{}.png", bands=4)
    dataset, _ = from_globs("T", *globs, channels="red, NIR,x=db,VV=other")
    assert [(c.name, c.kind) for c in dataset.channels] == [
        ("red", "reflectance"),
        ("NIR", "reflectance"),
        ("x", "db"),
        ("VV", "other"),
    ]
    assert [c.name for c in from_globs("T", *globs)[0].channels] == [f"channel{n}" for n in range(4)]
    for channels, message in (("a,b", "2 channels.*4 names"), ("a,b,c,", "4 names"), ("a=zz,b,c,d", "kind 'zz'")):
        with pytest.raises(BadUsage, match=message):
            from_globs("T", *globs, channels=channels)


def test_a_band_that_is_marked_as_alpha_is_told(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.tif", "{}.png")
    for number in (1, 2, 3):
        save(tmp_path / f"im/{number}.tif", number, 4, alpha=True)
    dataset, faults = from_globs("T", *globs)
    assert [c.name for c in dataset.channels] == ["R", "G", "B"]
    assert [(f.fault, f.fatal) for f in faults] == [("alpha band", False)]
    with pytest.raises(BadUsage, match=r"3 names.*-colorinterp_4 undefined"):
        from_globs("T", *globs, channels="R,G,B,NIR")


def test_the_labels_map(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.png", "{}.png")
    dataset, _ = from_globs("T", *globs, labels_map="0=dry, 1=wet,2=wet,255=ignore")
    assert (dataset.labels, dataset.merged, dataset.ignore) == ({"dry": 0, "wet": 1}, {2: 1}, 255)
    for text in ("0", "a=b", "0=a,0=b", "0=ignore,1=ignore,2=a,3=b", "0=", "0=a"):
        with pytest.raises(BadUsage):
            from_globs("T", *globs, labels_map=text)


def test_groups_and_sites_of_a_table(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "img_{:03d}.png", "mask_{:03d}.png")
    table = tmp_path / "cases.csv"
    table.write_text("image;patient;clinic\nimg_001.png;p1;A\nimg_002.png;p1;B\nimg_003.png;;B\n")
    dataset, _ = from_globs("T", *globs, groups=f"{table}:patient", sites=f"{table}:clinic")
    assert [(case.group, case.site) for case in dataset.cases] == [("p1", "A"), ("p1", "B"), (None, "B")]
    dataset, _ = from_globs("T", *globs, group=r"\d\d$", sites=f"{table}:clinic:image")
    assert [(case.group, case.site) for case in dataset.cases] == [("01", "A"), ("02", "B"), ("03", "B")]
    with pytest.raises(BadUsage, match="--site, --sites: the site is asked for twice; give one of them"):
        from_globs("T", *globs, site="a", sites=f"{table}:clinic")
    with pytest.raises(BadUsage, match=r"--groups: .*cases.csv: has no column 'pat'"):
        from_globs("T", *globs, groups=f"{table}:pat")


def test_a_labels_map_of_regions(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.png", "{}.png")
    text = "0=background,1=whole,2=whole + core,4=whole+core+enhancing,255=ignore"
    dataset, _ = from_globs("T", *globs, labels_map=text)
    assert dataset.regions == {"whole": (1, 2, 4), "core": (2, 4), "enhancing": (4,)} and dataset.written == (1, 2, 4)
    assert dataset.outputs == ("whole", "core", "enhancing") and dataset.ignore == 255
    assert dataset.labels == {"background": 0, "value 1": 1, "value 2": 2, "enhancing": 4}
    for text, message in (("0=dry,1=a+", "'1=a\\+'"), ("0=dry,1=grass+shrub", "the same values")):
        with pytest.raises(BadUsage, match=message):
            from_globs("T", *globs, labels_map=text)


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.tif", "{}.tif")
    with rasterio.open(tmp_path / "la/1.tif", "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8") as target:
        target.write(np.arange(81, dtype=np.uint8)[None].reshape(1, 9, 9))
    with pytest.raises(BadUsage, match=r"81 distinct values by 1.tif.*--labels-map"):
        from_globs("T", *globs)
    for array, message in ((np.full((1, 2, 2), 0.5), "0.5 among"), (np.full((1, 2, 2), -1.0), "value -1.*=ignore")):
        with rasterio.open(
            tmp_path / "la/1.tif", "w", driver="GTiff", count=1, height=2, width=2, dtype="float64"
        ) as target:
            target.write(array)
        with pytest.raises(BadUsage, match=message):
            from_globs("T", *globs)
    for number in (1, 2, 3):
        save(tmp_path / f"la/{number}.tif", 0)
    with pytest.raises(BadUsage, match="only value in all labels is 0"):
        from_globs("T", *globs)


def test_globs_that_match_nothing(tmp_path: Path) -> None:
    images, labels = pictures(tmp_path, "{}.png", "{}.png")
    (tmp_path / "notes.txt").touch()
    for nothing in (str(tmp_path / "nothing/*"), "~nobody_of_that_name/*.png"):
        with pytest.raises(BadUsage, match="--images: no file matches"):
            from_globs("T", [nothing], labels)
    with pytest.raises(BadUsage, match=r"--labels.*notes.txt.*expected one of .nii.gz"):
        from_globs("T", images, [str(tmp_path / "notes.txt")])
    with pytest.raises(BadUsage, match="labels too"):
        from_globs("T", labels, labels)
    with pytest.raises(BadUsage, match=r"--group.*no regular expression"):
        from_globs("T", images, labels, group="(")


def test_labels_in_colours_are_added_by_the_map_that_their_refusal_names(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.png", "{}.png")
    for number in (1, 2, 3):
        colours = np.zeros((3, 2, 2), np.uint8)
        colours[:, 0, 0] = 60, 16, 10 * number
        save(tmp_path / f"la/{number}.png", colours, 3)
    with pytest.raises(BadUsage, match="4 colours") as refused:
        from_globs("T", *globs)
    text = str(refused.value).split("'")[1]
    assert text.startswith("#000000=background,#3c10")
    dataset, _ = from_globs("T", *globs, labels_map=text)
    assert dataset.labels == {"background": 0, "class_2": 1, "class_3": 2, "class_4": 3}
    assert dataset.colours == {"#000000": 0, "#3c100a": 1, "#3c1014": 2, "#3c101e": 3}
    assert load(Path(), dataset.cases[1], dataset).label.tolist() == [[2, 0], [0, 0]]
    (tmp_path / "dataset.json").write_text(native.dump(dataset))
    assert read_task(tmp_path) == (dataset, ())


@pytest.mark.real
def test_real_colours(real: Path) -> None:
    dubai = real / "Dubai_Aerial"
    globs = [str(dubai / "imagesTr/tile[12]*.jpg")], [str(dubai / "masks_colour_original/*.png")]
    with pytest.raises(BadUsage, match=r"by 6 colours.*#3c1098=class_4"):
        from_globs("D", *globs)
    text = "155/155/155=ignore,#e2a929=water,132/41/246=land,#6EC1E4=road,#3c1098=building,#fedd3a=vegetation"
    dataset, _ = from_globs("D", *globs, labels_map=text)
    for case in dataset.cases[::5]:
        found = load(Path(), case, dataset).label
        known = Raster().read_label(dubai / f"labelsTr/{case.id}.png").array[0]
        assert np.array_equal(np.where(found == 255, 0, found), known)


@pytest.mark.real
def test_real_folders(real: Path) -> None:
    floods = real / "Sen1Floods11_sample"
    classes = "0=dry,1=water,-1=ignore"
    dataset, faults = from_globs("F", [str(floods / "S1/*")], [str(floods / "labels")], labels_map=classes)
    assert len(dataset.cases) == 6 and faults == () and dataset.ignore == -1
    roads = real / "EPFL_Roads"
    with pytest.raises(BadUsage, match="anti-aliased"):
        from_globs("R", [str(roads / "imagesTr/*.png")], [str(roads / "groundtruth_original/*.png")])


def test_the_first_image_may_be_damaged(tmp_path: Path) -> None:
    globs = pictures(tmp_path, "{}.png", "{}.png")
    (tmp_path / "im" / "1.png").write_bytes(b"no picture")
    dataset, _ = from_globs("T", *globs, labels_map="0=background,255=road")
    assert len(dataset.cases) == 3 and len(dataset.channels) == 3


def test_labels_of_several_raters(tmp_path: Path) -> None:
    images, labels = pictures(tmp_path, "img_{:02d}.png", "mask_{:02d}.png")
    for number in (1, 3, 9):
        save(tmp_path / "second" / f"img_{number:02d}.png", [[0, 0], [255, 255]])
    second = f"second observer={tmp_path / 'second/*'}"
    dataset, faults = from_globs("T", images, [f"first={labels[0]}", second])
    assert [list(case.labels) for case in dataset.cases] == [
        ["first", "second observer"],
        ["first"],
        ["first", "second observer"],
    ]
    assert dataset.cases[2].labels["second observer"] == str(tmp_path / "second/img_03.png")
    assert [fault.fault for fault in faults] == ["orphan label"] and "img_09" in faults[0].detail
    question = dataset.question()
    assert question.raters == ("first", "second observer")
    case = load(tmp_path, dataset.cases[2], question)
    assert case.rater == 0 and case.label is not None and case.label.sum() == 255 and case.others[1].sum() == 510
    (tmp_path / "dataset.json").write_text(native.dump(dataset))
    assert read_task(tmp_path)[0] == dataset


def test_a_path_with_an_equals_sign_is_no_rater(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "site=A", "img_{:02d}.png", "mask_{:02d}.png")
    monkeypatch.chdir(tmp_path)
    dataset, _ = from_globs("T", ["site=A/im/*"], ["site=A/la/*"])
    assert [list(case.labels) for case in dataset.cases] == [["reference"]] * 3 and dataset.question().raters == ()
