"""Measuring a task: what its cases look like and what is wrong with them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays import statistics
from autoseg.arrays.alignment import Shift, best_shift, borders
from autoseg.arrays.boxes import Box, crop
from autoseg.arrays.intensity import describe
from autoseg.errors import BadData
from autoseg.image import IGNORE, Mask, volume_spacing
from autoseg.readers import nodata, orientation
from autoseg.readers.colours import ColourCoded
from autoseg.records import CaseFacts, CaseFiles, Fault, Intensity, Question, Values
from autoseg.steps import cases, faults, preprocess
from autoseg.steps.look import Look, look

VERSION = 4  # of what is measured and how: facts of another version are measured again
THUMBED = 1 << 20  # pixels of a slice that a thumb is made of


def examine(folder: Path, files: CaseFiles, question: Question) -> CaseFacts:
    """What was measured of a case; everything that is wrong with it stands in the facts' faults."""
    sha256 = cases.content_hash(folder, files)
    missing = [name for name in (*files.images, *files.labels.values()) if not (folder / name).is_file()]
    if missing:
        return CaseFacts(sha256=sha256, faults=(_fault(files, "missing", f"no file {missing[0]}"),))
    if files.label is None:
        return CaseFacts(sha256=sha256, faults=(_fault(files, "no label", "the image has no label"),))
    try:
        seen, place = look(folder, files, question)
    except ColourCoded as problem:
        colours = cases.colours_of(folder / files.label)
        return CaseFacts(sha256=sha256, colours=colours, faults=(_fault(files, "coloured label", str(problem)),))
    except BadData as problem:
        return CaseFacts(sha256=sha256, faults=(_fault(files, "unreadable", str(problem)),))
    found = [_fault(files, "geometry", place.sentence, place.fatal)] if place.sentence else []
    found += _of_further_raters(folder, files, question)
    if seen is None:
        return CaseFacts(sha256=sha256, faults=tuple(found))
    return measure(seen, question, sha256, found)


def _of_further_raters(folder: Path, files: CaseFiles, question: Question) -> list[Fault]:
    """What is wrong with the labels after the first."""
    found = []
    for rater, file in list(files.labels.items())[1:]:
        try:
            seen, place = look(folder, files.model_copy(update={"labels": {rater: file}}), question)
        except BadData as problem:
            found.append(_fault(files, "unreadable", str(problem)))
            continue
        faulty = [_fault(files, "geometry", place.sentence, place.fatal)] if place.sentence else []
        faulty += [] if seen is None else faults.of_label(seen, question)
        found += [one.model_copy(update={"detail": f"label of {rater}: {one.detail}"}) for one in faulty]
    return found


def measure(seen: Look, question: Question, sha256: str, found: list[Fault]) -> CaseFacts:
    """The facts of what is looked at of a case, with the given faults and those found here."""
    z, y, x = seen.array.shape[1:] if not seen.flat else (1, *seen.grid.shape)
    box = preprocess.box_of(seen.array, seen.valid, question, flat=seen.flat)
    size = tuple(part.stop - part.start for part in box)
    facts = CaseFacts(
        sha256=sha256,
        shape=(z, y, x),
        cropped=(z, y, x) if seen.flat else size,
        spacing=volume_spacing(seen.grid.spacing),
        dtype=str(seen.array.dtype),
        orientation=orientation(seen.grid),
        nodata=nodata(seen.grid),
        sampled=seen.share,
        valid_share=1.0 if seen.valid is None else float(seen.valid.mean()),
        pixels=_hash(seen.array),
        thumb=_thumb(seen),
        faults=(*found, *faults.of_case(seen, question)),
    )
    return facts.model_copy(update=_contents(seen, question, box)) if facts.usable else facts


