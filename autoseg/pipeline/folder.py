"""Predicting the images of a folder: the next one is read while one is predicted and the last one is written."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from autoseg.errors import BadData, BadUsage
from autoseg.pipeline.cleaning import acts_of, cleaned, cleaned_in_strips, fits, streams
from autoseg.pipeline.extras import Extra, extras_for, is_in_table
from autoseg.pipeline.flow import ahead
from autoseg.pipeline.inputs import Job, inputs
from autoseg.pipeline.ledger import NAME, Ledger, content_of
from autoseg.pipeline.orders import Order, Outcome, require_other_folder
from autoseg.pipeline.prediction import Model
from autoseg.pipeline.reading import prepared_bytes
from autoseg.pipeline.sinks import Sink, sink_for
from autoseg.pipeline.under_way import Opened, give_up, names_of, set_aside
from autoseg.pipeline.voice import Voice
from autoseg.records import Made, Question
from autoseg.steps import cases as casework
from autoseg.steps.unlike import unlike
from autoseg.store import lock

if TYPE_CHECKING:
    from autoseg.image import Image
    from autoseg.steps.pieces import Piece
    from autoseg.steps.views import How, View

LARGE = 64_000_000  # values above which a raster is read by windows


def predict_folder(models: Sequence[Model], order: Order, voice: Voice) -> Outcome:
    """Predicts a file, or every input of a folder; what cannot be used is set aside while the others are predicted.

    Args:
        models: the same one on every device that takes part.
    Raises: BadUsage for what the whole folder suffers from, Busy where another process works on the same part of it,
        RunFailed where the disk is full.
    """
    from autoseg.steps import device as devices

    there = devices.resident_memory()
    if order.ram is not None and order.ram <= there:
        what = f"{order.ram / 1e9:.2f} GB are less than the {there / 1e9:.2f} GB that it takes without an image"
        raise BadUsage(what, where="--ram", remedy="allow more")
    if order.ram is None and all(model.device.type == "cpu" for model in models):
        devices.keep_memory()
    require_other_folder(order)
    number, of = order.part
    with lock(order.out / f".{NAME}_{number}_of_{of}"):
        return _Run(models, order, voice).outcome()


class _Run:
    """One run over a folder."""

    def __init__(self, models: Sequence[Model], order: Order, voice: Voice) -> None:
        self.models, self.order, self.voice = models, order, voice
        self.question: Question = models[0].question
        self.free: SimpleQueue[Model] = SimpleQueue()
        for model in models:
            self.free.put(model)
        found = inputs(order.source, self.question)
        number, of = order.part
        self.jobs = found.jobs[number - 1 :: of]
        for note in found.notes:
            voice.say(note)
        self.faults = dict(found.faults) if number == 1 else {}
        self.ledger = Ledger(order.out, f"{number}_of_{of}" if of > 1 else "")
        self.left = [file.name for file in order.out.glob(".*.part.*")]
        self.begun: list[Opened] = []  # files of theirs are open
        self.way = _way(models[0], order)
        # of the last image and of what the networks saw of it; of the first it is not known
        self.bytes = sys.maxsize

    def outcome(self) -> Outcome:
        """Works all of it off. What was predicted and not written when that ends early leaves nothing behind."""
        try:
            return self._outcome()
        except BaseException:
            for one in self.begun:
                if one.sink is not None:
                    give_up(one, None)
            raise

    def _outcome(self) -> Outcome:
        written: list[Path] = []
        kept = 0
        for case, fault in self.faults.items():
            self.ledger.add(Made(case=case, fault=fault))
        for one in self.voice.track(self._flow(), len(self.jobs), "predicting"):
            if one.fault:
                self.faults[one.job.stem] = one.fault
                self.ledger.add(Made(case=one.job.stem, inputs=one.content, fault=one.fault))
                self.voice.say(f"{one.job.stem}: {one.fault}")
            elif one.done:
                kept += 1
            else:
                written.append(self.order.out / (one.job.stem + one.job.ending))
            for note in one.notes:
                self.voice.say(f"{one.job.stem}: {note}")
        return Outcome(tuple(written), kept, self.faults)

    def _flow(self) -> Iterator[Opened]:
        """Three stages; where one image takes much of the memory, one after the other."""
        many = len(self.models)

        def room() -> int:
            return many if 3 * self.bytes < self._ram() / 2 else 0

        opened = ahead(self._open, self.jobs, room)
        predicted = ahead(self._predict, opened, lambda: many - 1, many) if many > 1 else map(self._predict, opened)
        return ahead(self._close, predicted, room)

    def _ram(self) -> int:
        from autoseg.steps import device as devices

        return self.order.ram or int(0.8 * devices.memory(devices.choose("cpu")))

    def _require_held(self, image: Image, files: Sequence[Path]) -> None:
        """Raises: BadData where what the networks see of an image is more than the memory, as for a wrong spacing."""
        needed = 0
        for model in self.models[0].configurations:
            for scale in model.scales:
                needed += prepared_bytes(image, model.run.settings, self.question, scale)
        if needed > self._ram():
            what = f"its preparation takes {needed / 1e9:.1f} GB, more than the memory"
            remedy = "check its spacing, or allow more with --ram"
            raise BadData(what, where=" + ".join(map(str, files)), remedy=remedy)

    # -- the stages ------------------------------------------------------------------------------------

    def _open(self, job: Job) -> Opened:
        one = Opened(job, content_of(job.files), time.monotonic(), notes=job.notes)
        made = self.ledger.stands(job.stem, one.content, self.way)
        if made is not None and (not self.order.extras.volumes or is_in_table(self.order.out, job.stem)):
            one.done = True
            return one
        with set_aside(one):
            self._read(one)
        return one

    def _read(self, one: Opened) -> None:
        """Reads the image, or opens it where it is a large raster, and prepares it for all networks."""
        from autoseg.pipeline.reading import opened_raster, views_by_windows

        model, how = self.models[0], self._how(self.models[0])
        files = list(one.job.files)
        one.windows = opened_raster(model, files, one.job.reader, one.stack, LARGE)
        if one.windows is not None:
            one.image, one.views = one.windows.grid, views_by_windows(model, how, one.windows, files)
        else:
            image = casework.read_image(files, self.question, one.job.reader)
            self._require_held(image, files)
            if image.valid is not None and not image.valid.any():
                raise BadData("no voxel is valid: all are nodata, NaN or inf", where=" + ".join(map(str, files)))
            one.image, one.views = image, model.views(image, how)
            self.bytes = image.array.nbytes + sum(_size_of(view) for view in one.views)
        if model.seen is not None and one.windows is None:
            one.notes += unlike(one.image, model.seen, self.question)
        if one.image.placement.get("crs") == "" and one.job.ending.startswith(".tif"):
            one.notes += ("has no coordinate system, and so has its label",)

    def _predict(self, one: Opened) -> Opened:
        if one.done or one.fault:
            return one
        model = self.free.get()
        try:
            with set_aside(one):
                self._fill(one, model)
        finally:
            one.views = []
            self.free.put(model)
        return one

    def _fill(self, one: Opened, model: Model) -> None:
        from autoseg.steps import predict as step

        assert one.image is not None
        self.begun = [other for other in self.begun if other.sink is not None] + [one]
        how = self._how(model, one.image.array.nbytes if one.windows is None else 0)
        for name in [name for name in self.left if name.partition(".part.")[2] in names_of(one.job)]:
            (self.order.out / name).unlink(missing_ok=True)  # a kill left it
        one.sink = sink_for(self.question, one.image, self.order.out / (one.job.stem + one.job.ending), one.job.reader)
        one.extras = extras_for(
            self.order.extras, self.question, one.image, self.order.out, one.job.stem, one.windows
        )  # fmt: skip
        takers: list[Sink | Extra] = [one.sink, *one.extras]
        found, image = step.pieces(_on(one.views, model), self.question, how), one.image
        if steps := acts_of(model.postprocessing.steps, self.question):
            early = [extra for extra in one.extras if not extra.of_label]
            rest = [taker for taker in takers if taker not in early]
            give = partial(_give, early)
            if fits(image.shape, how.room):
                takers, found = rest, cleaned(found, image.shape, steps, image.spacing, give)
            elif streams(steps):
                beside = self.order.out / (one.job.stem + one.job.ending)
                found = cleaned_in_strips(found, image.shape, steps, image.spacing, give, how.room, beside)
                takers = rest
            else:
                one.notes += ("is too large for the steps of its postprocessing, of plug-ins, in this memory",)
                one.way = f"{self.way} without steps"  # with more memory it is made again
        with closing(found):
            for piece in found:
                _give(takers, piece)

    def _close(self, one: Opened) -> Opened:
        if one.done or one.fault:
            return one
        assert one.sink is not None
        files: list[Path] = []
        with set_aside(one):
            files = [one.sink.close()]
            for extra in one.extras:
                files += extra.close()
            files += [made for act in self.order.after if (made := act(files[0], one.job, self.question))]
        if not one.fault:
            self._note(one, files)
        return one

    def _note(self, one: Opened, files: Sequence[Path]) -> None:
        """Lets go of a case whose files are in their places, and says so in the list."""
        one.stack.close()
        one.image = one.sink = one.windows = None
        self.ledger.add(
            Made(
                case=one.job.stem, inputs=one.content, way=one.way or self.way, notes=one.notes,
                outputs={file.name: content_of([file]) for file in files}, seconds=time.monotonic() - one.began,
            )
        )  # fmt: skip

    def _room(self, model: Model, held: int) -> int:
        """What is left of the memory for fronts, beside what the process has (`held` of it are the image's voxels and
        its label's) and what the networks' features take."""
        from autoseg.steps import device as devices

        devices.give_back(devices.choose("cpu"))
        features = max(map(_features, model.configurations)) if model.device.type == "cpu" else 0
        left = self._ram() if self.order.ram is None else self.order.ram + held - devices.resident_memory()
        return max(1 << 20, left // len(self.models) - features)

    def _how(self, model: Model, held: int = 0) -> How:
        extras = self.order.extras
        return model.how(
            room=self._room(model, held), probabilities=extras.probabilities or extras.uncertainty,
            disagreement=extras.uncertainty, views=len(model.configurations) * len(model.scales),
        )  # fmt: skip


def _features(model: Model) -> int:
    """About the bytes that a network takes for a tile: six maps of its finest stage, and its answer five times."""
    from math import prod

    settings, outputs = model.run.settings, len(model.question.outputs)
    return 4 * prod(settings.patch) * (6 * settings.network.features[0] + 5 * outputs)


def _give(takers: Sequence[Sink | Extra], piece: Piece) -> None:
    for taker in takers:
        taker.take(piece)


def _on(views: Sequence[View], model: Model) -> list[View]:
    """The views with the networks of this model, which may be on another device than those they were prepared for."""
    from dataclasses import replace

    own = [one for one in model.configurations for _ in model.scales]
    return [
        replace(view, networks=one.networks, device=model.device, precision=one.precision)
        for view, one in zip(views, own, strict=True)
    ]


def _size_of(view: View) -> int:
    source: Any = view.prepared.source
    return int(source.array.nbytes) if hasattr(source, "array") else 0


def _way(model: Model, order: Order) -> str:
    """A hash of what a label depends on beside its image."""
    extras = order.extras
    said = [model.digest, model.step, model.mirror, model.scales, [act.__name__ for act in order.after]]
    said += [one.digest for one in model.beside] + [repr(extras), *model.postprocessing.texts]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
