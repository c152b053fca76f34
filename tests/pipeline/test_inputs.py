"""Which files of a folder are one image, of whatever format, and what is wrong with those that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import BadUsage
from autoseg.pipeline.inputs import Jobs, inputs
from autoseg.records import Channel, Question
from tests.readers.slices import PATIENT, write_series

VOLUME = np.zeros((3, 4, 5), np.int16)


def question(files: int, reader: str = "raster", channels: tuple[str, ...] = ("c0", "c1", "c2")) -> Question:
    named = tuple(Channel(name=name, kind="other") for name in channels)
    return Question(reader=reader, channels=named, files=files, labels={"background": 0, "a": 1})


def made(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def shown(jobs: Jobs) -> dict[str, list[str]]:
    return {job.stem: [file.name for file in job.files] for job in jobs.jobs}


def names(folder: Path, files: list[str], per_case: int) -> dict[str, list[str]]:
    found = inputs(made(folder, *files), question(per_case))
    assert not found.faults
    return shown(found)


def test_channel_files_make_one_case_in_their_order(tmp_path: Path) -> None:
    found = names(tmp_path, ["a_0001.tif", "a_0000.tif", "b.tif", "._a_0000.tif", ".DS_Store", "notes.txt"], 2)
    assert found == {"a": ["a_0000.tif", "a_0001.tif"], "b": ["b.tif"]}


def test_one_channel_file_stands_for_its_image(tmp_path: Path) -> None:
    folder = made(tmp_path, "a_0000.tif", "a_0001.tif", "b_0000.tif", "whole.tif")
    assert shown(inputs(folder / "a_0001.tif", question(2))) == {"a": ["a_0000.tif", "a_0001.tif"]}
    assert shown(inputs(folder / "whole.tif", question(2))) == {"whole": ["whole.tif"]}
    assert "lacks the channel" in inputs(folder / "b_0000.tif", question(2)).faults["b"]


def test_a_suffix_of_one_file_is_dropped(tmp_path: Path) -> None:
    assert names(tmp_path, ["a_0000.tif", "b_0000.tif"], 1) == {"a": ["a_0000.tif"], "b": ["b_0000.tif"]}


def test_a_suffix_that_tells_two_files_apart_is_kept(tmp_path: Path) -> None:
    assert names(tmp_path, ["a_0000.tif", "a.tif"], 1) == {"a": ["a.tif"], "a_0000": ["a_0000.tif"]}


def test_numbered_tiles_with_all_their_bands_are_cases_of_their_own(tmp_path: Path) -> None:
    found = names(tmp_path, [f"t_000{number}.tif" for number in range(3)], 1)
    assert list(found) == ["t_0000", "t_0001", "t_0002"]


@pytest.mark.parametrize("per_case", [1, 2])
def test_years_are_no_channels(tmp_path: Path, per_case: int) -> None:
    found = names(tmp_path, ["scene_2023.tif", "scene_2024.tif"], per_case)
    assert found == {"scene_2023": ["scene_2023.tif"], "scene_2024": ["scene_2024.tif"]}


@pytest.mark.parametrize(
    ("files", "per_case"),
    [(("a.tif", "a.png"), 1), (("a_0000.tif", "a_0000.png"), 1), (("a_0000.tif", "a_0000.png"), 2)],
)
def test_two_inputs_of_one_output_are_refused_with_both_names(
    tmp_path: Path, files: tuple[str, str], per_case: int
) -> None:
    with pytest.raises(BadUsage, match=f"two images are called 'a(_0000)?': {files[1]} and {files[0]}"):
        names(tmp_path, [*files], per_case)


def test_a_whole_file_and_its_channels_are_two_images_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"two images are called 'a': a\.tif and a_0000\.tif"):
        names(tmp_path, ["a.tif", "a_0000.tif", "a_0001.tif"], 2)


@pytest.mark.parametrize("reader", ["raster", "nifti"])
def test_nothing_to_predict_is_told(tmp_path: Path, reader: str) -> None:
    for source, message in ((tmp_path / "nowhere", "no such file or folder"), (tmp_path, "holds no image")):
        with pytest.raises(BadUsage, match=message):
            inputs(source, question(1, reader))


def test_a_file_of_another_ending_is_no_image(tmp_path: Path) -> None:
    for reader in ("raster", "nifti"):
        with pytest.raises(BadUsage, match="is no image of this task"):
            inputs(made(tmp_path, "a.dat") / "a.dat", question(1, reader))
    with pytest.raises(BadUsage, match="is no image of this task"):
        inputs(made(tmp_path, "a.nrrd") / "a.nrrd", question(1))


# -- mixed formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["nifti", "itk", "dicom"])
def test_volumes_come_in_any_mixture(tmp_path: Path, reader: str) -> None:
    made(tmp_path, "a.nii.gz", "b.nii", "c.NRRD", "d.mha", "e.mhd", "e.raw", "f.tif", "sub/g.nii.gz")
    write_series(tmp_path / "p" / "ct", VOLUME, np.eye(3))
    found = inputs(tmp_path, question(1, reader))
    assert {job.stem: (job.reader, job.ending) for job in found.jobs} == {
        "a": ("nifti", ".nii.gz"), "b": ("nifti", ".nii"), "c": ("itk", ".nrrd"), "d": ("itk", ".mha"),
        "e": ("itk", ".mha"), "p_ct": ("dicom", ".nii.gz"),
    }  # fmt: skip
    assert not found.faults and not found.notes


def test_pictures_come_in_any_mixture_and_volumes_are_none(tmp_path: Path) -> None:
    made(tmp_path, "a.tif", "b.PNG", "c.jpg", "d.nii.gz")
    write_series(tmp_path / "ct", VOLUME, np.eye(3))
    found = inputs(tmp_path, question(1))
    assert {job.stem: (job.reader, job.ending) for job in found.jobs} == {
        "a": ("raster", ".tif"), "b": ("raster", ".png"), "c": ("raster", ".png")
    }  # fmt: skip


def test_a_folder_may_be_a_series(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", VOLUME, np.eye(3), heights=[0, 1, 4], names={0: "z.dcm", 1: "a"})
    (job,) = inputs(tmp_path / "ct", question(1, "nifti")).jobs
    assert (job.stem, job.files, job.reader, job.ending) == ("ct", tuple(files), "dicom", ".nii.gz")
    assert job.notes[0].startswith("slices are 1 to 3 mm apart") and job.notes[1] == "one slice seems to be missing"
    for file in files[:2]:
        (job,) = inputs(file, question(1, "nifti")).jobs
        assert (job.stem, job.files, job.reader) == (file.name.removesuffix(".dcm"), (file,), "dicom")


def test_series_of_one_folder_are_told_apart_without_the_patient(tmp_path: Path) -> None:
    for number in (4, 11):
        write_series(
            tmp_path / "s", VOLUME, np.eye(3), names={n: f"{number}-{n}" for n in range(3)},
            SeriesInstanceUID=f"2.25.{number}", SeriesNumber=number,
        )  # fmt: skip
        write_series(
            tmp_path / "t", VOLUME, np.eye(3), names={n: f"{number}-{n}" for n in range(3)},
            SeriesInstanceUID=f"2.25.9{number}", SeriesNumber=None,
        )  # fmt: skip
    found = inputs(tmp_path, question(1, "nifti"))
    stems = [job.stem for job in found.jobs]
    assert stems[:2] == ["s_series11", "s_series4"]
    assert len({*stems}) == 4 and all(stem.startswith("t_") and len(stem) == 10 for stem in stems[2:])
    assert not any(word in repr((stems, found.notes, [job.notes for job in found.jobs])) for word in PATIENT)
    assert stems == [job.stem for job in inputs(tmp_path, question(1, "nifti")).jobs]


def test_a_series_that_cannot_be_read_is_a_fault_and_others_go_on(tmp_path: Path) -> None:
    made(tmp_path, "a.nii.gz")
    write_series(tmp_path / "twice", VOLUME, np.eye(3), heights=[0, 0, 1])
    write_series(tmp_path / "scout", VOLUME, np.eye(3), SeriesInstanceUID="2.25.5", ImageType="LOCALIZER")
    found = inputs(tmp_path, question(1, "nifti"))
    assert [job.stem for job in found.jobs] == ["a"] and list(found.faults) == ["twice"]
    assert "lie at one place" in found.faults["twice"]
    assert found.notes == ("left out: a localiser (scout)",)
    with pytest.raises(BadUsage, match=r"holds no image; left out: a localiser"):
        inputs(tmp_path / "scout", question(1, "nifti"))


def test_a_series_and_a_file_of_one_name_are_refused(tmp_path: Path) -> None:
    made(tmp_path, "p_ct.nrrd")
    write_series(tmp_path / "p" / "ct", VOLUME, np.eye(3))
    with pytest.raises(BadUsage, match=r"two images are called 'p_ct': p_ct\.nrrd and p/ct"):
        inputs(tmp_path, question(1, "nifti"))


# -- channels ------------------------------------------------------------------------------------------

BRAIN = ("T1", "T1 post", "FLAIR")


def test_channels_are_matched_by_name_in_the_order_of_the_task(tmp_path: Path) -> None:
    files = ["c_FLAIR.nii.gz", "c_T1.nii.gz", "c_T1_post.nii.gz", "d_e_flair.nii", "d_e_t1-POST.nii", "d_e_t1.nii"]
    made(tmp_path, *files, "f_0000.mha", "f_0002.mha", "f_0001.mha", "g.nrrd")
    found = inputs(tmp_path, question(3, "nifti", BRAIN))
    assert shown(found) == {
        "c": ["c_T1.nii.gz", "c_T1_post.nii.gz", "c_FLAIR.nii.gz"],
        "d_e": ["d_e_t1.nii", "d_e_t1-POST.nii", "d_e_flair.nii"],
        "f": ["f_0000.mha", "f_0001.mha", "f_0002.mha"],
        "g": ["g.nrrd"],
    }
    assert not found.faults


def test_of_two_names_that_fit_the_longer_one_counts(tmp_path: Path) -> None:
    made(tmp_path, "c_T1.nii", "c_post.nii", "c_T1_post.nii")
    for channels in (("T1", "post", "T1 post"), ("T1 post", "post", "T1")):
        (job,) = inputs(tmp_path, question(3, "nifti", channels)).jobs
        assert job.stem == "c" and [file.stem for file in job.files] == ["c_" + n.replace(" ", "_") for n in channels]


def test_channels_may_be_series_in_folders_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("FLAIR", "t1")):
        write_series(tmp_path / "p" / name, VOLUME, np.eye(3), SeriesInstanceUID=f"2.25.{number}")
    (job,) = inputs(tmp_path, question(2, "nifti", ("T1", "FLAIR"))).jobs
    assert job.stem == "p" and [file.parent.name for file in job.files] == ["t1"] * 3 + ["FLAIR"] * 3


def test_a_case_that_lacks_a_channel_is_named_with_it_and_others_go_on(tmp_path: Path) -> None:
    made(tmp_path, "a_T1.nii", "a_FLAIR.nii", "b_0000.nii", "b_0002.nii", "c.nii", "d_0000.nii", "e_T1.nii")
    found = inputs(tmp_path, question(3, "nifti", BRAIN))
    assert shown(found) == {"c": ["c.nii"]} and list(found.faults) == ["a", "b", "d", "e"]
    assert "a_FLAIR.nii" in found.faults["a"] or "a_T1.nii" in found.faults["a"]
    for stem, lacking in (("a", "T1 post"), ("b", "T1 post"), ("d", "T1 post, FLAIR"), ("e", "T1 post, FLAIR")):
        assert f"lacks the channel {lacking};" in found.faults[stem]
        assert f"expected a file {stem}_0001 or {stem}_T1 post beside it" in found.faults[stem]


def test_where_one_file_holds_all_channels_a_name_alone_is_no_channel(tmp_path: Path) -> None:
    made(tmp_path, "a_red.tif", "b_red.tif", "b_green.tif", "b_blue.tif")
    found = inputs(tmp_path, question(1, "raster", ("red", "green", "blue")))
    assert shown(found) == {"a_red": ["a_red.tif"], "b": ["b_red.tif", "b_green.tif", "b_blue.tif"]}


def test_the_name_of_a_single_channel_stays_in_the_stem(tmp_path: Path) -> None:
    found = inputs(made(tmp_path, "a_mr.nii.gz"), question(1, "nifti", ("mr",)))
    assert shown(found) == {"a_mr": ["a_mr.nii.gz"]}


def test_channels_of_different_formats_are_a_fault(tmp_path: Path) -> None:
    found = inputs(made(tmp_path, "a_0000.nii", "a_0001.nrrd", "b_0000.nii", "b_0001.nii"), question(2, "nifti"))
    assert list(shown(found)) == ["b"] and "different formats: a_0000.nii, a_0001.nrrd" in found.faults["a"]
