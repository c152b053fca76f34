"""A local page to look at cases: which there are, and what of them is shown."""

from __future__ import annotations

import contextlib
import gzip
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.metrics import mean_of
from autoseg.errors import AutosegError, BadData, BadUsage
from autoseg.image import IGNORE, Image
from autoseg.pipeline import scoring, tasks
from autoseg.pipeline.choosing import complete, standing
from autoseg.pipeline.ensembles import as_measured, finished, placed
from autoseg.pipeline.inputs import inputs
from autoseg.pipeline.out_of_fold import postprocessed
from autoseg.pipeline.predicted import label_file
from autoseg.pipeline.voice import Silent
from autoseg.readers import same_place, stem_of
from autoseg.records import NOTHING, Plan, Postprocessing, Scores
from autoseg.steps import cases as casework
from autoseg.steps import frames, report
from autoseg.steps.outputs import shown
from autoseg.store import Home

SCRIPTS = {"niivue.umd.js": "text/javascript", "leaflet.js": "text/javascript", "leaflet.css": "text/css"}
LOCAL = ("127.0.0.1", "localhost", "[::1]")
LAYERS = ("reference", "prediction")
MOST = 4096  # pixels along an edge of a raster that are shown


@dataclass(frozen=True)
class Shown:
    """A case of the page: its files, and the Dice of its prediction where it was held out."""

    name: str
    images: tuple[Path, ...]
    reader: str
    reference: Path | None
    prediction: Path | None
    dice: float | None = None
    site: str = ""


