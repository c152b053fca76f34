"""DICOM segmentation objects: what is written is the label, at the places of the slices."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import BadData, BadUsage
from autoseg.interop.dicom_seg import write_dicom_seg
from autoseg.readers.dicom import Dicom
from autoseg.readers.dicom_series import find_series
from autoseg.records import Channel, Question
from tests.readers.slices import PATIENT, write_series

VOLUME = np.random.default_rng(0).integers(-500, 500, (5, 6, 7)).astype(np.int16)
GRIDS = {
    "straight": np.diag([0.5, 0.75, 2.5]),
    "from top to bottom": np.diag([0.5, 0.75, -2.5]),
    "sagittal": np.array([[0, 0, 2.5], [0.5, 0, 0], [0, -0.75, 0]]),
    "oblique": np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) * (0.5, 0.75, 2.5),
}


def question(**more: object) -> Question:
    labels = {"background": 0, "liver": 2, "a tumour": 7}
    return Question(reader="dicom", channels=(Channel(name="ct", kind="ct"),), **{"labels": labels, **more})


def label_of(shape: tuple[int, ...], values: tuple[int, ...] = (0, 2, 7)) -> np.ndarray:
    label = np.random.default_rng(1).choice(values, shape).astype(np.uint8)
    label[2] = 0
    return label


def read_back(file: Path, segments: int, series: list[Path]) -> np.ndarray:
    """Masks (segments, z, y, x) in memory, frame by frame by the slice that each says it is of."""
    import highdicom as hd
    import pydicom

    names = [pydicom.dcmread(one, stop_before_pixels=True).SOPInstanceUID for one in series]
    seg = hd.seg.segread(file)
    frames = seg.get_pixels_by_source_instance(
        names, segment_numbers=list(range(1, segments + 1)), assert_missing_frames_are_empty=True
    )
    pixels = dict(zip(names, frames, strict=True))
    masks = []
    for number in range(segments):
        # through the reader: pixels that stand for the mask are read as a series, by position
        for one, name in zip(series, names, strict=True):
            header = pydicom.dcmread(one)
            header.PixelData = pixels[name][..., number].astype("<i2").tobytes()
            header.save_as(one.parent / "masks" / one.name)
        masks.append(Dicom().read([one.parent / "masks" / one.name for one in series]).array[0])
    return np.stack(masks)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_segmentation_gives_the_label_back(tmp_path: Path, grid: str) -> None:
    hd = pytest.importorskip("highdicom")
    series = write_series(tmp_path, VOLUME, GRIDS[grid], (10, -20, 30), names={0: "z.dcm", 3: "a.dcm"})
    (tmp_path / "masks").mkdir()
    label = label_of(Dicom().read(series).shape)
    write_dicom_seg(tmp_path / "seg.dcm", label, question(), series)
    masks = read_back(tmp_path / "seg.dcm", 2, series)
    assert np.array_equal(masks[0], label == 2) and np.array_equal(masks[1], label == 7)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.SegmentationType == "BINARY" and seg.PatientID == PATIENT[1] and seg.StudyInstanceUID == "2.25.1"
    assert seg.FrameOfReferenceUID == "2.25.9"
    described = [seg.get_segment_description(number) for number in seg.segment_numbers]
    assert [one.segment_label for one in described] == ["liver", "a tumour"]
    assert {one.algorithm_type.value for one in described} == {"AUTOMATIC"}


def test_frames_lie_where_their_slices_do(tmp_path: Path) -> None:
    """By positions alone, without the references to the slices."""
    hd = pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    series = write_series(tmp_path, VOLUME, GRIDS["oblique"])
    label = np.zeros(Dicom().read(series).shape, np.uint8)
    label[0, 0, 0], label[4, 5, 6] = 2, 7
    write_dicom_seg(tmp_path / "seg.dcm", label, question(), series)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    met = {}
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        met[number] = tuple(float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient), pixels
    places = sorted(
        (tuple(float(x) for x in pydicom.dcmread(one).ImagePositionPatient) for one in series), key=lambda p: p[2]
    )
    assert met[1][0] == places[0] and met[2][0] == places[4]
    assert met[1][1].sum() == met[2][1].sum() == 1


def test_regions_overlap_as_they_do(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    series = write_series(tmp_path, VOLUME, GRIDS["straight"])
    (tmp_path / "masks").mkdir()
    asked = question(
        labels={"background": 0, "edge": 1, "core": 2}, regions={"whole": (1, 2), "core": (2,)}, written=(1, 2)
    )
    label = label_of(Dicom().read(series).shape, (0, 1, 2))
    write_dicom_seg(tmp_path / "seg.dcm", label, asked, series)
    masks = read_back(tmp_path / "seg.dcm", 2, series)
    assert np.array_equal(masks[0], label > 0) and np.array_equal(masks[1], label == 2)


def test_a_label_of_nothing_is_written(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    series = write_series(tmp_path, VOLUME, GRIDS["straight"])
    (tmp_path / "masks").mkdir()
    write_dicom_seg(tmp_path / "seg.dcm", np.zeros((5, 6, 7), np.uint8), question(), series)
    assert not read_back(tmp_path / "seg.dcm", 2, series).any()


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_what_a_header_lacks_is_named_and_nothing_of_the_patient(tmp_path: Path, tag: str) -> None:
    pytest.importorskip("highdicom")
    series = write_series(tmp_path / "series", VOLUME, GRIDS["straight"], **{tag: None})
    with pytest.raises(BadData, match=rf"\d\.dcm: its header lacks {tag}") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", np.ones((5, 6, 7), np.uint8) * 2, question(), series)
    assert not any(word in str(caught.value) for word in PATIENT) and not (tmp_path / "seg.dcm").exists()


def test_what_may_be_empty_may_be_lacking(tmp_path: Path) -> None:
    hd = pytest.importorskip("highdicom")
    lacking = (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
        *("StudyTime", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber"),
    )
    series = write_series(tmp_path, VOLUME, GRIDS["straight"], **dict.fromkeys(lacking))
    (tmp_path / "masks").mkdir()
    label = label_of((5, 6, 7))
    write_dicom_seg(tmp_path / "seg.dcm", label, question(), series)
    assert np.array_equal(read_back(tmp_path / "seg.dcm", 2, series)[1], label == 7)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert not seg.PatientID and not seg.StudyDate and not seg.PatientBirthDate


def test_without_highdicom_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(BadUsage, match=r"pip install 'autoseg\[dicom\]'"):
        write_dicom_seg(tmp_path / "seg.dcm", np.zeros((5, 6, 7), np.uint8), question(), [])


@pytest.mark.real
def test_real_series(real: Path, tmp_path: Path) -> None:
    hd = pytest.importorskip("highdicom")
    for series in find_series(real / "dicom_hippocampus").values():
        image = Dicom().read(series.files)
        label = np.where(image.array[0] > np.percentile(image.array[0], 90), 2, 0).astype(np.uint8)
        write_dicom_seg(tmp_path / "seg.dcm", label, question(), series.files)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert int(seg.pixel_array.sum()) == int((label == 2).sum())
