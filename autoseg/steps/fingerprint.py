"""Measuring a task: what its cases look like and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import crop, nonzero_box
from autoseg.arrays.components import count
from autoseg.arrays.intensity import describe
from autoseg.errors import BadData
from autoseg.image import IGNORE, Case, Image, as_volume, volume_spacing
from autoseg.readers import same_place
from autoseg.records import CaseFacts, CaseFiles, Fault, Question
from autoseg.steps import cases


def examine(folder: Path, files: CaseFiles, question: Question) -> CaseFacts:
    """What was measured of a case; everything that is wrong with it stands in the facts' faults."""
    sha256 = cases.content_hash(folder, files)
    missing = [name for name in (*files.images, *files.labels.values()) if not (folder / name).is_file()]
    if missing:
        return CaseFacts(sha256=sha256, faults=(_fault(files, "missing", f"no file {missing[0]}"),))
    if files.label is None:
        return CaseFacts(sha256=sha256, faults=(_fault(files, "no label", "the image has no label"),))
    try:
        image = cases.read_image([folder / name for name in files.images], question)
        label = cases.reader_of(question).read_label(folder / files.label)
    except BadData as problem:
        return CaseFacts(sha256=sha256, faults=(_fault(files, "unreadable", str(problem)),))
    place = same_place(image, label)
    faults = [_fault(files, "geometry", place.sentence, place.fatal)] if place.sentence else []
    if label.shape != image.shape:
        return CaseFacts(sha256=sha256, faults=tuple(faults))
    return measure(Case(files.id, image, label.array[0]), question, sha256, faults)


def measure(case: Case, question: Question, sha256: str, faults: list[Fault]) -> CaseFacts:
    """The facts of a case in memory, with the given faults and those found here."""
    assert case.label is not None
    image = case.image
    found = [*faults, *_image_faults(case.id, image), *_label_faults(case, question)]
    array = as_volume(image.array)
    valid = None if image.valid is None else as_volume(image.valid[None])[0]
    box = nonzero_box(array, valid) if len(image.spacing) == 3 else tuple(slice(0, n) for n in array.shape[1:])
    cropped = crop(array, box)
    facts = CaseFacts(
        sha256=sha256,
        shape=tuple(array.shape[1:]),
        cropped=tuple(cropped.shape[1:]),
        spacing=volume_spacing(image.spacing),
        dtype=str(image.array.dtype),
        valid_share=1.0 if valid is None else float(valid.mean()),
        faults=tuple(found),
    )
    if not facts.usable:
        return facts
    indices = as_volume(cases.to_indices(case.label, question, image.valid)[None])[0]
    inside = crop(valid, box) if valid is not None else np.ones(facts.cropped, bool)
    indices = crop(indices, box)
    foreground = inside & (indices >= question.background) & (indices != IGNORE)
    voxels = np.bincount(indices.ravel(), minlength=256)
    return facts.model_copy(
        update={
            "valid": tuple(describe(channel[inside]) for channel in cropped),
            "foreground": tuple(describe(channel[foreground]) for channel in cropped),
            "voxels": {name: int(voxels[i]) for i, name in enumerate(question.classes)},
            "components": {
                name: count(indices == i) for i, name in enumerate(question.classes) if i >= question.background
            },
        }
    )


def _fault(files: CaseFiles, fault: str, detail: str, fatal: bool = True) -> Fault:
    return Fault(case=files.id, fault=fault, detail=detail, fatal=fatal)


def _image_faults(case: str, image: Image) -> list[Fault]:
    faults = []
    bad = sum(int(channel.size - np.count_nonzero(np.isfinite(channel))) for channel in image.array)
    invalid = image.valid is not None and not image.valid.any()
    if bad:
        share = bad / image.array.size
        detail = f"{bad} values ({share:.1%}) are NaN or inf" + ("" if invalid else "; they are treated as nodata")
        faults.append(Fault(case=case, fault="NaN or inf", detail=detail, fatal=invalid))
    elif invalid:
        faults.append(Fault(case=case, fault="nodata", detail="no voxel is valid", fatal=True))
    if not invalid:
        flat = [n for n, channel in enumerate(image.array) if _constant(channel, image.valid)]
        if flat:
            which = "every channel" if len(flat) == image.channels else f"channel {', '.join(map(str, flat))}"
            everything = len(flat) == image.channels
            faults.append(Fault(case=case, fault="constant image", detail=f"{which} has one value", fatal=everything))
    return faults


def _constant(channel: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> bool:
    values = channel if valid is None else channel[valid]
    return bool((values == values.flat[0]).all()) if values.size else True


def _label_faults(case: Case, question: Question) -> list[Fault]:
    assert case.label is not None
    faults = []
    strange = cases.undeclared(case.label, question)
    if strange:
        shown = ", ".join(f"{value:g} ({n} voxels)" for value, n in list(strange.items())[:5])
        more = f" and {len(strange) - 5} more values" if len(strange) > 5 else ""
        anti = "; are the borders anti-aliased?" if len(strange) > 20 else ""
        faults.append(Fault(case=case.id, fault="undeclared label", detail=shown + more + anti, fatal=True))
        return faults
    indices = cases.to_indices(case.label, question)
    if (indices == IGNORE).all():
        faults.append(Fault(case=case.id, fault="ignored label", detail="every voxel is to be ignored", fatal=True))
    elif question.background and not ((indices > 0) & (indices != IGNORE)).any():
        faults.append(Fault(case=case.id, fault="empty label", detail="no voxel of any class", fatal=False))
    return faults
