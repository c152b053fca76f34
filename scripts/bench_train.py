"""Training beside nnU-Net's: speed of a step, Dice within a budget, where a step's time goes, memory, reading.

    python scripts/bench_train.py speed   TASK_FOLDER 3d --steps 100 --pairs 3 --precision float32
    python scripts/bench_train.py dice    TASK_FOLDER --minutes 20
    python scripts/bench_train.py ours    TASK_FOLDER --minutes 5 15 30 60
    python scripts/bench_train.py account TASK_FOLDER 3d --steps 200
    python scripts/bench_train.py patch   TASK_FOLDER
    python scripts/bench_train.py memory  --steps 5000 --cases 10 100
    python scripts/bench_train.py gpu     [TASK_FOLDER] --steps 200

TASK_FOLDER holds imagesTr, labelsTr and, unless the images are PNG, the dataset.json of the Medical Segmentation
Decathlon; every image is one file. Nothing is asked on the way. Progress goes to stderr; the tables are Markdown; the
last line of stdout is one JSON object with every figure.

Both sides have --threads processors (two; Linux). Homes, plans and preprocessed arrays of both are made once and stay
in --work DIR; remove it to begin anew. nnU-Net runs in the environment that scripts/opponent makes (AUTOSEG_OPPONENT
names it).

speed     whole steps, the wait for data included, each side with its own arrays, reading and augmentation, of the same
          network, patch, batch and cases; the processes take turns. nnU-Net has 0, 1 or 2 loader processes, whichever
          is fastest in a short trial. On a CPU it trains in float32 whatever --precision says of ours.
dice      each side with its own plan and defaults; nnU-Net's epochs are set so that its schedule ends with the budget.
          Both predict fold 0 with mirroring and are scored by `autoseg evaluate`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from bench_train_clock import cpu_seconds, say
from bench_train_gpu import gpu
from bench_train_own import account, memory, patch
from bench_train_sides import Ours, Theirs, files_of, our_home, our_turn, settle, their_home

ROOT = Path(__file__).resolve().parent.parent
SAME = ("parameters", "patch", "batch", "channels", "cases")


# -- speed --------------------------------------------------------------------------------------------


def speed(wanted: argparse.Namespace, plan: str = "default", words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Patches per second of both, in turn."""
    ours = our_home(wanted, plan, words)
    theirs = their_home(ours, wanted.configuration, wanted)
    spec = {name: getattr(wanted, name) for name in ("device", "threads", "warm", "steps", "seed", "workers")}
    loaders = _loaders(theirs, spec, wanted) if theirs else {}
    best = min(loaders, key=loaders.__getitem__) if loaders else 0
    mine, their = [], []
    for number in range(wanted.pairs):
        mine.append(our_turn(ours, wanted.configuration, **spec, precision=wanted.precision))
        said = f"pair {number + 1} of {wanted.pairs}: autoseg {mine[-1]['seconds']:.4f} s per step"
        if theirs:
            their.append(theirs.call("steps", **spec, loaders=best))
            _require_same(mine[-1], their[-1])
            said += f", nnU-Net {their[-1]['seconds']:.4f} s"
        say(said)
    return _told(mine, their, {"task": ours.task, "configuration": wanted.configuration, "loader_trials": loaders})


