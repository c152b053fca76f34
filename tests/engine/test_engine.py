"""Here and Pool do the same; what goes wrong in a worker is told here."""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autoseg.catalogue import entries
from autoseg.engine import Here, Pool, cores, local
from autoseg.errors import AutosegError, BadData, RunFailed
from autoseg.plugins import load_files, load_installed
from autoseg.records import Folds
from autoseg.store import load_record


def raised(error: AutosegError) -> None:
    raise error


def test_here_answers_in_order_and_only_when_asked() -> None:
    done: list[int] = []
    results = Here().run(done.append, [3, 1, 2])
    assert done == []
    assert next(results) == (0, None) and done == [3]
    assert [index for index, _ in results] == [1, 2] and done == [3, 1, 2]


def test_an_error_here_ends_the_run() -> None:
    done: list[int] = []

    def job(number: int) -> None:
        done.append(number)
        raised(BadData("no"))

    with pytest.raises(BadData, match="no"):
        list(Here().run(job, [1, 2]))
    assert done == [1]


def test_pool_gives_what_here_gives() -> None:
    jobs = [5, 3, 8, 1]
    assert sorted(Pool(1).run(math.factorial, jobs)) == list(Here().run(math.factorial, jobs))
    assert list(Pool(2).run(math.factorial, [])) == []


def test_an_error_arrives_whole_from_a_worker(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "absent.json"
    told = []
    for executor in (Here(), Pool(1)):
        with pytest.raises(BadData) as problem:
            list(executor.run(functools.partial(load_record, Folds, error=BadData), [file]))
        told.append(vars(problem.value))
    assert told[0] == told[1]
    assert told[1]["where"] == str(file)


def test_a_worker_that_dies_is_a_failed_run() -> None:
    with pytest.raises(RunFailed, match="a worker process was killed") as told:
        list(Pool(1).run(os._exit, [3, 3, 3]))
    assert "--workers" in str(told.value)


def test_a_pool_that_breaks_while_jobs_are_handed_in_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    def broken(*_: object) -> None:
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    with pytest.raises(RunFailed, match="a worker process was killed"):
        list(Pool(1).run(operator.neg, [1]))


@pytest.mark.parametrize(("workers", "jobs"), [(1, 100), (8, 0), (8, 2), (None, 1)])
def test_few_jobs_or_one_worker_stay_here(workers: int | None, jobs: int) -> None:
    assert isinstance(local(workers, jobs), Here)


def test_a_pool_has_no_more_workers_than_jobs_or_cores() -> None:
    for workers, jobs, expected in ((8, 3, 3), (2, 100, 2), (5, 10**6, 5)):
        executor = local(workers, jobs)
        assert isinstance(executor, Pool) and executor.workers == expected
    by_itself = local(None, 10**6)
    assert isinstance(by_itself, Here) if cores() == 1 else getattr(by_itself, "workers", 0) == cores()


def test_workers_know_the_plugins_of_the_process_they_work_for(tmp_path: Path, install: Callable[..., Path]) -> None:
    text = 'from autoseg.parts import SCHEDULES\n\nSCHEDULES.add("NAME")(lambda steps: lambda step: 0.5)\n'
    plugin = tmp_path / "mine.py"
    plugin.write_text(text.replace("NAME", "mine"))
    load_files([plugin])
    install("packed", {"packed/__init__.py": text.replace("NAME", "packed")}, "packed")
    load_installed(pytest.fail)
    found = Pool(1).run(entries, ["mine", "packed"])
    assert [entry.kind for _, one in found for entry in one] == ["schedule", "schedule"]