class Viewer:
    """The cases of a task, and what a browser may ask of them; nothing else of the disk is reached.

    Args:
        images: a folder of images to look at in their place; predictions: one of labels, in the place of those of the
            runs, found by the names of the cases.
    Attributes:
        said: what is not shown of them, and why.
    Raises: BadUsage, BadData where such a folder holds none.
    """

    def __init__(self, home: Home, plan: Plan, images: Path | None = None, predictions: Path | None = None) -> None:
        self.plan, self.question, self.after = plan, plan.question, NOTHING
        self.flat = self.question.reader == "raster"
        self.given: Mapping[str, Path] | None = None
        faults: Mapping[str, str] = {}
        if predictions is not None:
            self.given, faults = _labels(predictions)
        if images is not None:
            found, labels = inputs(images, self.question), self.given or {}
            faults = {**faults, **found.faults}
            if len(found.jobs) == len(labels) == 1:  # whatever they are called
                labels = {found.jobs[0].stem: next(iter(labels.values()))}
            rows = [Shown(one.stem, one.files, one.reader, None, labels.get(one.stem)) for one in found.jobs]
        else:
            rows = self._of_task(home)
        self.said = [f"{name} is not shown: {why}" for name, why in faults.items()]
        if not rows:
            what = "; ".join(["holds no image that can be shown", *faults.values()])
            raise BadUsage(what, where=str(images or self.plan.task))
        if self.given is not None and not any(one.prediction for one in rows):
            what = "; ".join(["holds a prediction of none of the cases", *faults.values()])
            raise BadUsage(what, where=str(predictions), expected="their names")
        self.cases = sorted(rows, key=lambda one: (one.dice is None, one.dice or 0.0, one.name))
        self._turn = threading.Lock()  # large images are made one after the other
        self._made: dict[tuple[int, str], tuple[str, bytes]] = {}

    def _of_task(self, home: Home) -> list[Shown]:
        place, reader = home.task_folder(self.plan.task), self.question.reader
        dataset, _ = tasks.dataset_of(home, self.plan.task)
        labels: Mapping[str, Path] = self.given or {}
        scores = None
        if self.given is None:
            labels, scores, self.after = _held(home, self.plan)
        rows = []
        for files in dataset.cases:
            images = tuple(place / name for name in files.images)
            label = None if files.label is None else place / files.label
            dice, site = _dice(scores, files.id), files.site or ""
            rows.append(Shown(files.id, images, reader, label, labels.get(files.id), dice, site))
        return rows

    def page(self) -> bytes:
        """The HTML."""
        cases = [
            {"name": one.name, "dice": one.dice, "site": one.site,
             "layers": [layer for layer in LAYERS if getattr(one, layer) is not None]}
            for one in self.cases
        ]  # fmt: skip
        keys = [
            {"name": name, "index": self.question.classes.index(name), "colour": colour}
            for name, colour in frames.names(self.question)
        ]
        channels = [channel.name for channel in self.question.channels]
        fields = {"task": self.plan.task, "plan": self.plan.name, "cases": cases, "keys": keys, "flat": self.flat,
                  "channels": channels}  # fmt: skip
        return report.rendered("view.html", fields).encode()

    def part(self, number: int, name: str) -> tuple[str, bytes]:
        """(kind, content) of an image, or a label, of a case. Raises: KeyError for what there is not; BadData."""
        what, _, ending = name.partition(".")
        if not 0 <= number < len(self.cases) or ending != ("png" if self.flat else "nii.gz"):
            raise KeyError(name)
        with self._turn:
            if (number, name) not in self._made:
                one = self.cases[number]
                if any(case != number for case, _ in self._made):
                    self._made.clear()  # one case's are held
                kind = "image/png" if self.flat else "application/gzip"
                self._made[number, name] = kind, (self._picture if self.flat else self._volume)(one, what)
            return self._made[number, name]

    def _image(self, one: Shown) -> Image:
        return casework.read_image([*one.images], self.question, one.reader)

    def _label(self, one: Shown, what: str) -> tuple[NDArray[np.uint8], Image]:
        """Class indices, IGNORE where a reference means nothing; predictions as they were scored. Raises: BadData."""
        file: Path | None = getattr(one, what) if what in LAYERS else None
        if file is None:
            raise KeyError(what)
        if what == "reference":
            read = casework.read_label(file, self.question)
            return casework.to_indices(read.array[0], self.question, where=str(file)), read
        if self.given is not None:
            read, label, unsaid = scoring.prediction_of(file, self.question)
            if (place := same_place(self._image(one), read)).fatal:
                raise BadData(f"does not lie on its image: {place.sentence}", where=str(file))
            valid = None if unsaid is None else ~unsaid
            return casework.to_indices(label, self.question, valid, str(file)), read
        read = casework.reader_of(self.question).read_label(file)
        indices = casework.to_indices(read.array[0], self.question, where=str(file))
        return postprocessed(indices, file, self.question, self.after, read.spacing), read

    def _volume(self, one: Shown, what: str) -> bytes:
        """NIfTI along the axes in memory, which are those nearest to right, front and up."""
        if what.startswith("image"):
            image, channel = self._image(one), what.removeprefix("image")
            if not channel.isdecimal() or int(channel) >= image.channels:
                raise KeyError(what)
            array: NDArray[Any] = image.array[int(channel)].astype(np.float32)
            return _nifti(np.nan_to_num(array), image.spacing)
        label, read = self._label(one, what)
        return _nifti(np.where(label == IGNORE, 0, label).astype(np.uint8), read.spacing)

    def _picture(self, one: Shown, what: str) -> bytes:
        if what == "image0":
            image = self._image(one)
            thin = _thinned(image.shape)
            valid = None if image.valid is None else image.valid[thin]
            small = Image(image.array[(slice(None), thin[0], thin[1])], image.spacing, valid)
            return frames.png((shown(small) * 255).astype(np.uint8))
        label = self._label(one, what)[0]
        table = frames.palette(len(self.question.classes), self.question.background)
        return frames.paletted(np.ascontiguousarray(label[_thinned(label.shape)]), table)


