"""Our side of bench_train.py alone: where a step's time goes, memory over many steps, what a patch costs to read."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bench_train_clock import say
from bench_train_made import balls_task, stored_volume
from bench_train_sides import Ours, answer, learner_of, our_home

EVERY = 250  # steps between two looks at the memory


# -- where a step's time goes -------------------------------------------------------------------------


def account(wanted: argparse.Namespace) -> dict[str, Any]:
    """Where the time of a training step goes, in float32 and in bf16."""
    ours = our_home(wanted)
    rows = {}
    for precision in ("float32", "bf16"):
        say(f"{wanted.steps} steps in {precision}")
        spec = {"root": str(ours.root), "task": ours.task, "plan": ours.plan, "precision": precision,
                **{name: getattr(wanted, name) for name in ("device", "threads", "warm", "steps", "seed")}}  # fmt: skip
        rows[precision] = answer(
            [sys.executable, __file__, "account", json.dumps({**spec, "title": wanted.configuration})]
        )
    whole = {precision: row["whole step"] for precision, row in rows.items()}
    print("\n| stage | float32, ms | share | bf16, ms | share |\n|---|---|---|---|---|")
    for stage in rows["float32"]:
        cells = [f"{row[stage] * 1e3:.2f} | {row[stage] / whole[precision]:.1%}" for precision, row in rows.items()]
        print(f"| {stage} | {' | '.join(cells)} |")
    return {"task": ours.task, "configuration": wanted.configuration, "seconds": rows}


def accounted(spec: dict[str, Any]) -> dict[str, float]:
    """Seconds per step and stage of our loop, as it measures them itself, beside the clock on the wall."""
    import torch

    from autoseg.steps import train

    torch.set_num_threads(spec["threads"])
    ours = Ours(Path(spec["root"]), spec["task"], spec["plan"])
    learner, batches = learner_of(ours, spec["title"], spec["device"], spec["precision"], spec["seed"])
    busy = [0.0]
    for name in ("draw", "read"):
        setattr(batches, name, _timed(getattr(batches, name), busy))
    last = spec["warm"] + spec["steps"]
    progress = train.train(learner, batches, last + 1, every=last + 2)
    for _ in range(spec["warm"]):
        next(progress)
    learner.stages.taken()
    busy[0] = 0.0
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(spec["steps"]):
        next(progress)
    total, cpu = time.perf_counter() - began, time.process_time() - worked
    table, step = dict(learner.stages.taken()), total / spec["steps"]
    progress.close()
    table.pop("rest", None)
    table |= {"unexplained": step - sum(table.values()), "whole step": step}
    return {**table, "reader thread, beside it": busy[0] / spec["steps"], "processor time": cpu / spec["steps"]}


def _timed(act: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """The function, whose seconds are added to the total."""

    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        found = act(*args)
        total[0] += time.perf_counter() - began
        return found

    return timed


# -- memory over many steps ---------------------------------------------------------------------------


def memory(wanted: argparse.Namespace) -> dict[str, Any]:
    """Resident memory over many small steps with few and with many cases."""
    rows = {}
    for count in wanted.cases:
        say(f"{wanted.steps} steps with {count} cases")
        spec = {"cases": count, "steps": wanted.steps, "threads": wanted.threads, "seed": wanted.seed}
        rows[count] = answer([sys.executable, __file__, "memory", json.dumps(spec)])
    steps = [step for step, _ in next(iter(rows.values()))]
    print(f"\n| step |{''.join(f' {count} cases, MB |' for count in rows)}\n|---|{'---|' * len(rows)}")
    for number, step in enumerate(steps):
        print(f"| {step} |{''.join(f' {row[number][1] / 1e6:.1f} |' for row in rows.values())}")
    middle = (len(steps) - 1) // 2
    growth = {count: row[-1][1] - row[middle][1] for count, row in rows.items()}
    for count, grown in growth.items():
        print(f"\n{count} cases: {grown / 1e6:+.1f} MB over the last {steps[-1] - steps[middle]} steps.")
    return {"resident": rows, "growth_of_second_half": growth}


def resident(spec: dict[str, Any]) -> list[tuple[int, int]]:
    """(step, bytes) of a run of `autoseg train` as it goes."""
    import torch

    from autoseg.pipeline.fold_cases import Wish
    from autoseg.pipeline.training import train
    from autoseg.store import Home

    torch.set_num_threads(spec["threads"])
    seen: list[tuple[int, int]] = []

    class Looking:
        """A voice that looks at the memory while it tracks the steps."""

        def say(self, text: str) -> None:
            """Nothing."""

        def status(self, *parts: str) -> None:
            """Nothing."""

        def track(self, items: Any, total: int, label: str, done: int = 0) -> Iterator[Any]:
            """The items; every so many of those of a training, the memory."""
            for number, item in enumerate(items, done + 1):
                if label == "3d fold 0" and (number % EVERY == 0 or number in (10, total)):
                    seen.append((number, _resident()))
                yield item

    with tempfile.TemporaryDirectory() as folder:
        # in a process of its own: what planning leaves in the memory is not training's
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(_laid, folder, spec["cases"], spec["seed"]).result()
        home = Home(Path(folder))
        plan, voice = home.plan("Balls", "default"), Looking()
        train(home, plan, Wish("3d", 0, spec["steps"], device="cpu", workers=1), voice)
    return seen


def _laid(folder: str, cases: int, seed: int) -> None:
    """A task of small volumes, planned and preprocessed."""
    from autoseg.pipeline import planning, tasks
    from autoseg.pipeline.voice import Silent
    from autoseg.store import Home

    home = Home(Path(folder))
    balls_task(home.task_folder("Balls"), cases, (24, 24, 24), seed)
    small = {"features": [4, 8], "strides": [[1] * 3, [2] * 3], "kernels": [[3] * 3] * 2, "depths": [1, 1],
             "decoder_depths": [1]}  # fmt: skip
    changes: dict[str, Any] = {f"configurations.3d.network.{field}": value for field, value in small.items()}
    changes |= {"configurations.3d.batch": 2, "configurations.3d.patch": [16, 16, 16]}
    plan = planning.make_plan(home, "Balls", Silent(), device="cpu", changes=changes, workers=1)
    tasks.prepare(home, plan, ["3d"], Silent(), 1)


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


# -- what a patch costs to read -----------------------------------------------------------------------


def patch(wanted: argparse.Namespace) -> dict[str, Any]:
    """What a random patch costs to read beside the whole array and beside nnU-Net's enlarged patch."""
    ours = our_home(wanted)
    _, batches = learner_of(ours, "3d" if "3d" in ours.read().configurations else "2d", "cpu", "float32")
    rows = [{"source": ours.task, **_costs(list(batches.cases), batches.patch, wanted), **_drawn(batches, wanted)}]
    with tempfile.TemporaryDirectory() as folder:
        shape = (96, 160, 160) if wanted.quick else (300, 512, 512)
        say(f"a volume of {shape}")
        case = stored_volume(Path(folder), shape, wanted.seed)
        edge = 64 if wanted.quick else 128
        rows.append({"source": "×".join(map(str, shape)), **_costs([case], (edge,) * 3, wanted)})
    print("\n| array | patch | what | voxels | MB decompressed | ms |\n|---|---|---|---|---|---|")
    for row in rows:
        for what in ("patch", "enlarged", "whole"):
            one = row[what]
            print(f"| {row['source']} | {'×'.join(map(str, row['size']))} | {what} | {one['voxels']:,.0f} | "
                  f"{one['bytes'] / 1e6:.2f} | {one['seconds'] * 1e3:.2f} |")  # fmt: skip
    print(f"\nAs drawn, with what turning and scaling need, a sample of {ours.task} reads "
          f"{rows[0]['drawn_ratio']:.2f} times its patch; nnU-Net's always "
          f"{math.prod(rows[0]['enlarged_size']) / math.prod(rows[0]['size']):.2f} times.")  # fmt: skip
    return {"reads": rows}


