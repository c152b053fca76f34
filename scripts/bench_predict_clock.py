"""What a whole process takes: seconds on the wall and of the processors, memory of it and all its children; Linux."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_train_clock import watched

EVERY = 0.05  # seconds between two looks at the memory
SHARE = 20  # how many times longer than a look the pause after it is at least, so that looking costs next to nothing
KINDS = {"Pss": "peak", "Pss_Anon": "peak_anonymous"}  # of /proc/PID/smaps_rollup


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None, gpu: bool = False) -> dict[str, Any]:
    """Runs a command and watches it.

    Returns: `seconds`; `cpu_seconds` of it and the children that it waited for; `peak`: bytes of memory at the worst
        moment, PSS (pages that processes share are counted once) summed over all processes of its session;
        `peak_anonymous`: the same without mapped files; `largest`: the most that one process ever held, RSS; with
        `gpu`, `busy`: the GPU's share of the time.
    Raises: SystemExit where it fails, after showing what it said last.
    """
    with tempfile.TemporaryFile("w+") as said, watched(gpu) as samples:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        with _memory(process.pid) as peaks:
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read()[-6000:])
            raise SystemExit(f"{' '.join(map(str, command))[:300]} failed with {process.returncode}")
    found = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "largest": used.ru_maxrss * 1024}
    busy = {"busy": sum(samples) / len(samples) / 100} if samples else {}
    return {**found, **peaks, **busy}


@contextlib.contextmanager
def _memory(session: int) -> Iterator[dict[str, int]]:
    """Peaks of the memory of a session's processes, for as long as the block lasts."""
    peaks, over, foreign = dict.fromkeys(KINDS.values(), 0), threading.Event(), set[int]()

    def look() -> None:
        pause = 0.0
        while not over.wait(pause):
            began = time.perf_counter()
            for name, held in _held(session, foreign).items():
                peaks[name] = max(peaks[name], held)
            pause = max(EVERY, SHARE * (time.perf_counter() - began))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _held(session: int, foreign: set[int]) -> dict[str, int]:
    """Bytes that the processes of the session hold now; `foreign` are those that were seen to be of another one."""
    total = dict.fromkeys(KINDS.values(), 0)
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal() or (pid := int(place.name)) in foreign:
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):  # it ended meanwhile
            if int((place / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                foreign.add(pid)
                continue
            for line in (place / "smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in KINDS:
                    total[KINDS[name]] += int(rest.split()[0]) * 1024
    return total
