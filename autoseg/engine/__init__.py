"""Who runs a list of jobs: this process, or a pool of processes on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from autoseg.errors import RunFailed
from autoseg.plugins import LOADED, Plugin

READERS = ("nibabel", "blosc2", "cc3d")  # what nearly every job imports

Job = TypeVar("Job")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs `function(job)` for every job; answers (index, result) as they come. An error ends it and is raised."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]: ...


class Here:
    """One job after the other in this process."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """In the order of the jobs."""
        for index, job in enumerate(jobs):
            yield index, function(job)


class Pool:
    """Processes of their own; function and jobs must be importable and plain. A worker that dies is an error.

    They are forked from a server that has imported what they need and runs nothing (Linux, macOS), else started anew.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """In the order in which they are done."""
        context = _context(function)
        with ProcessPoolExecutor(self.workers, context, initializer=_load, initargs=(tuple(LOADED),)) as pool:
            try:
                waiting = {pool.submit(_single, function, job): index for index, job in enumerate(jobs)}
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
            except BrokenProcessPool:
                raise RunFailed(
                    "a worker process was killed, most likely because memory ran out",
                    remedy="start again with fewer --workers; what was finished is kept",
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _context(function: Callable[..., object]) -> multiprocessing.context.BaseContext:
    """How workers are started: threads that run here must not be copied, so never by forking this process."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([getattr(function, "func", function).__module__, *READERS])
    return context


def _load(plugins: Sequence[Plugin]) -> None:
    """A worker knows the parts that the process it works for knows."""
    for plugin in plugins:
        plugin.run()


def _single(function: Callable[[Job], Result], job: Job) -> Result:
    """Runs a job with one thread, as the workers share the cores."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    return function(job)


def local(workers: int | None, jobs: int) -> Executor:
    """This process for few jobs or one worker, else a pool (by default one worker per core)."""
    workers = workers or cores()
    return Here() if workers == 1 or jobs <= 2 else Pool(min(workers, jobs))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