def _costs(cases: list[Any], size: tuple[int, ...], wanted: argparse.Namespace) -> dict[str, Any]:
    """Means over random places of patch, enlarged patch and whole array (image and label)."""
    rng, count = np.random.default_rng(wanted.seed), 5 if wanted.quick else 200
    big = enlarged(size)
    found: dict[str, Any] = {"size": size, "enlarged_size": big}
    flat = len(size) == 2
    for what, wish in (("patch", size), ("enlarged", big), ("whole", None)):
        reads = []
        for _ in range(count if wish else max(3, count // 10)):
            case = cases[rng.integers(len(cases))]
            limits = case.shape[1:] if flat else case.shape
            edges = [min(w, n) for w, n in zip(wish or limits, limits, strict=True)]
            starts = [int(rng.integers(n - e + 1)) for e, n in zip(edges, limits, strict=True)]
            box = tuple(slice(s, s + e) for s, e in zip(starts, edges, strict=True))
            reads.append(_read(case, (slice(0, 1), *box) if flat else box))
        means = np.mean(reads, 0)
        found[what] = dict(zip(("voxels", "bytes", "seconds"), means.tolist(), strict=True))
    return found


def _read(case: Any, box: tuple[slice, ...]) -> tuple[float, float, float]:
    """Voxels of a box, bytes of the blocks that it touches, seconds to read it."""
    import blosc2

    began = time.perf_counter()
    case.read(box)
    seconds = time.perf_counter() - began
    total = 0
    for file in (case.image_file, case.label_file):
        array = blosc2.open(str(file), "r")
        lead = math.prod(array.shape[:-3])
        total += lead * array.schunk.typesize * math.prod(
            _touched(part.start, part.stop, chunk, block)
            for part, chunk, block in zip(box, array.chunks[-3:], array.blocks[-3:], strict=True)
        )  # fmt: skip
    return math.prod(part.stop - part.start for part in box), total, seconds


def _touched(first: int, last: int, chunk: int, block: int) -> int:
    """Voxels along one axis of the blocks that first … last − 1 lie in; blocks begin anew in every chunk."""
    blocks = {(at // chunk, at % chunk // block) for at in range(first, last)}
    return len(blocks) * block


def _drawn(batches: Any, wanted: argparse.Namespace) -> dict[str, float]:
    """How much of an array a sample reads on average, in patches."""
    samples = [sample for step in range(20 if wanted.quick else 500) for sample in batches.draw(step)]
    sizes = [math.prod(sample.source_shape(batches.patch)) for sample in samples]
    return {"drawn_ratio": float(np.mean(sizes)) / math.prod(batches.patch)}


def enlarged(size: tuple[int, ...]) -> tuple[int, ...]:
    """nnU-Net's patch before its augmentation: its corner turned about every axis, over 0.85."""
    corner = np.array(size, float)
    if len(size) == 2:
        turns = [_turn(2, 0, 1, 90 if max(size) / min(size) <= 1.5 else 15)]
    else:
        turns = [_turn(3, 1, 2, 30), _turn(3, 2, 0, 30), _turn(3, 0, 1, 30)]
    largest = np.max([corner, *(np.abs(corner @ turn) for turn in turns)], 0)
    return tuple(int(edge) for edge in largest / 0.85)


def _turn(dims: int, a: int, b: int, degrees: float) -> np.ndarray[Any, Any]:
    """A rotation in the plane of two axes."""
    out, angle = np.eye(dims), math.radians(degrees)
    out[[a, b, a, b], [a, b, b, a]] = [math.cos(angle), math.cos(angle), -math.sin(angle), math.sin(angle)]
    return out


if __name__ == "__main__":
    print(json.dumps({"account": accounted, "memory": resident}[sys.argv[1]](json.loads(sys.argv[2]))))
