"""Objects that are pasted into patches: where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from autoseg.augment.pasting import CopyPaste
    from autoseg.steps.batches import Source


@dataclass(frozen=True)
class Paste:
    """An object to be pasted: that at `voxel`, of a case (of its slice `level` in 2D), as class `index`; `start` is the
    first voxel of the box that is read of the case, `place` says where it goes (see `augment.pasting.paste`)."""

    case: int
    level: int | None
    start: tuple[int, ...]
    voxel: tuple[int, ...]
    index: int
    place: tuple[float, ...]


class Donors:
    """The cases that objects may be taken from, and how."""

    def __init__(self, part: CopyPaste, cases: Sequence[Source], patch: Sequence[int]) -> None:
        self.part, self.cases, self.patch = part, cases, tuple(patch)
        held = [sorted(c for c in case.points if self._wants(c) and len(case.points[c])) for case in cases]
        self.classes = {number: known for number, known in enumerate(held) if known}

    def _wants(self, index: int) -> bool:
        return index > 0 and index in (self.part.classes or (index,))

    def draw(self, rng: np.random.Generator) -> Paste | None:
        """What is pasted into a sample; None for nothing."""
        shares = self.part.pasted(rng, len(self.patch))
        if shares is None or not self.classes:
            return None
        case = _chosen(list(self.classes), shares["case"])
        index = _chosen(self.classes[case], shares["class"])
        voxel = tuple(int(at) for at in _chosen(self.cases[case].points[index], shares["voxel"]))
        flat = len(self.patch) == 2
        level, voxel = (voxel[0], voxel[1:]) if flat else (None, voxel)
        limits = self.cases[case].shape[-len(self.patch) :]
        start = tuple(min(max(0, v - p // 2), max(0, n - p)) for v, p, n in zip(voxel, self.patch, limits, strict=True))
        return Paste(case, level, start, voxel, index, tuple(shares["place"]))

    def put(self, paste: Paste, image: NDArray[Any], label: NDArray[Any]) -> bool:
        """Pastes the object into image (C, *S) and label (*S) where it is small enough and finds room there."""
        from autoseg.augment.pasting import object_at
        from autoseg.augment.pasting import paste as write

        limits = self.cases[paste.case].shape[-len(self.patch) :]
        box = tuple(slice(s, min(s + p, n)) for s, p, n in zip(paste.start, self.patch, limits, strict=True))
        level = () if paste.level is None else (slice(paste.level, paste.level + 1),)
        donor, classes = self.cases[paste.case].read((*level, *box))
        if level:
            donor, classes = donor[:, 0], classes[0]
        cuts = [(edge.start > 0, edge.stop < n) for edge, n in zip(box, limits, strict=True)]
        mask = object_at(classes, [v - s for v, s in zip(paste.voxel, paste.start, strict=True)], cuts)
        if mask is None or mask.sum() > self.part.largest * np.prod(self.patch):
            return False
        return write(image, label, donor, paste.index, mask, paste.place, self.patch)


def _chosen(among: Sequence[Any] | NDArray[Any], share: float) -> Any:
    return among[min(int(share * len(among)), len(among) - 1)]
