"""What is wrong with a single case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.image import Array
from autoseg.layouts.labels_map import LONGEST
from autoseg.readers.colours import MANY, UNKNOWN, remedy, spelled
from autoseg.records import Fault, Question
from autoseg.steps import cases
from autoseg.steps.look import Look

SOFT = 0.5  # share of a value's voxels that lie between the values around them, and of such values, on smoothed borders
NEAR = 5  # voxels across in which a border is looked for
FEW = 3  # undeclared values that may be classes somebody forgot
SHOWN = 5


def of_case(look: Look, question: Question) -> list[Fault]:
    """Everything that is wrong with the values of image and label."""
    found = [*_image_faults(look), *of_label(look, question)]
    return [fault.model_copy(update={"detail": fault.detail + look.said}) for fault in found]


def _image_faults(look: Look) -> list[Fault]:
    faults = []
    bad = sum(int(channel.size - np.count_nonzero(np.isfinite(channel))) for channel in look.array)
    invalid = look.valid is not None and not look.valid.any()
    if bad:
        share = bad / look.array.size
        detail = f"{bad} values ({share:.1%}) are NaN or inf" + ("" if invalid else "; they are treated as nodata")
        faults.append(Fault(case=look.id, fault="NaN or inf", detail=detail, fatal=invalid))
    elif invalid:
        faults.append(Fault(case=look.id, fault="nodata", detail="no voxel is valid", fatal=True))
    if not invalid:
        flat = [n for n, channel in enumerate(look.array) if _constant(channel, look.valid)]
        if flat:
            everything = len(flat) == len(look.array)
            which = "every channel" if everything else f"channel {', '.join(map(str, flat))}"
            faults.append(
                Fault(case=look.id, fault="constant image", detail=f"{which} has one value", fatal=everything)
            )
    return faults


def _constant(channel: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> bool:
    values = channel if valid is None else channel[valid]
    return bool((values == values.flat[0]).all()) if values.size else True


def of_label(look: Look, question: Question) -> list[Fault]:
    """Everything that is wrong with the values of the label."""
    counts = cases.counted(look.label)
    strange = cases.undeclared(counts, question)
    if strange:
        return [_undeclared(look, question, strange)]
    met = {value for value in counts if value != question.ignore}
    if not met:
        return [Fault(case=look.id, fault="ignored label", detail="every voxel is to be ignored", fatal=True)]
    if question.background and not any(cases.index_of(question)[int(value)] for value in met):
        return [Fault(case=look.id, fault="empty label", detail="no voxel of any class", fatal=False)]
    return []


def _undeclared(look: Look, question: Question, strange: dict[float, int]) -> Fault:
    shown = ", ".join(f"{spelled(value)} ({n} voxels)" for value, n in list(strange.items())[:SHOWN])
    more = f" and {len(strange) - SHOWN} more values" if len(strange) > SHOWN else ""
    if question.colours and max(strange) >= UNKNOWN:  # codes of colours have no order
        many = f"; {remedy(dict.fromkeys(map(str, strange), 0))}" if len(strange) > MANY else ""
        return Fault(case=look.id, fault="undeclared label", detail=shown + more + many, fatal=True)
    if not _is_soft(look.label, list(strange)):
        return Fault(case=look.id, fault="undeclared label", detail=shown + more, fatal=True)
    share = sum(strange.values()) / look.label.size
    detail = (
        f"{shown}{more}: {share:.1%} of the voxels have {len(strange)} values that nobody declared, most of them along "
        f"borders, as masks that are anti-aliased or were saved as JPEG have; {_sharpen(question, strange)}"
    )
    return Fault(case=look.id, fault="anti-aliased label", detail=detail, fatal=True)


def _is_soft(label: Array, strange: Sequence[float]) -> bool:
    """Whether most of the undeclared values lie mostly between the smallest and the largest value around them."""
    from scipy import ndimage

    if len(strange) < FEW:
        return False
    values = np.sort(strange)
    met, between = np.zeros(len(values)), np.zeros(len(values))
    for drawn in label[:, None]:
        part = drawn.astype(np.float64)
        odd = np.isin(part, values)
        low, high = (found(part, (1, NEAR, NEAR))[odd] for found in (ndimage.minimum_filter, ndimage.maximum_filter))
        which, inside = np.searchsorted(values, part[odd]), (low < part[odd]) & (part[odd] < high)
        met += np.bincount(which, minlength=len(values))
        between += np.bincount(which[inside], minlength=len(values))
    return bool(((met > 0) & (between >= SOFT * met)).mean() >= SOFT)


def _sharpen(question: Question, strange: dict[float, int]) -> str:
    """What to do about smoothed borders: with two classes a threshold does, and the map that sets it."""
    if len(question.labels) > 2 or question.regions:
        return "export the masks without smoothing, because a value between two classes may be that of a third"
    (low, first), (high, second) = sorted((value, name) for name, value in question.labels.items())
    outside = min(strange) < low or max(strange) > high
    if outside or high - low > LONGEST or any(not value.is_integer() for value in strange):
        return f"threshold the masks at {(low + high) / 2:g}"
    middle = (low + high) // 2
    ranges = f"{low}..{middle}={first},{high}={second},{middle + 1}..{high - 1}={second}"
    return f"threshold the masks, or add the task with --labels-map {ranges}"
