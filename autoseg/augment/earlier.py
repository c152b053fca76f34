"""Mistakes put into the label of an earlier stage, so that the network learns where not to trust it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

from autoseg.arrays.components import label_components
from autoseg.augment import Drawn, between, probable
from autoseg.image import IGNORE, Mask


class Morphology:
    """Erodes, dilates, opens or closes classes of an earlier stage's label with a ball, its `radius` in voxels.

    A sample takes part with `probability`, each of its classes with `share`, in a random order: where two meet, the
    later one stays. As nnU-Net's cascade (Isensee 2021). Without an earlier stage it does nothing.
    """

    def __init__(self, probability: float = 0.4, share: float = 0.5, radius: Sequence[int] = (1, 8)) -> None:
        self.probability, self.share = probable(probability), probable(share)
        least, most = between("radius", radius, 1, 64)
        self.radius = int(least), int(most)

    def draw(self, rng: np.random.Generator, classes: Sequence[int]) -> Drawn | None:
        """Class indices in the order in which they are changed, with an operation and a radius each."""
        if rng.random() >= self.probability:
            return None
        order = rng.permutation(np.asarray(classes, np.int64))
        chosen = order[rng.random(len(order)) < self.share].tolist()
        operations = [list(OPERATIONS)[number] for number in rng.integers(len(OPERATIONS), size=len(chosen))]
        radii = rng.integers(self.radius[0], self.radius[1] + 1, len(chosen)).tolist()
        return {"classes": chosen, "operations": operations, "radii": radii} if chosen else None

    def distort(self, label: NDArray[np.uint8], drawn: Drawn) -> NDArray[np.uint8]:
        """The label (*S) with these classes changed; IGNORE where a class was and none is now."""
        out: NDArray[np.uint8] = label.copy()
        for index, operation, radius in zip(drawn["classes"], drawn["operations"], drawn["radii"], strict=True):
            before = out == index
            after = OPERATIONS[operation](before, radius)
            out[before & ~after] = IGNORE
            out[after & ~before] = index
        return out


class Forget:
    """Takes a connected component out of classes of an earlier stage's label: one that it has missed.

    A sample takes part with `probability`, each of its classes with `share`; only components below `largest`, a share
    of the patch, are taken. As nnU-Net's cascade (Isensee 2021). Without an earlier stage it does nothing.
    """

    def __init__(self, probability: float = 0.2, share: float = 0.5, largest: float = 0.15) -> None:
        self.probability, self.share = probable(probability), probable(share)
        if not 0 < largest <= 1:
            raise ValueError(f"largest is {largest}, not a share above 0 and up to 1")
        self.largest = largest

    def draw(self, rng: np.random.Generator, classes: Sequence[int]) -> Drawn | None:
        """Class indices, and per class a number in 0..1 that picks the component."""
        if rng.random() >= self.probability:
            return None
        chosen = np.asarray(classes, np.int64)[rng.random(len(classes)) < self.share].tolist()
        return {"classes": chosen, "picks": rng.random(len(chosen)).tolist()} if chosen else None

    def distort(self, label: NDArray[np.uint8], drawn: Drawn) -> NDArray[np.uint8]:
        """The label (*S), IGNORE in the components that are taken out."""
        out: NDArray[np.uint8] = label.copy()
        for index, pick in zip(drawn["classes"], drawn["picks"], strict=True):
            found = label_components((out == index).astype(np.uint8))
            small = np.flatnonzero(found.sizes < self.largest * label.size)
            if len(small):
                out[found.numbers == 1 + small[int(pick * len(small))]] = IGNORE
        return out


# -- morphology by distances: the cost does not depend on the radius, and beyond the border nothing is known ---


def dilated(mask: Mask, radius: int) -> Mask:
    """The voxels of a mask (*S) and those within `radius` of one, Euclidean."""
    return _changed(mask, radius, lambda part: distance_transform_edt(~part) <= radius)


def eroded(mask: Mask, radius: int) -> Mask:
    """The voxels of a mask (*S) from which every other voxel of S is further than `radius`; the border is none."""
    if mask.all():  # there is no distance then
        return mask
    return _changed(mask, 1, lambda part: distance_transform_edt(part) > radius)


def opened(mask: Mask, radius: int) -> Mask:
    """Dilated after it was eroded: without what is thinner than the ball."""
    return dilated(eroded(mask, radius), radius)


def closed(mask: Mask, radius: int) -> Mask:
    """Eroded after it was dilated: without gaps that the ball does not fit into."""
    return eroded(dilated(mask, radius), radius)


def _changed(mask: Mask, margin: int, change: Callable[[Mask], Mask]) -> Mask:
    """The mask, changed within the box around it, `margin` wider on every side; outside it stays False."""
    out = np.zeros_like(mask)
    boxes = find_objects(mask.astype(np.uint8))
    if boxes:
        wide = tuple(slice(max(0, edge.start - margin), edge.stop + margin) for edge in boxes[0])
        out[wide] = change(mask[wide])
    return out


OPERATIONS: Mapping[str, Callable[[Mask, int], Mask]] = {
    "erosion": eroded, "dilation": dilated, "opening": opened, "closing": closed,
}  # fmt: skip
