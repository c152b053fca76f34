"""Copy-paste: a small object of one case put into a patch of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.components import label_components
from autoseg.augment import Drawn, probable


class CopyPaste:
    """Puts a small object of another case, image and label, where only background is (Ghiasi 2021).

    A foreground class is drawn among those of a drawn case, then one of its voxels; its connected component is the
    object. Nothing is pasted where that is larger than `largest`, a share of the patch, where the patch cuts it,
    or where it would cover anything but class 0. `classes` are the indices that may be pasted, none for all.
    """

    def __init__(self, probability: float = 0.2, largest: float = 0.02, classes: Sequence[int] = ()) -> None:
        self.probability = probable(probability)
        if not 0 < largest <= 1:
            raise ValueError(f"largest is {largest}, not a share above 0 and up to 1")
        if any(index < 1 for index in classes):
            raise ValueError(f"classes {list(classes)} hold one that is not above 0")
        self.largest, self.classes = largest, tuple(classes)

    def pasted(self, rng: np.random.Generator, dims: int) -> Drawn | None:
        """Shares, each within 0..1, by which case, class, voxel and place are chosen; None for nothing."""
        if rng.random() >= self.probability:
            return None
        case, index, voxel, *place = rng.random(3 + dims).tolist()
        return {"case": case, "class": index, "voxel": voxel, "place": place}


def object_at(
    label: NDArray[np.uint8], voxel: Sequence[int], cuts: Sequence[tuple[bool, bool]]
) -> NDArray[np.bool_] | None:
    """The connected component (*S) of a voxel's class; None where a border cuts it, as those of `cuts` per axis do."""
    numbers = label_components((label == label[tuple(voxel)]).astype(np.uint8)).numbers
    found: NDArray[np.bool_] = numbers == numbers[tuple(voxel)]
    for axis, (low, high) in enumerate(cuts):
        if (low and found.take(0, axis).any()) or (high and found.take(-1, axis).any()):
            return None
    return found


def paste(
    image: NDArray[Any], label: NDArray[Any], donor: NDArray[Any], index: int, mask: NDArray[np.bool_],
    place: Sequence[float], patch: Sequence[int],
) -> bool:  # fmt: skip
    """Writes the object `mask` (*D) of `donor` (C, *D) into image (C, *S) and label (*S), as class `index`.

    Args:
        place: shares, within 0..1, of the way that the object can go along each axis of the `patch` in the middle of S.
    Returns: False, and nothing is written, where the object does not fit or would cover more than background.
    """
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(mask))
    size = [edge.stop - edge.start for edge in box]
    room = [p - s for p, s in zip(patch, size, strict=True)]
    if min(room) < 0:
        return False
    corner = [(n - p) // 2 + round(f * r) for n, p, f, r in zip(label.shape, patch, place, room, strict=True)]
    target = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
    inside = mask[box]
    if label[target][inside].any():
        return False
    label[target][inside] = index
    for channel, pasted in zip(image, donor, strict=True):
        channel[target][inside] = pasted[box][inside]
    return True
