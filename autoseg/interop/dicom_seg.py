"""Labels as DICOM segmentation objects, through highdicom (extra `dicom`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg import __version__
from autoseg.errors import BadData, BadUsage, RunFailed
from autoseg.image import Array
from autoseg.records import Question

LONGEST = 64  # characters of a segment's name
SERIES_NUMBER = 1000  # far from those of scanners
NEEDED = ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (  # what the standard wants to be there, and lets be empty; those who take names out often drop it
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime"),
)


def require_highdicom() -> None:
    """Raises: BadUsage, with the command that installs it, where highdicom is missing."""
    try:
        import highdicom  # noqa: F401
        import pydicom  # noqa: F401
    except ImportError as problem:
        raise BadUsage(
            "DICOM-SEG needs highdicom, which is not installed", where="--dicom-seg",
            remedy="install it: pip install 'autoseg[dicom]'",
        ) from problem  # fmt: skip


def write_dicom_seg(file: Path, label: Array, question: Question, files: Sequence[Path]) -> None:
    """Writes a label as a DICOM segmentation of the series that it was made of: a binary segment per class or region.

    Segments of regions overlap as the regions do. Study, patient and frame of reference are those of the series.

    Args:
        label: (z, y, x) in the task's values, in the axes that the reader "dicom" gives.
        files: the slices of one series, in any order.
    Raises: BadUsage without highdicom; BadData for a series whose headers lack what DICOM-SEG needs; RunFailed when
        the file cannot be written.
    """
    require_highdicom()
    import pydicom

    from autoseg.readers.dicom import as_frames

    ordered, frames = as_frames(label, files)
    try:
        sources = [_header(one) for one in ordered]
    except (OSError, pydicom.errors.InvalidDicomError) as problem:
        raise BadData(f"cannot be read as DICOM: {problem}", where=str(ordered[0].parent)) from problem
    segments = _segments(question)
    try:
        made = _segmentation(sources, _as_segments(frames, segments), list(segments))
    except AttributeError as problem:
        raise _lacking(problem.name or str(problem), ordered[0]) from problem
    except (ValueError, TypeError, KeyError) as problem:
        said = _without_patient(str(problem), sources[0])
        raise BadData(f"no DICOM-SEG can be made of it: {said}", where=str(ordered[0].parent)) from problem
    try:
        made.save_as(file)
    except OSError as problem:
        raise RunFailed(
            f"could not be written: {problem}", where=str(file), remedy="check the free disk space"
        ) from problem


def _lacking(name: str, file: Path) -> BadData:
    remedy = "predict without --dicom-seg, or complete the headers"
    return BadData(f"its header lacks {name}, which DICOM-SEG needs", where=str(file), remedy=remedy)


def _header(file: Path) -> Any:
    """All of a slice but its pixels. Raises: BadData where something lacks that may not be made up."""
    import pydicom

    source = pydicom.dcmread(file, stop_before_pixels=True)
    for name in NEEDED:
        if not source.get(name):
            raise _lacking(name, file)
    for name in MAY_BE_EMPTY:
        if name not in source:
            setattr(source, name, None)
    return source


def _segments(question: Question) -> dict[str, tuple[int, ...]]:
    """The values of every segment: of the regions, else of the classes above background."""
    return dict(question.regions) or {
        name: (question.labels[name],) for name in question.classes if question.labels[name] != 0
    }


def _as_segments(frames: Array, segments: dict[str, tuple[int, ...]]) -> Array:
    """Frames (n, rows, columns) as numbers of segments; as masks (n, rows, columns, segments) where some overlap."""
    values = list(segments.values())
    if sum(map(len, values)) > len({value for entry in values for value in entry}):
        return np.stack([np.isin(frames, entry) for entry in values], axis=-1).astype(np.uint8)
    numbers = np.zeros(frames.shape, np.uint8)
    for number, entry in enumerate(values, 1):
        numbers[np.isin(frames, entry)] = number
    return numbers


def _segmentation(sources: Sequence[Any], pixels: Array, names: Sequence[str]) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="autoseg", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:LONGEST],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names, 1)
    ]
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="autoseg",
        manufacturer_model_name="autoseg",
        software_versions=__version__,
        device_serial_number=__version__,
        series_description="autoseg",
    )


def _without_patient(text: str, source: Any) -> str:
    """The text without anything that the header says of the patient."""
    for element in source.group_dataset(0x0010):
        if len(value := str(element.value)) > 1:
            text = text.replace(value, "…")
    return text