def _contents(seen: Look, question: Question, box: Box) -> dict[str, Any]:
    """The facts that need a label: intensities, values, and what every class has, inside the box."""
    array, valid = crop(seen.array, box), None if seen.valid is None else crop(seen.valid, box)
    indices = cases.to_indices(crop(seen.label, box), question, valid)
    foreground = (indices >= question.background) & (indices != IGNORE)
    # as `statistics.objects` wants them: 0 for what is no object
    labels = np.where(foreground, indices + np.uint8(1 - question.background), 0).astype(np.uint8)
    names = question.classes[question.background :]
    rim, spacing = crop(seen.rim, box), volume_spacing(seen.grid.spacing)
    objects = statistics.objects(labels, len(names), spacing, rim, flat=seen.flat, scale=1 / seen.share)
    if seen.share == 1 and (not seen.flat or len(indices) == 1):
        far = statistics.distances(labels, len(names), spacing, [part.start for part in box], seen.array.shape[1:])
        objects = [one.model_copy(update={"distance": mm}) for one, mm in zip(objects, far, strict=True)]
    voxels = np.bincount(indices.ravel(), minlength=256)
    described = [_described(channel, valid) for channel in array]
    shift = _shift(array, indices, valid, seen.flat)
    return {
        "valid": tuple(intensity for intensity, _ in described),
        "values": tuple(values for _, values in described),
        "foreground": tuple(_short(describe(channel[foreground])) for channel in array),
        "voxels": {name: round(int(voxels[i]) / seen.share) for i, name in enumerate(question.classes)},
        "components": {name: found.count for name, found in zip(names, objects, strict=True)},
        "objects": dict(zip(names, objects, strict=True)),
        "shift": () if shift is None else ((0,) * (3 - len(shift.voxels)) + shift.voxels),
        "gain": 0.0 if shift is None else round(shift.gain, 2),
    }


def _described(channel: NDArray[Any], valid: Mask | None) -> tuple[Intensity | None, Values | None]:
    inside = channel.ravel() if valid is None else channel[valid]
    return _short(describe(inside)), statistics.describe_values(inside)


def _short(intensity: Intensity | None) -> Intensity | None:
    """With eight digits, which float32 does not exceed, so that the file of many cases stays small."""
    if intensity is None:
        return None
    mean, sd, *quantiles = (float(f"{x:.8g}") for x in (intensity.mean, intensity.sd, *intensity.quantiles))
    return Intensity(mean=mean, sd=sd, quantiles=tuple(quantiles))


def _shift(array: NDArray[Any], indices: NDArray[np.uint8], valid: Mask | None, flat: bool) -> Shift | None:
    """How the label's borders fit the image's edges; of windows, in that with the most borders."""
    if not flat:
        return best_shift(array, borders(indices), valid)
    drawn = [borders(part) for part in indices]
    most = int(np.argmax([part.sum() for part in drawn]))
    return best_shift(array[:, most], drawn[most], None if valid is None else valid[most])


def _hash(array: NDArray[Any]) -> str:
    """A hash of shape, dtype and values."""
    total = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    for channel in array:
        total.update(np.ascontiguousarray(channel).data)
    return total.hexdigest()


def _thumb(seen: Look) -> str:
    """Of the middle slice of a volume, the mean of its channels; of windows one below the other."""
    if seen.flat:
        channels = seen.array.reshape(len(seen.array), -1, seen.array.shape[-1])
        valid = None if seen.valid is None else seen.valid.reshape(channels.shape[1:])
    else:
        middle = seen.array.shape[1] // 2
        channels, valid = seen.array[:, middle], None if seen.valid is None else seen.valid[middle]
    step = math.isqrt(max(0, channels[0].size - 1) // THUMBED) + 1
    with np.errstate(invalid="ignore"):  # NaN and inf are not valid
        image = channels[:, ::step, ::step].mean(axis=0, dtype=np.float64)
    return statistics.thumb(image, None if valid is None else valid[::step, ::step])


def _fault(files: CaseFiles, fault: str, detail: str, fatal: bool = True) -> Fault:
    return Fault(case=files.id, fault=fault, detail=detail, fatal=fatal)
