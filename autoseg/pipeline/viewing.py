"""A local page to look at cases: which there are, and what of them is shown."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.metrics import mean_of
from autoseg.errors import AutosegError, BadUsage
from autoseg.image import Image
from autoseg.pipeline import tasks
from autoseg.pipeline.choosing import complete
from autoseg.pipeline.ensembles import as_measured, finished, placed
from autoseg.pipeline.predicted import label_file
from autoseg.records import CaseFiles, Plan, Scores
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
    """A case of the page, with the file of its prediction and its Dice where it was held out."""

    files: CaseFiles
    prediction: Path | None
    dice: float | None


class Viewer:
    """The cases of a task, and what a browser may ask of them; nothing else of the disk is reached."""

    def __init__(self, home: Home, plan: Plan) -> None:
        self.place, self.plan, self.question = home.task_folder(plan.task), plan, plan.question
        dataset, _ = tasks.dataset_of(home, plan.task)
        labels, scores = _held(home, plan)
        known = [files for files in dataset.cases if files.label is not None]
        rows = [Shown(files, labels.get(files.id), _dice(scores, files.id)) for files in known]
        if not rows:
            raise BadUsage("no case has a label", where=plan.task)
        self.cases = sorted(rows, key=lambda one: (one.dice is None, one.dice or 0.0, one.files.id))

    def page(self) -> bytes:
        """The HTML."""
        flat = self.question.reader == "raster"
        cases = [
            {"name": files.id, "dice": one.dice, "predicted": one.prediction is not None, "site": files.site or ""}
            for one in self.cases for files in (one.files,)
        ]  # fmt: skip
        keys = [{"name": name, "index": self.question.classes.index(name), "colour": colour}
                for name, colour in frames.names(self.question.classes)]  # fmt: skip
        channels = [channel.name for channel in self.question.channels]
        fields = {"task": self.plan.task, "plan": self.plan.name, "cases": cases, "keys": keys, "flat": flat,
                  "channels": channels}  # fmt: skip
        return report.rendered("view.html", fields).encode()

    def part(self, number: int, name: str) -> tuple[str, bytes]:
        """(kind, content) of an image, or a label, of a case. Raises: KeyError for what there is not; BadData."""
        one = self.cases[number] if 0 <= number < len(self.cases) else None
        if one is None:
            raise KeyError(name)
        what, _, ending = name.partition(".")
        if ending == "png":
            return "image/png", self._picture(one, what)
        if ending == "nii.gz":
            return "application/gzip", self._volume(one, what)
        raise KeyError(name)

    def _image(self, one: Shown) -> Image:
        return casework.read_image([self.place / file for file in one.files.images], self.question)

    def _label(self, one: Shown, what: str) -> tuple[NDArray[np.uint8], Image]:
        """Class indices; voxels without meaning are background here."""
        file = one.prediction if what == "prediction" else self.place / str(one.files.label)
        if what not in LAYERS or file is None:
            raise KeyError(what)
        read = casework.read_label(file, self.question)
        indices = casework.to_indices(read.array[0], self.question, where=str(file))
        return np.where(indices == frames.IGNORE, 0, indices).astype(np.uint8), read

    def _volume(self, one: Shown, what: str) -> bytes:
        """NIfTI along the axes in memory, which are those nearest to right, front and up."""
        if what.startswith("image"):
            image, channel = self._image(one), what.removeprefix("image")
            if not channel.isdecimal() or int(channel) >= image.channels:
                raise KeyError(what)
            array: NDArray[Any] = image.array[int(channel)].astype(np.float32)
            return _nifti(np.nan_to_num(array), image.spacing)
        label, read = self._label(one, what)
        return _nifti(label, read.spacing)

    def _picture(self, one: Shown, what: str) -> bytes:
        if what == "image0":
            picture = (shown(self._image(one)) * 255).astype(np.uint8)
        else:
            picture = frames.tinted(self._label(one, what)[0])
        step = max(1, -(-max(picture.shape[:2]) // MOST))
        return frames.png(picture[::step, ::step])


def _nifti(array: NDArray[Any], spacing: tuple[float, ...]) -> bytes:
    import nibabel as nib

    made = nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([*spacing[::-1], 1.0]))
    return gzip.compress(made.to_bytes(), 1)


def _held(home: Home, plan: Plan) -> tuple[Mapping[str, Path], Scores | None]:
    """The labels by the model that was chosen, or else by the runs that are finished, and their scores."""
    choice, scores = home.choice(plan.task, plan.name), home.choice_scores(plan.task, plan.name)
    if choice is not None:
        try:
            held = placed(home, finished(home, plan, [*choice.runs], choice.seed, as_measured(home, plan)))
        except BadUsage:  # a run has changed since
            held = []
        if held:
            return {one.files.id: one.labels[choice.configurations] for one in held}, scores
    dataset, _ = tasks.dataset_of(home, plan.task)
    files = {one.id: one for one in dataset.cases}
    labels: dict[str, Path] = {}
    cases = {}
    for folder in home.runs(plan.task, plan.name):
        found = folder.scores() if complete(folder) else None
        for case, row in found.cases.items() if found else ():
            if case in files and case not in labels:
                labels[case], cases[case] = label_file(folder, files[case], plan.question), row
    return labels, Scores(rule="", unit="", cases=cases, mean={}, dice=None)


def _dice(scores: Scores | None, case: str) -> float | None:
    row = scores.cases.get(case) if scores else None
    return mean_of(one.dice for one in row.values()) if row else None


# -- the server ----------------------------------------------------------------------------------------


def server(viewer: Viewer, port: int) -> ThreadingHTTPServer:
    """A server that this machine alone can reach; port 0 takes a free one. Raises: BadUsage where it is taken."""

    class Asked(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
            if host not in LOCAL:  # another site's name that leads here
                self.send_error(403)
                return
            try:
                kind, content = _answer(viewer, self.path)
            except KeyError:
                self.send_error(404)
                return
            except AutosegError as problem:
                self.send_error(500, explain=str(problem))
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", "default-src 'self' data: blob: 'unsafe-inline'")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: case names belong into no log."""

    try:
        return ThreadingHTTPServer((LOCAL[0], port), Asked)
    except OSError as problem:
        raise BadUsage(f"cannot be used: {problem}", where=f"--port {port}", remedy="take another one") from None


def _answer(viewer: Viewer, path: str) -> tuple[str, bytes]:
    """(kind, content). Raises: KeyError for what there is not."""
    match path.split("?")[0].strip("/").split("/"):
        case [""]:
            return "text/html; charset=utf-8", viewer.page()
        case ["static", name] if name in SCRIPTS:
            return SCRIPTS[name], (resources.files("autoseg") / "pages" / "vendor" / name).read_bytes()
        case ["case", number, name] if number.isdecimal():
            return viewer.part(int(number), name)
    raise KeyError(path)
