"""Hiding a part of the image: boxes, and whole channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from autoseg.augment import Drawn, between, probable


class Cutout:
    """Fills 1 to `count` boxes, each edge within `size` (shares of the patch's), with 0, the mean after z-score.

    Cutout (DeVries and Taylor 2017), with boxes of random shape as random erasing (Zhong et al. 2017). All channels
    lose the same boxes; the label is kept: what is hidden is to be told from what stands around it.
    """

    def __init__(self, dims: int, probability: float = 0.2, count: int = 3, size: Sequence[float] = (0.1, 0.3)) -> None:
        self.dims, self.probability, self.count = dims, probable(probability), count
        self.size = between("size", size, 0, 1)
        if count < 1:
            raise ValueError(f"count is {count}, not 1 or more boxes")

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """Boxes as (dims, 2): the place, 0 at the first and 1 at the last one possible, and the share of each edge."""
        if rng.random() >= self.probability:
            return None
        number = int(rng.integers(1, self.count + 1))
        shape = (number, self.dims)
        return {"boxes": np.stack([rng.random(shape), rng.uniform(*self.size, shape)], -1).tolist()}

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """Zeros within the boxes."""
        out = images.clone()
        for image, one in zip(out, drawn, strict=True):
            for box in one["boxes"]:
                place = (slice(None), *within(box, images.shape[2:]))
                image[place] = 0
        return out


def within(box: Sequence[Sequence[float]], shape: Sequence[int]) -> tuple[slice, ...]:
    """The voxels of a drawn box, one or more along every axis, all of them inside the patch."""
    edges = [max(1, round(share * size)) for (_, share), size in zip(box, shape, strict=True)]
    starts = [round(place * (size - edge)) for (place, _), size, edge in zip(box, shape, edges, strict=True)]
    return tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))


class ChannelDropout:
    """Sets each channel to 0 with probability `share`, but never all; one channel alone is left as it is.

    As a sequence or a band that is missing: dropout of whole channels (Tompson 2015), of the input as in Neverova
    2016 (ModDrop). `probability` is that of a sample to take part.
    """

    def __init__(self, dims: int, probability: float = 0.1, share: float = 0.25) -> None:
        self.probability, self.share = probable(probability), share
        if not 0 < share < 1:
            raise ValueError(f"share is {share}, not between 0 and 1")

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """The channels that are lost; one of them, drawn too, is spared where all would be."""
        if rng.random() >= self.probability or channels == 1:
            return None
        lost = rng.random(channels) < self.share
        if lost.all():
            lost[rng.integers(channels)] = False
        return {"lost": np.flatnonzero(lost).tolist()} if lost.any() else None

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """Zeros in the lost channels."""
        out = images.clone()
        for image, one in zip(out, drawn, strict=True):
            image[one["lost"]] = 0
        return out