def _loaders(theirs: Theirs, spec: dict[str, Any], wanted: argparse.Namespace) -> dict[int, float]:
    """nnU-Net's seconds per step with so many loader processes."""
    if len(wanted.loaders) == 1:
        return {wanted.loaders[0]: 0.0}
    few = {**spec, "steps": max(3, wanted.steps // 4)}
    found = {}
    for count in wanted.loaders:
        found[count] = theirs.call("steps", **few, loaders=count)["seconds"]
        say(f"nnU-Net with {count} loader processes: {found[count]:.4f} s per step")
    return found


def _require_same(mine: dict[str, Any], their: dict[str, Any]) -> None:
    """Raises: SystemExit where the two sides do not do the same work."""
    if unlike := {name: (mine[name], their[name]) for name in SAME if mine[name] != their[name]}:
        raise SystemExit(f"the two sides do not do the same work: {unlike}")


def _told(mine: list[dict[str, Any]], their: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """Prints the table of a comparison; its figures."""
    one = mine[0]
    size, sides = "×".join(map(str, one["patch"])), [("autoseg", mine)] + ([("nnU-Net", their)] if their else [])
    what = f"patch {size}, batch {one['batch']}, {one['parameters']:,} parameters, {one['cases']} cases"
    print(f"\n{facts['task']} {facts['configuration']}: {what}\n")
    print("| side | patches per second | seconds per step | how |\n|---|---|---|---|")
    for name, runs in sides:
        seconds = statistics.median(run["seconds"] for run in runs)
        how = [
            runs[0]["optimiser"],
            runs[0].get("precision", "compiled, fp16" if runs[0].get("compiled") else "float32 (fp16 on a GPU)"),
        ]
        how += [f"{runs[0]['loaders']} loader processes"] if "loaders" in runs[0] else []
        how += [f"GPU busy {statistics.median(run['busy'] for run in runs):.0%}"] if "busy" in runs[0] else []
        facts[name] = {"patches_per_second": one["batch"] / seconds, "seconds": seconds, "runs": runs}
        print(f"| {name} | {one['batch'] / seconds:.2f} | {seconds:.4f} | {', '.join(how)} |", flush=True)
    if their:
        facts["ratios"] = [b["seconds"] / a["seconds"] for a, b in zip(mine, their, strict=True)]
        facts["ratio"] = statistics.median(facts["ratios"])
        print(f"\nautoseg trains {facts['ratio']:.2f} times as many patches per second.")
    return facts


# -- Dice within a budget -----------------------------------------------------------------------------


def dice(wanted: argparse.Namespace) -> dict[str, Any]:
    """Both sides for the same time, with their own plans."""
    ours = our_home(wanted, "planned" if wanted.plan_words else "default", tuple(wanted.plan_words.split()))
    ours.autoseg("preprocess", "3d", "-t", ours.task, "-p", ours.plan, "--workers", str(wanted.workers))
    theirs = their_home(ours, "3d", wanted, same=False)
    found: dict[str, Any] = {"task": ours.task, "minutes": wanted.minutes[0]}
    if theirs:
        spec = {"warm": 8, "steps": 8, "device": wanted.device, "threads": wanted.threads, "workers": wanted.workers}
        loaders = _loaders(theirs, {**spec, "seed": wanted.seed}, wanted)
        best = min(loaders, key=loaders.__getitem__)
    pairs = []
    for number in range(wanted.pairs):
        row = {"autoseg": _our_run(ours, wanted.minutes[0], wanted, wanted.seed + number)}
        if theirs:
            row["nnU-Net"] = _their_run(theirs, ours, best, wanted, wanted.seed + number)
        pairs.append(row)
    print(f"\n{ours.task} 3d, fold 0, {wanted.minutes[0]:g} minutes\n\n{HEAD}")
    for row in pairs:
        for name, run in row.items():
            print(_line(name, run))
    if theirs:
        found["difference"] = statistics.median(row["autoseg"]["dice"] - row["nnU-Net"]["dice"] for row in pairs)
        found["cpu_ratio"] = statistics.median(
            row["nnU-Net"]["cpu_seconds"] / row["autoseg"]["cpu_seconds"] for row in pairs
        )
    return {**found, "pairs": pairs}


HEAD = (
    "| run | Dice | steps | batch | seconds per step | minutes of training | minutes in all | CPU-seconds |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _line(name: str, run: dict[str, Any]) -> str:
    figures = f"{run['dice']:.4f} | {run['steps']} | {run['batch']} | {run['seconds_per_step']:.4f} | "
    return f"| {name} | {figures}{run['minutes']:.1f} | {run['minutes_in_all']:.1f} | {run['cpu_seconds']:.0f} |"


def _our_run(ours: Ours, minutes: float, wanted: argparse.Namespace, seed: int) -> dict[str, Any]:
    """`autoseg train 3d 0 --budget`, with its prediction of the fold."""
    say(f"autoseg: {minutes:g} minutes")
    began, before = time.perf_counter(), cpu_seconds()
    words = ["--budget", f"{minutes:g}m", "--seed", str(seed), "--fresh", "--device", wanted.device]
    ours.autoseg("train", "3d", "0", *words, "-t", ours.task, "-p", ours.plan)
    in_all, used = time.perf_counter() - began, cpu_seconds() - before
    folder = ours.home.run_folder(ours.task, ours.plan, "3d", 0, seed)
    run, seconds = folder.run(), [line["seconds"] for line in folder.logged() if "seconds" in line]
    assert run is not None
    return {
        "dice": _score(ours, folder.predictions, wanted), "steps": run.settings.train.steps,
        "minutes": sum(seconds) / 60, "seconds_per_step": statistics.median(seconds), "batch": run.settings.batch,
        "patch": run.settings.patch, "precision": run.precision, "minutes_in_all": in_all / 60, "cpu_seconds": used,
    }  # fmt: skip


def _their_run(theirs: Theirs, ours: Ours, loaders: int, wanted: argparse.Namespace, seed: int) -> dict[str, Any]:
    """nnU-Net's training and prediction of the fold."""
    say(f"nnU-Net: {wanted.minutes[0]:g} minutes")
    shutil.rmtree(theirs.root / "nnUNet_results", ignore_errors=True)
    began, before = time.perf_counter(), cpu_seconds()
    spec = {"device": wanted.device, "threads": wanted.threads, "workers": wanted.workers, "seed": seed}
    run = theirs.call("train", **spec, loaders=loaders, minutes=wanted.minutes[0])
    run |= {"minutes_in_all": (time.perf_counter() - began) / 60, "cpu_seconds": cpu_seconds() - before}
    return {**run, "dice": _score(ours, Path(run["predictions"]), wanted)}


def _score(ours: Ours, predictions: Path, wanted: argparse.Namespace) -> float:
    """Mean Dice of fold 0's predictions by `autoseg evaluate`."""
    folder = wanted.work / "scoring"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files, folds = files_of(ours), ours.home.folds(ours.task)
    assert folds is not None
    for case in folds.split(0)[1]:
        label = files[case][1]
        (folder / label.name).symlink_to(label)
    words = ["-p", str(predictions), "-r", str(folder), "-o", str(folder / "scores"), "-t", ours.task, "--json"]
    return float(json.loads(ours.autoseg("evaluate", *words))["dice"])


def alone(wanted: argparse.Namespace) -> dict[str, Any]:
    """Ours with one budget after the other."""
    ours = our_home(wanted, "planned" if wanted.plan_words else "default", tuple(wanted.plan_words.split()))
    ours.autoseg("preprocess", "3d", "-t", ours.task, "-p", ours.plan, "--workers", str(wanted.workers))
    print(HEAD)
    runs = []
    for minutes in wanted.minutes:
        runs.append({"budget": minutes, **_our_run(ours, minutes, wanted, wanted.seed)})
        print(_line(f"{minutes:g} minutes", runs[-1]), flush=True)
    return {"task": ours.task, "runs": runs}


# -- the command line ---------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Of all sub-commands."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    for name, act in (("speed", speed), ("dice", dice), ("ours", alone), ("account", account), ("patch", patch),
                      ("memory", memory), ("gpu", gpu)):  # fmt: skip
        one = commands.add_parser(name, help=(act.__doc__ or "").splitlines()[0])
        one.set_defaults(act=act)
        if name != "memory":
            one.add_argument("task", type=Path, nargs="?" if name == "gpu" else None, help="the task's folder")
        if name in ("speed", "account"):
            one.add_argument("configuration", choices=["2d", "3d"])
        _options(one, name)
    return made


def _options(one: argparse.ArgumentParser, name: str) -> None:
    one.add_argument("--work", type=Path, default=ROOT / "work" / "bench_train", help="where homes are kept")
    one.add_argument("--device", default="cuda" if name == "gpu" else "cpu")
    one.add_argument("--threads", type=int, default=2, help="of each side (2)")
    one.add_argument("--workers", type=int, default=2, help="processes that preprocess (2)")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--quick", action="store_true", help="one pair, few steps: shows that it runs")
    one.add_argument("--passive", action="store_true", help="threads sleep while they wait, on both sides")
    one.add_argument("--pairs", type=int, default=1 if name == "dice" else 3)
    one.add_argument("--steps", type=int, default={"memory": 5000, "account": 200, "gpu": 200}.get(name, 60))
    one.add_argument("--warm", type=int, default=50 if name == "gpu" else 12, help="steps before those that count")
    one.add_argument("--precision", default="bf16" if name == "gpu" else "float32", choices=["float32", "bf16"])
    one.add_argument("--loaders", type=int, nargs="+", default=[6, 12] if name == "gpu" else [0, 1, 2],
                     help="numbers of nnU-Net's loader processes that are tried")  # fmt: skip
    one.add_argument("--minutes", type=float, nargs="+", default={"ours": [5, 15, 30, 60], "gpu": [10]}.get(name, [20]))
    one.add_argument("--plan-words", default="", help="further words for autoseg plan, in quotes: '--budget 20m'")
    one.add_argument("--cases", type=int, nargs="+", default=[10, 100], help="of memory: numbers of cases")


def main() -> None:
    """Runs one sub-command and ends with the JSON."""
    wanted = parser().parse_args()
    wanted.work = wanted.work.resolve()
    if wanted.quick:
        wanted.pairs, wanted.steps, wanted.warm = 1, min(wanted.steps, 60 if wanted.command == "memory" else 4), 2
    settle(wanted.threads, wanted.device, wanted.passive)
    print(json.dumps({"threads": wanted.threads, "device": wanted.device, **wanted.act(wanted)}, default=str))


if __name__ == "__main__":
    main()
