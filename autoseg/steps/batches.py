"""Batches of patches. Everything random is drawn from (seed, step, sample), so any batch can be drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.arrays.boxes import crop
from autoseg.augment import Bending, Drawn, Exchanging, Intensity, Pair, Spatial
from autoseg.augment.elastic import displacement
from autoseg.augment.spatial import Matrix, exchange, is_exact, rearrange, source_shape, warp
from autoseg.image import IGNORE
from autoseg.parts import AUGMENTATIONS, SAMPLINGS
from autoseg.records import Configuration, Question
from autoseg.steps import raters
from autoseg.steps.earlier import Earlier
from autoseg.steps.pasting import Donors, Paste
from autoseg.steps.sampling import Chooser, Uniform
from autoseg.steps.stages import Stages


class Source(Protocol):
    """A preprocessed case (see `store.StoredCase`)."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def points(self) -> dict[int, NDArray[np.int32]]: ...

    def read(self, box: tuple[slice, ...]) -> tuple[NDArray[Any], NDArray[Any]]: ...

    @property
    def raters(self) -> tuple[int, ...]: ...

    def label_by(self, rater: int, box: tuple[slice, ...]) -> NDArray[np.uint8]: ...

    def earlier(self, box: tuple[slice, ...]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Sample:
    """What one sample of a batch is: the patch at `start` of a case (of its slice `level` in 2D), moved by
    `matrix` around the patch's centre and bent by the `fields`, its classes exchanged pair after pair, then changed
    by the intensity parts for which something was drawn. `pastes` are objects of other cases, put into what is read;
    `mistakes` are those put into the label of an earlier stage. `rater` is whose label it is, where that matters."""

    case: int
    level: int | None
    start: tuple[int, ...]
    matrix: Matrix
    intensities: tuple[Drawn | None, ...]
    fields: tuple[Drawn, ...] = ()
    swaps: tuple[Pair, ...] = ()
    pastes: tuple[Paste | None, ...] = ()
    mistakes: tuple[Drawn | None, ...] = ()
    rater: int | None = None

    @property
    def exact(self) -> bool:
        """Whether no value needs interpolation."""
        return not self.fields and is_exact(self.matrix)

    def source_shape(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Size of the box around the patch's centre that has to be read."""
        reach = np.sum([field["reach"] for field in self.fields], 0) if self.fields else None
        return source_shape(self.matrix, patch, reach)


class Batches:
    """Draws the batches of a run.

    Args:
        cases: the preprocessed cases, in a fixed order.
        channels: number of image channels.
        augmented: False gives plain patches.
        question: where the configuration goes on from another, whose label follows the image as channels.
        share: the samples of each batch that are read, where other processes read the others; None: all.
    """

    def __init__(
        self,
        cases: Sequence[Source],
        configuration: Configuration,
        channels: int,
        seed: int,
        device: torch.device,
        augmented: bool = True,
        question: Question | None = None,
        share: slice | None = None,
    ) -> None:
        self.cases, self.seed, self.device, self.channels = cases, seed, device, channels
        self.patch, self.size = configuration.patch, configuration.batch
        self.foreground, self.share = configuration.train.foreground, share or slice(None)
        parts = configuration.train.augment if augmented else ()
        built = [AUGMENTATIONS.build(part, dims=configuration.dims) for part in parts]
        self.spatial: list[Spatial] = [part for part in built if hasattr(part, "matrix")]
        self.intensity: list[Intensity] = [part for part in built if hasattr(part, "act")]
        self.donors = [Donors(part, cases, self.patch) for part in built if hasattr(part, "pasted")]
        distorting = [part for part in built if hasattr(part, "distort")]
        self.earlier = None if configuration.previous is None or question is None else Earlier(question, distorting)
        self.outside = IGNORE if self.earlier is None else self.earlier.outside
        present = [{index for index in case.points if len(case.points[index])} for case in cases]
        sampling = SAMPLINGS.build(configuration.train.sampling, present=present) if augmented else Uniform()
        self.chooser = Chooser(sampling, len(cases))
        self.rated = augmented and raters.are_told_apart(configuration)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, *patch) float32 and labels (B, *patch) uint8 of a step, on the device.

        An earlier stage's channels are the last ones of the images.
        """
        samples = self.draw(step)[self.share]
        return self.augment(samples, self.read(samples))

    def stream(self, first: int, last: int, stages: Stages | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of steps first … last − 1; the next one is read while the present one is used.

        `stages` is where the seconds of waiting for what is read, and of augmenting it, are added.
        """
        stages = stages or Stages()
        with ThreadPoolExecutor(1) as reader:

            def fetch(step: int) -> tuple[list[Sample], list[tuple[NDArray[Any], NDArray[Any]]]]:
                samples = self.draw(step)[self.share]
                return samples, self.read(samples)

            upcoming = reader.submit(fetch, first) if first < last else None
            for step in range(first, last):
                assert upcoming is not None
                with stages("read"):
                    ready = upcoming.result()
                upcoming = reader.submit(fetch, step + 1) if step + 1 < last else None
                with stages("augment"):
                    batch = self.augment(*ready)
                yield batch

    def draw(self, step: int) -> list[Sample]:
        """What the batch of a step consists of."""
        forced = self.size - round(self.size * (1 - self.foreground))
        samples = [self._sample(step, number, number >= self.size - forced) for number in range(self.size)]
        self.chooser.drawn(step, [sample.case for sample in samples])
        return samples

    def whole(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A case as it is: what the network is given of it (C, z, y, x), and its label (z, y, x)."""
        everywhere = (slice(None),) * 3
        image, label = self.cases[number].read(everywhere)
        if self.earlier is None:
            return image.astype(np.float32), label
        given = self.earlier.channels(torch.from_numpy(self.cases[number].earlier(everywhere))[None], [()])[0]
        return np.concatenate([image, given.numpy()], dtype=np.float32), label

    def replay(self, losses: Sequence[float]) -> None:
        """Draws the cases of the first steps again, of which the losses are known, NaN for a step that was skipped."""
        for step, loss in enumerate(losses):
            rngs = [np.random.default_rng([self.seed, step, number]) for number in range(self.size)]
            self.chooser.drawn(step, [self.chooser.pick(step, rng) for rng in rngs])
            self.chooser.tell(step, loss)

    def _sample(self, step: int, number: int, forced: bool) -> Sample:
        rng = np.random.default_rng([self.seed, step, number])
        case = self.chooser.pick(step, rng)
        if self.size == 1:
            forced = rng.random() < self.foreground
        level, start = self._place(rng, self.cases[case], forced)
        matrix: Matrix = np.eye(len(self.patch))
        fields: list[Drawn] = []
        swaps: list[Pair] = []
        for part in self.spatial:
            own = part.matrix(rng, self.patch)
            matrix = matrix @ own
            if isinstance(part, Bending) and (field := part.field(rng, self.patch)) is not None:
                fields.append(field)
            if isinstance(part, Exchanging):
                swaps.extend(part.exchanged(own))
        intensities = tuple(part.draw(rng, self.channels) for part in self.intensity)
        apart = self._apart(step, number, 1)
        pastes = tuple(donors.draw(apart) for donors in self.donors)
        mistakes = self.earlier.draw(self._apart(step, number, 2)) if self.earlier else ()
        rater = int(self._apart(step, number, 3).choice(self.cases[case].raters)) if self.rated else None
        return Sample(case, level, start, matrix, intensities, tuple(fields), tuple(swaps), pastes, mistakes, rater)

    def _apart(self, step: int, number: int, what: int) -> np.random.Generator:
        """From which a sample's further numbers are drawn, so that the others stay what they are without them."""
        return np.random.default_rng([self.seed, step, number, what])

    def _place(self, rng: np.random.Generator, case: Source, forced: bool) -> tuple[int | None, tuple[int, ...]]:
        """A uniformly drawn patch, or one centred on a voxel of a uniformly drawn class."""
        flat = len(self.patch) == 2
        point = None
        classes = sorted(index for index in case.points if len(case.points[index]))
        if forced and classes:
            known = case.points[classes[rng.integers(len(classes))]]
            point = known[rng.integers(len(known))]
        level = None
        if flat:
            level = int(rng.integers(case.shape[0])) if point is None else int(point[0])
        start = []
        for axis, (size, patch) in enumerate(zip(case.shape[-len(self.patch) :], self.patch, strict=True)):
            low, high = min(0, size - patch), max(0, size - patch)
            if point is None:
                start.append(int(rng.integers(low, high + 1)))
            else:
                start.append(int(np.clip(point[axis + flat] - patch // 2, low, high)))
        return level, tuple(start)

    def read(self, samples: Sequence[Sample]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """The box of voxels that each sample needs, filled with 0 and IGNORE outside the case."""
        return [self._read(sample) for sample in samples]

    def _read(self, sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
        case, wanted = self.cases[sample.case], sample.source_shape(self.patch)
        start = [s + (p - w) // 2 for s, p, w in zip(sample.start, self.patch, wanted, strict=True)]
        limits = case.shape[-len(wanted) :]
        box = tuple(
            slice(min(max(0, s), n), max(0, min(n, s + w))) for s, w, n in zip(start, wanted, limits, strict=True)
        )
        level = () if sample.level is None else (slice(sample.level, sample.level + 1),)
        image, label = case.read((*level, *box))
        if sample.rater is not None and sample.rater != case.raters[0]:
            label = case.label_by(sample.rater, (*level, *box))
        if level:
            image, label = image[:, 0], label[0]
        if label.shape != wanted:
            before = [b.start - s for b, s in zip(box, start, strict=True)]
            pads = [(b, w - b - n) for b, w, n in zip(before, wanted, label.shape, strict=True)]
            image = np.pad(image, [(0, 0), *pads])
            label = np.pad(label, pads, constant_values=IGNORE)
        for donors, paste in zip(self.donors, sample.pastes, strict=True):
            if paste is not None:
                image, label = image.copy(), label.copy()
                donors.put(paste, image, label)
        if self.earlier is not None:
            given = np.full(label.shape, IGNORE, np.uint8)
            within = tuple(slice(b.start - s, b.stop - s) for b, s in zip(box, start, strict=True))
            given[within] = case.earlier((*level, *box)).reshape(given[within].shape)
            label = self.earlier.packed(label, given)
        return image, label

    def augment(
        self, samples: Sequence[Sample], read: Sequence[tuple[NDArray[Any], NDArray[Any]]]
    ) -> tuple[Tensor, Tensor]:
        """Moves and changes what was read, on the device."""
        images = torch.zeros((len(samples), self.channels, *self.patch), device=self.device)
        coded = torch.uint8 if self.earlier is None else torch.int32
        labels = torch.full((len(samples), *self.patch), self.outside, dtype=coded, device=self.device)
        for n, sample in enumerate(samples):
            if sample.exact:
                image, label = (rearrange(array, sample.matrix) for array in read[n])
                images[n] = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
                labels[n] = torch.from_numpy(np.ascontiguousarray(label)).to(self.device)
        # those with a field apart: what the others become must not depend on them, to the last bit
        for bent in (False, True):
            moved = [n for n, sample in enumerate(samples) if not sample.exact and bool(sample.fields) == bent]
            if moved:
                images[moved], labels[moved] = self._warp([samples[n] for n in moved], [read[n] for n in moved])
        given = None
        if self.earlier is not None:
            labels, given = self.earlier.unpacked(labels)
        for n, sample in enumerate(samples):
            for pair in sample.swaps:
                labels[n] = exchange(labels[n], pair)
                if given is not None:
                    given[n] = exchange(given[n], pair)
        for number, part in enumerate(self.intensity):
            drawn = {n: d for n, s in enumerate(samples) if (d := s.intensities[number]) is not None}
            if drawn:
                images[list(drawn)] = part.act(images[list(drawn)], list(drawn.values()))
        if self.earlier is not None and given is not None:
            images = torch.cat([images, self.earlier.channels(given, [s.mistakes for s in samples])], 1)
        if self.rated:
            images = torch.cat([images, raters.channel_of(images, [s.rater or 0 for s in samples])], 1)
        return images, labels

    def _warp(
        self, samples: Sequence[Sample], read: Sequence[tuple[NDArray[Any], NDArray[Any]]]
    ) -> tuple[Tensor, Tensor]:
        """Of samples that have a field each, or none of them."""
        sizes = [label.shape for _, label in read]
        common = tuple(max(size[axis] for size in sizes) for axis in range(len(self.patch)))
        images = np.zeros((len(read), self.channels, *common), np.float32)
        labels = np.full((len(read), *common), self.outside, np.int16 if self.earlier is None else np.int32)
        for n, (image, label) in enumerate(read):
            corner = tuple(slice(size) for size in label.shape)
            crop(images[n], corner)[:], labels[n][corner] = image, label
        on_device = torch.from_numpy(images).to(self.device), torch.from_numpy(labels).to(self.device)
        fields = torch.stack([self._field(sample) for sample in samples]) if samples[0].fields else None
        moved, moved_labels = warp(*on_device, sizes, [s.matrix for s in samples], self.patch, self.outside, fields)
        return moved, moved_labels if self.earlier is not None else moved_labels.to(torch.uint8)

    def _field(self, sample: Sample) -> Tensor:
        return torch.stack([displacement(field, self.patch, self.device) for field in sample.fields]).sum(0)
