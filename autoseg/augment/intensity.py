"""Noise, blur, brightness, contrast, simulated low resolution and gamma, with the ranges of nnU-Net; band jitter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.augment import Drawn, between, probable

EPS = 1e-7


def around_one(rng: np.random.Generator, low: float, high: float) -> float:
    """Below 1 and above 1 with equal probability, uniform in each."""
    return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))


def column(drawn: Sequence[Drawn], key: str, like: Tensor) -> Tensor:
    """The drawn numbers as (n, C or 1, 1 …), to be multiplied with a batch."""
    values = torch.tensor([d[key] for d in drawn], dtype=like.dtype, device=like.device)
    return values.reshape(len(drawn), -1, *(1,) * (like.ndim - 2))


class Noise:
    """Gaussian noise of a standard deviation up to `sd` (in units of the normalised image)."""

    def __init__(self, dims: int, probability: float = 0.1, sd: float = 0.1) -> None:
        self.probability, self.sd = probability, sd

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """A standard deviation and the seed of the noise."""
        if rng.random() >= self.probability:
            return None
        return {"sd": float(rng.uniform(0, self.sd)), "seed": int(rng.integers(2**31))}

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """Adds the noise that each seed gives."""
        noise = torch.empty_like(images)
        for sample, one in enumerate(drawn):
            generator = torch.Generator(images.device).manual_seed(one["seed"])
            noise[sample].normal_(generator=generator)
        return images + column(drawn, "sd", images) * noise


class Blur:
    """Gaussian blur, a sigma within `sigma` voxels per channel; a channel takes part with probability 1/2."""

    def __init__(self, dims: int, probability: float = 0.2, sigma: Sequence[float] = (0.5, 1.0)) -> None:
        self.probability, self.sigma = probability, between("sigma", sigma, 0, math.inf)

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """A sigma per channel, 0 for none."""
        if rng.random() >= self.probability:
            return None
        part = rng.random(channels) < 0.5
        return {"sigma": (rng.uniform(*self.sigma, channels) * part).tolist()} if part.any() else None

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """One grouped convolution per axis, with a kernel of its own for every sample and channel."""
        sigma = torch.tensor([d["sigma"] for d in drawn], dtype=images.dtype, device=images.device).flatten()
        radius = max(1, math.ceil(3 * float(sigma.max())))
        taps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        weights = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-3)[:, None]) ** 2)
        weights = weights / weights.sum(1, keepdim=True)
        dims, flat = images.ndim - 2, images.flatten(0, 1)[None]  # (1, n·C, *S)
        convolve = {2: F.conv2d, 3: F.conv3d}[dims]
        for axis in range(dims):
            kernel = weights.reshape(-1, 1, *(len(taps) if i == axis else 1 for i in range(dims)))
            pads = [radius if i == axis else 0 for i in reversed(range(dims)) for _ in (0, 1)]
            flat = convolve(F.pad(flat, pads, mode="replicate"), kernel, groups=len(sigma))
        return flat.reshape(images.shape)


class Brightness:
    """Multiplies by a factor within `factor`."""

    def __init__(self, dims: int, probability: float = 0.15, factor: Sequence[float] = (0.75, 1.25)) -> None:
        self.probability, self.factor = probability, between("factor", factor, 0, math.inf)

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """One factor for all channels."""
        return {"factor": around_one(rng, *self.factor)} if rng.random() < self.probability else None

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """images · factor."""
        return images * column(drawn, "factor", images)


class Contrast:
    """Stretches around the mean of each channel by a factor within `factor`, clamped to the old range."""

    def __init__(self, dims: int, probability: float = 0.15, factor: Sequence[float] = (0.75, 1.25)) -> None:
        self.probability, self.factor = probability, between("factor", factor, 0, math.inf)

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """A factor per channel."""
        if rng.random() >= self.probability:
            return None
        return {"factor": [around_one(rng, *self.factor) for _ in range(channels)]}

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """(images − mean) · factor + mean."""
        over = tuple(range(2, images.ndim))
        mean = images.mean(over, keepdim=True)
        stretched = (images - mean) * column(drawn, "factor", images) + mean
        return stretched.clamp(images.amin(over, keepdim=True), images.amax(over, keepdim=True))


class LowResolution:
    """Shrinks a channel by nearest neighbour to `zoom` of its size and brings it back linearly.

    A channel takes part with probability 1/2; `planar` leaves the first axis of volumes alone.
    """

    def __init__(
        self,
        dims: int,
        probability: float = 0.25,
        zoom: Sequence[float] = (0.5, 1.0),
        planar: bool = False,
    ) -> None:
        self.probability, self.planar = probability, planar and dims == 3
        self.zoom = between("zoom", zoom, 0, 1)

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """A zoom per channel, 1 for none."""
        if rng.random() >= self.probability:
            return None
        part = rng.random(channels) < 0.5
        return {"zoom": np.where(part, rng.uniform(*self.zoom, channels), 1.0).tolist()} if part.any() else None

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """Down and up again, channel by channel, since every one has a size of its own."""
        out = images.clone()
        size = tuple(images.shape[2:])
        linear = {2: "bilinear", 3: "trilinear"}[len(size)]
        for sample, one in enumerate(drawn):
            for channel, zoom in enumerate(one["zoom"]):
                small = tuple(
                    s if self.planar and axis == 0 else max(1, round(s * zoom)) for axis, s in enumerate(size)
                )
                if small != size:
                    shrunk = F.interpolate(images[sample, channel][None, None], size=small, mode="nearest-exact")
                    out[sample, channel] = F.interpolate(shrunk, size=size, mode=linear, align_corners=False)[0, 0]
        return out


class Gamma:
    """Raises the range 0..1 of each channel to a power within `power`, keeping its mean and standard deviation.

    `invert` does so on the negative image.
    """

    def __init__(
        self,
        dims: int,
        probability: float = 0.3,
        power: Sequence[float] = (0.7, 1.5),
        invert: bool = False,
    ) -> None:
        self.probability, self.invert = probability, invert
        self.power = between("power", power, 0, math.inf)

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """A power per channel."""
        if rng.random() >= self.probability:
            return None
        return {"power": [around_one(rng, *self.power) for _ in range(channels)]}

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """The power of the image's own range, brought back to its mean and standard deviation."""
        x = -images if self.invert else images
        over = tuple(range(2, x.ndim))
        low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
        bent = ((x - low) / (high - low + EPS)).clamp(0, 1) ** column(drawn, "power", x) * (high - low) + low
        sd, mean = torch.std_mean(x, over, keepdim=True)
        bent_sd, bent_mean = torch.std_mean(bent, over, keepdim=True)
        bent = (bent - bent_mean) / (bent_sd + EPS) * sd + mean
        return -bent if self.invert else bent


class BandJitter:
    """Gives every channel a gain within `gain` and an offset of standard deviation `offset`, drawn independently.

    As sensors, sun and haze change the bands of a scene apart from each other: the per-channel gain and offset of
    radiometric calibration (Chander et al. 2009), in units of the normalised image.
    """

    def __init__(
        self, dims: int, probability: float = 0.15, gain: Sequence[float] = (0.9, 1.1), offset: float = 0.1
    ) -> None:
        self.probability, self.offset = probable(probability), offset
        low, high = self.gain = between("gain", gain, 0, math.inf)
        if not low <= 1 <= high:
            raise ValueError(f"gain is {list(gain)}: 1, which changes nothing, is not within")
        if not 0 <= offset < math.inf:
            raise ValueError(f"offset is {offset}, not a standard deviation of 0 or more")

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """A gain and an offset per channel."""
        if rng.random() >= self.probability:
            return None
        gains = [around_one(rng, *self.gain) for _ in range(channels)]
        return {"gain": gains, "offset": rng.normal(0, self.offset, channels).tolist()}

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """images · gain + offset."""
        return images * column(drawn, "gain", images) + column(drawn, "offset", images)