def _labels(place: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The labels of a folder, or one, by the names of their cases, and why some are none. Raises: BadData."""
    return ({stem_of(place.name): place}, {}) if place.is_file() else scoring.labels_of(place)


def _thinned(shape: tuple[int, ...]) -> tuple[slice, ...]:
    step = max(1, -(-max(shape) // MOST))
    return (slice(None, None, step),) * len(shape)


def _nifti(array: NDArray[Any], spacing: tuple[float, ...]) -> bytes:
    import nibabel as nib

    made = nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([*spacing[::-1], 1.0]))
    return gzip.compress(made.to_bytes(), 1)


def _held(home: Home, plan: Plan) -> tuple[Mapping[str, Path], Scores | None, Postprocessing]:
    """The labels by the model that was chosen, their scores and postprocessing; else by the runs that are finished."""
    choice, scores = home.choice(plan.task, plan.name), home.choice_scores(plan.task, plan.name)
    if choice is not None and standing(home, plan, Silent()) is not None:
        try:
            held = placed(home, finished(home, plan, [*choice.runs], choice.seed, as_measured(home, plan)))
        except BadUsage:  # a case, the folds or the plan has changed since
            held = []
        if held:
            return {one.files.id: one.labels[choice.configurations] for one in held}, scores, choice.cleaning.taken
    dataset, _ = tasks.dataset_of(home, plan.task)
    files = {one.id: one for one in dataset.cases}
    labels: dict[str, Path] = {}
    cases = {}
    for folder in home.runs(plan.task, plan.name):
        found = folder.scores() if complete(folder) else None
        for case, row in found.cases.items() if found else ():
            if case in files and case not in labels:
                labels[case], cases[case] = label_file(folder, files[case], plan.question), row
    return labels, Scores(rule="", unit="", cases=cases, mean={}, dice=None), NOTHING


def _dice(scores: Scores | None, case: str) -> float | None:
    row = scores.cases.get(case) if scores else None
    return mean_of(one.dice for one in row.values()) if row else None


# -- the server ----------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Gives a viewer's page to who knows its address, from this machine alone."""

    daemon_threads = True

    def __init__(self, viewer: Viewer, port: int) -> None:
        self.viewer, self.secret = viewer, secrets.token_urlsafe(12)
        super().__init__((LOCAL[0], port), _Asked)

    @property
    def address(self) -> str:
        """Where the page is; other users of the machine cannot guess it."""
        return f"http://{LOCAL[0]}:{self.server_port}/{self.secret}/"


class _Asked(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        from_here = self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        if host not in LOCAL or not from_here:  # another site's name that leads here, or another site's page
            self.send_error(403)
            return
        try:
            kind, content = _answer(self.server.viewer, self.server.secret, self.path)
        except KeyError:
            self.send_error(404)
        except (AutosegError, MemoryError) as problem:
            said = str(problem) or "it does not fit into the memory"
            self._give("text/plain; charset=utf-8", said.encode(), 500)
        else:
            self._give(kind, content)

    def _give(self, kind: str, content: bytes, status: int = 200) -> None:
        headers = {
            "Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline'; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
        }  # fmt: skip
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        with contextlib.suppress(ConnectionError):  # the browser has gone on
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: case names belong into no log."""


def server(viewer: Viewer, port: int) -> Server:
    """A server for the viewer; port 0 takes a free one. Raises: BadUsage where it is taken."""
    try:
        return Server(viewer, port)
    except OSError as problem:
        raise BadUsage(f"cannot be used: {problem}", where=f"--port {port}", remedy="take another one") from None


def _answer(viewer: Viewer, secret: str, path: str) -> tuple[str, bytes]:
    """(kind, content). Raises: KeyError for what there is not."""
    first, *rest = path.split("?")[0].lstrip("/").split("/")
    if not secrets.compare_digest(first.encode(), secret.encode()):
        raise KeyError(path)
    match rest:
        case [""]:
            return "text/html; charset=utf-8", viewer.page()
        case ["static", name] if name in SCRIPTS:
            return SCRIPTS[name], (resources.files("autoseg") / "pages" / "vendor" / name).read_bytes()
        case ["case", number, name] if number.isdecimal():
            return viewer.part(int(number), name)
    raise KeyError(path)
