"""Writes DICOM slices byte by byte, so that every tag of theirs may be wrong or lacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

CT = "1.2.840.10008.5.1.4.1.1.2"
LONG = {"OB", "OW", "SQ", "UN"}
TAGS = {
    "SOPClassUID": (0x0008, 0x0016, "UI"), "SOPInstanceUID": (0x0008, 0x0018, "UI"),
    "ImageType": (0x0008, 0x0008, "CS"),
    "StudyDate": (0x0008, 0x0020, "DA"), "StudyTime": (0x0008, 0x0030, "TM"), "AccessionNumber": (0x0008, 0x0050, "SH"),
    "Modality": (0x0008, 0x0060, "CS"), "ReferringPhysicianName": (0x0008, 0x0090, "PN"),
    "SeriesDescription": (0x0008, 0x103E, "LO"),
    "PatientName": (0x0010, 0x0010, "PN"), "PatientID": (0x0010, 0x0020, "LO"),
    "PatientBirthDate": (0x0010, 0x0030, "DA"), "PatientSex": (0x0010, 0x0040, "CS"),
    "SliceThickness": (0x0018, 0x0050, "DS"), "SpacingBetweenSlices": (0x0018, 0x0088, "DS"),
    "StudyInstanceUID": (0x0020, 0x000D, "UI"), "SeriesInstanceUID": (0x0020, 0x000E, "UI"),
    "StudyID": (0x0020, 0x0010, "SH"), "SeriesNumber": (0x0020, 0x0011, "IS"), "InstanceNumber": (0x0020, 0x0013, "IS"),
    "ImagePositionPatient": (0x0020, 0x0032, "DS"), "ImageOrientationPatient": (0x0020, 0x0037, "DS"),
    "FrameOfReferenceUID": (0x0020, 0x0052, "UI"),
    "SamplesPerPixel": (0x0028, 0x0002, "US"), "PhotometricInterpretation": (0x0028, 0x0004, "CS"),
    "NumberOfFrames": (0x0028, 0x0008, "IS"), "Rows": (0x0028, 0x0010, "US"), "Columns": (0x0028, 0x0011, "US"),
    "PixelSpacing": (0x0028, 0x0030, "DS"), "BitsAllocated": (0x0028, 0x0100, "US"),
    "BitsStored": (0x0028, 0x0101, "US"),
    "HighBit": (0x0028, 0x0102, "US"), "PixelRepresentation": (0x0028, 0x0103, "US"),
    "RescaleIntercept": (0x0028, 0x1052, "DS"), "RescaleSlope": (0x0028, 0x1053, "DS"),
    "PixelData": (0x7FE0, 0x0010, "OW"),
}  # fmt: skip
PATIENT = ("Doe^Jane", "HOSP-4711")


def element(group: int, number: int, kind: str, value: object) -> bytes:
    """An element in explicit little-endian coding."""
    if kind == "US":
        content = int(str(value)).to_bytes(2, "little")
    elif isinstance(value, bytes):
        content = value
    else:
        parts = value if isinstance(value, (tuple, list, np.ndarray)) else (value,)
        content = "\\".join(f"{part:.12g}" if isinstance(part, float) else str(part) for part in parts).encode()
    content += (b"\0" if kind in ("UI", "OB") else b" ") * (len(content) % 2)
    size = b"\0\0" + len(content).to_bytes(4, "little") if kind in LONG else len(content).to_bytes(2, "little")
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + kind.encode() + size + content


def write_slice(file: Path, pixels: np.ndarray, **tags: object) -> Path:
    """A CT slice of int16 pixels; `tags` are further tags, or other values; None leaves one out."""
    name = f"2.25.{abs(hash(file))}"
    usual: dict[str, object] = {
        "SOPClassUID": CT, "SOPInstanceUID": name, "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL"), "Modality": "CT",
        "StudyDate": "20200101", "StudyTime": "120000", "AccessionNumber": "1", "ReferringPhysicianName": "",
        "SeriesDescription": "a series",
        "PatientName": PATIENT[0], "PatientID": PATIENT[1], "PatientBirthDate": "19700101", "PatientSex": "O",
        "StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.2", "StudyID": "1", "SeriesNumber": 3,
        "InstanceNumber": 1, "FrameOfReferenceUID": "2.25.9", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[0], "Columns": pixels.shape[1],
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1,
        "PixelData": pixels.astype("<i2").tobytes(),
    }  # fmt: skip
    values = {key: value for key, value in (usual | tags).items() if value is not None}
    meta = (
        element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", values.get("SOPClassUID", CT)) + element(2, 3, "UI", name)
        + element(2, 0x10, "UI", "1.2.840.10008.1.2.1") + element(2, 0x12, "UI", "2.25.7")
    )  # fmt: skip
    start = element(2, 0, "OB", len(meta).to_bytes(4, "little")).replace(b"OB\0\0\4\0\0\0", b"UL\4\0")
    body = b"".join(element(*TAGS[key], values[key]) for key in sorted(values, key=lambda key: TAGS[key][:2]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(128) + b"DICM" + start + meta + body)
    return file


def write_series(
    folder: Path,
    volume: np.ndarray,
    axes: np.ndarray,
    origin: Sequence[float] = (0, 0, 0),
    heights: Sequence[float] | None = None,
    names: Mapping[int, str] | None = None,
    **tags: object,
) -> list[Path]:
    """A series of a volume (z, y, x): `axes` (3, 3) has the steps along x, y and z in its columns, LPS mm.

    Args:
        heights: where the slices lie, in steps along z.
    """
    spacing = np.linalg.norm(axes, axis=0)
    turns = (axes / spacing)[:, :2].T.ravel()
    usual: dict[str, object] = {"PixelSpacing": spacing[[1, 0]], "ImageOrientationPatient": turns, "SliceThickness": 1}
    return [
        write_slice(
            folder / (names or {}).get(number, f"{number:03d}.dcm"),
            pixels,
            **{
                **usual, "InstanceNumber": number + 1,
                "ImagePositionPatient": np.array(origin) + axes[:, 2] * (heights or range(len(volume)))[number], **tags,
            },
        )
        for number, pixels in enumerate(volume)
    ]  # fmt: skip
