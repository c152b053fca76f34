"""How both sides of bench_train.py time their steps; the standard library alone, so that it runs on either side."""

import contextlib
import resource
import statistics
import subprocess
import sys
import threading
import time


def say(text):
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def timed_steps(step, warm, count, gpu=False):
    """Seconds per step over `count` whole steps after `warm` others; `busy`: the GPU's share of that time."""
    for _ in range(warm):
        step()
    times = []
    with watched(gpu) as samples:
        for _ in range(count):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
    found = {"seconds": sum(times) / count, "median": statistics.median(times), "steps": count, "warm": warm}
    return {**found, "busy": statistics.mean(samples) / 100} if samples else found


@contextlib.contextmanager
def watched(gpu, every=0.5):
    """A list that fills with the GPU's utilisation in percent, as nvidia-smi samples it; empty without a GPU."""
    samples, over = [], threading.Event()

    def sample():
        while not over.wait(every):
            with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
                words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
                samples.append(float(subprocess.run(words, check=True, capture_output=True, text=True).stdout))

    thread = threading.Thread(target=sample, daemon=True)
    if gpu:
        thread.start()
    try:
        yield samples
    finally:
        over.set()
        if gpu:
            thread.join()


def cpu_seconds(who=resource.RUSAGE_CHILDREN):
    """Processor time of the children that were waited for (and theirs), or of this process."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime
