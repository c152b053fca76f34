"""TensorBoard and MLflow: what a run writes to them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.records import Run
from autoseg.store import save_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Logged

SEND_SECONDS = 5.0  # between what is sent
WAIT_SECONDS, TRIES = 10, 1  # for a server of MLflow, where the user has not said otherwise; then again so often
AT_ONCE = 900  # numbers that MLflow takes at once, of the 1000 that it can
LONGEST = 6000  # characters of a parameter in MLflow

Picture = Callable[[], bytes]


class TensorBoard:
    """Event files in a folder; what they hold of the steps after `step` is not shown any more."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _hush_writer()
        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=int(SEND_SECONDS))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, draw: Picture) -> None:
        from matplotlib.image import imread

        self.writer.add_image("patches", imread(io.BytesIO(draw()))[..., :3], step, dataformats="HWC")

    def finish(self, step: int, values: Mapping[str, float], files: Mapping[str, str]) -> None:
        """It shows no files."""
        self.scalars(step, values)

    def close(self, status: str) -> None:
        self.writer.close()


def _hush_writer() -> None:
    """What fails in TensorBoard's own thread is raised at the next number as well, so there it need not be printed."""
    shown = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard"):
            shown(args)

    threading.excepthook = hook


class MLflow:
    """A run in a store of MLflow; its id is kept in a file, so that it is found again."""

    def __init__(self, uri: str, run: Run, file: Path) -> None:
        from mlflow import MlflowClient

        _tame()
        self.client = MlflowClient(tracking_uri=uri)
        self.waiting: list[tuple[str, float, int, int]] = []
        self.sent = time.monotonic()
        known = _known(self.client, file)
        self.id = self._begun(run) if known is None else str(known.info.run_id)
        self.done = -1
        if known is None:
            save_text(file, json.dumps({"run": self.id}) + "\n")
        else:
            self.client.update_run(self.id, status="RUNNING")
            history = self.client.get_metric_history(self.id, "seconds/step")
            self.done = max((one.step for one in history), default=-1)

    def _begun(self, run: Run) -> str:
        from mlflow.entities import Param

        found = self.client.get_experiment_by_name(run.task)
        experiment = self.client.create_experiment(run.task) if found is None else found.experiment_id
        name = f"{run.plan}/{run.configuration}/{run.fold}/{run.seed}"
        made = str(self.client.create_run(experiment, run_name=name).info.run_id)
        given = [Param(key, value[:LONGEST]) for key, value in parameters(run).items()]
        for first in range(0, len(given), 100):  # as many as it takes at once
            self.client.log_batch(made, params=given[first : first + 100])
        return made

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """What was logged before the run was stopped, and comes again, is passed over."""
        if step > self.done:
            self._add(step, values)
        if len(self.waiting) > AT_ONCE or time.monotonic() - self.sent > SEND_SECONDS:
            self._send()

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self.waiting += [(name, value, now, step) for name, value in values.items()]

    def _send(self) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*one) for one in self.waiting]
        self.waiting = []  # what cannot be sent is not tried again, so that the run can still be closed
        for first in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(self.id, metrics=metrics[first : first + AT_ONCE])
        self.sent = time.monotonic()

    def picture(self, step: int, draw: Picture) -> None:
        """Nothing: TensorBoard shows them."""

    def finish(self, step: int, values: Mapping[str, float], files: Mapping[str, str]) -> None:
        """The numbers first: files go to a store of their own, which may fail alone."""
        self._add(step, values)
        self._send()
        for name, text in files.items():
            self.client.log_text(self.id, text, name)

    def close(self, status: str) -> None:
        self._send()
        self.client.set_terminated(self.id, status)


def _tame() -> None:
    """MLflow says nothing of its own, sends its makers nothing, and does not wait for minutes for a lost server."""
    from mlflow import environment_variables as settings

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    wanted = {"HTTP_REQUEST_MAX_RETRIES": TRIES, "HTTP_REQUEST_TIMEOUT": WAIT_SECONDS, "DISABLE_TELEMETRY": True}
    for name, value in wanted.items():
        setting: Any = getattr(settings, f"MLFLOW_{name}", None)  # the last is there since 3.2
        if setting is not None and not setting.is_set():
            setting.set(value)
    with contextlib.suppress(ImportError):
        from mlflow.telemetry import set_telemetry_client

        set_telemetry_client()


def _known(client: MlflowClient, file: Path) -> Logged | None:
    """The run whose id stands in the file; None where there is none, or the store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(str(json.loads(file.read_text(encoding="utf-8"))["run"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    except MlflowException as problem:
        if problem.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def parameters(run: Run) -> dict[str, str]:
    """What a run was started with, by dotted names: its settings, and no name of a case or file."""
    told = {"task", "plan", "configuration", "fold", "seed", "device", "precision", "threads", "version"}
    return dict(_flat(run.model_dump(mode="json", include={*told, "settings"})))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, key if name in ("", "settings") else f"{name}.{key}")
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
