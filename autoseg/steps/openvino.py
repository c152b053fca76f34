"""Networks run by OpenVINO, which is faster than torch on many CPUs (extra `export`)."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.errors import BadUsage, RunFailed
from autoseg.steps.device import Precision

INSTALL = "pip install 'autoseg[export]'"
REPORTS = "openvino_telemetry"  # the package by which OpenVINO tells its makers that it is used
NEAR = {"float32": 1e-3, "bf16": 0.1}  # mean difference from torch's logits, in their standard deviations
_importing = threading.Lock()


class NotConverted(RunFailed):
    """A network that OpenVINO cannot run, or not with the same answers: torch has to."""


def available() -> bool:
    """Whether OpenVINO is installed and can be loaded."""
    try:
        _load()
    except ImportError:
        return False
    return True


def compiled(
    network: nn.Module, channels: int, patch: Sequence[int], precision: Precision, threads: int | None = None
) -> Compiled:
    """The network in evaluation, as OpenVINO runs it on the CPU; proved on one patch of noise.

    Args:
        network: on the CPU; answers a list of logits, the finest first. It is put into evaluation, and may be dropped
            afterwards.
        channels, patch: what it is given.
        precision: "bf16" is slower than "float32" on a CPU that has no such instructions.
        threads: None for as many as torch has.

    Raises: BadUsage where OpenVINO is not installed; NotConverted.
    """
    try:
        openvino = _load()
    except ImportError as problem:
        raise BadUsage(f"OpenVINO cannot be loaded ({problem})", remedy=f"install it: {INSTALL}") from None
    noise = torch.randn((1, channels, *patch), generator=torch.Generator().manual_seed(0))
    network.eval()
    try:
        with torch.inference_mode(False), torch.no_grad(), _hushed(), _without_reports():
            program = torch.export.export(_Finest(network), (noise,))
            model = openvino.convert_model(program)
            model.reshape(list(noise.shape))
            made = Compiled(openvino.Core().compile_model(model, "CPU", _settings(precision, threads)))
            expected = network(noise)[0].float()
    except Exception as problem:  # export and conversion fail in as many ways as there are operations
        reason = str(problem).strip().split("\n")[0][:200] or type(problem).__name__
        raise NotConverted(f"OpenVINO cannot run this network: {reason}") from problem
    away = (made(noise)[0] - expected).abs().mean() / expected.std(correction=0).clamp(min=1e-6)
    if not away <= NEAR[precision]:
        raise NotConverted(f"OpenVINO's logits differ from torch's by {away:.2g} of their standard deviation")
    return made


class Compiled(nn.Module):
    """Answers (B, C, *patch) with a list of the logits (B, K, *patch) alone, float32; usable in many threads at once.

    The samples of a batch follow each other: that is as fast as together, and takes the memory of one.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.shape: tuple[int, ...] = tuple(model.output(0).shape)[1:]
        self.own = threading.local()

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Raises: ValueError for patches of another shape than the network was compiled for."""
        wanted = tuple(self.model.input(0).shape)[1:]
        if tuple(batch.shape[1:]) != wanted:
            raise ValueError(f"patches of shape {tuple(batch.shape[1:])}, but the network was compiled for {wanted}")
        request = self._request()
        given = batch.detach().to("cpu", torch.float32).contiguous().numpy()
        found = torch.empty((len(batch), *self.shape))
        for number in range(len(batch)):
            request.infer([given[number : number + 1]], share_inputs=True)
            found[number] = torch.from_numpy(request.get_output_tensor(0).data)[0]
        return [found]

    def _request(self) -> Any:
        """This thread's: two may not share one."""
        if not hasattr(self.own, "request"):
            self.own.request = self.model.create_infer_request()
        return self.own.request


class _Finest(nn.Module):
    """A network that answers a tensor: the finest of its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        finest: Tensor = self.network(batch)[0]
        return finest


def _settings(precision: Precision, threads: int | None) -> dict[str, object]:
    """What the CPU is told.

    Threads are not pinned to cores, where those of another process may be pinned as well. Snippets, which join small
    operations, crash the process while a residual network is compiled (2026.4.1), and without them nothing is slower.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "SNIPPETS_MODE": "DISABLE",
    }


def _load() -> Any:
    """The package, imported without the one that reports its use over the network. Raises: ImportError."""
    with _importing, _hushed(), _without_reports():
        import openvino

        return openvino


@contextlib.contextmanager
def _without_reports() -> Iterator[None]:
    """For what is imported inside the package is not there: OpenVINO does without it, and keeps to that."""
    hidden = REPORTS not in sys.modules
    if hidden:
        sys.modules[REPORTS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[REPORTS]


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Neither the warnings of export nor what the conversion prints and logs are for users."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
