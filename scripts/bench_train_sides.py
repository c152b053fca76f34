"""The two sides of bench_train.py: their homes, made once in its work folder, and steps of training in each.

python scripts/bench_train_sides.py steps SPEC     (called by bench_train.py: our side's turn)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_train_clock import say, timed_steps

if TYPE_CHECKING:
    from autoseg.records import Configuration, Plan
    from autoseg.steps.batches import Batches
    from autoseg.steps.learner import Learner
    from autoseg.store import Home

SCRIPTS = Path(__file__).resolve().parent
ENDINGS = ("nii.gz", "png")
PLANS = "autosegPlans"  # nnU-Net's plans with our patch, batch and topology


@dataclass(frozen=True)
class Ours:
    """A home with one task and a plan of it."""

    root: Path
    task: str
    plan: str = "default"

    @property
    def home(self) -> Home:
        from autoseg.store import Home

        return Home(self.root)

    def read(self) -> Plan:
        """The plan."""
        return self.home.plan(self.task, self.plan)

    def autoseg(self, *words: str) -> str:
        """Runs a command of ours; its stdout."""
        command = [sys.executable, "-m", "autoseg", "--home", str(self.root), *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass(frozen=True)
class Theirs:
    """nnU-Net's folders of the same task, and the interpreter that it runs in."""

    python: str
    root: Path
    name: str
    plans: str
    configuration: str

    def call(self, what: str, **spec: Any) -> dict[str, Any]:
        """Runs scripts/opponent_train.py; its answer."""
        where = {"root": str(self.root), "name": self.name, "plans": self.plans, "configuration": self.configuration}
        return answer([self.python, str(SCRIPTS / "opponent_train.py"), what, json.dumps({**where, **spec})])


def answer(command: list[str]) -> Any:
    """The JSON on the last line that a command prints; what it says on the way is shown only where it fails."""
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        sys.stderr.write(found.stderr[-6000:])
        raise SystemExit(f"{Path(command[1]).name} {command[2]} failed")
    return json.loads(found.stdout.splitlines()[-1])


def our_home(wanted: argparse.Namespace, plan: str = "default", words: tuple[str, ...] = ()) -> Ours:
    """A home with the task folder in it and a plan made with these further words, if they are not there."""
    source = wanted.task.resolve()
    ours = Ours(wanted.work / source.name / "ours", source.name, plan)
    _place(ours, source)
    if not ours.home.plan_file(ours.task, plan).exists():
        say(f"autoseg: plan {plan}")
        ours.autoseg("plan", ours.task, "--as", plan, "--device", wanted.device, *words)
    return ours


def _place(ours: Ours, source: Path) -> None:
    """The task by a link, or by `autoseg add` where it is a folder of PNG."""
    task = ours.root / "datasets" / source.name
    if task.exists():
        return
    task.parent.mkdir(parents=True, exist_ok=True)
    if any((source / "imagesTr").glob("*.png")):
        globs = [f"{source}/{folder}/*.png" for folder in ("imagesTr", "labelsTr")]
        ours.autoseg("add", source.name, "--images", globs[0], "--labels", globs[1])
    else:
        task.symlink_to(source)


def their_home(ours: Ours, title: str, wanted: argparse.Namespace, same: bool = True) -> Theirs | None:
    """nnU-Net's side of it, with our patch, batch, spacing and topology (`same`) or its own plan; None without it."""
    python = opponent()
    if python is None:
        return None
    configuration = {"2d": "2d", "3d": "3d_fullres"}[title]
    plans = f"{PLANS}{re.sub('[^A-Za-z0-9]', '', ours.plan.title())}" if same else "nnUNetPlans"
    theirs = Theirs(python, ours.root.parent / "theirs", f"Dataset501_{ours.task}", plans, configuration)
    own = _numbers(ours.read().configurations[title]) if same else None
    theirs.call("prepare", **_described(ours), own=own, workers=wanted.workers)
    return theirs


def opponent() -> str | None:
    """The interpreter of nnU-Net's environment, which scripts/opponent makes where it can; None where it cannot."""
    found = subprocess.run([SCRIPTS / "opponent", "--python"], stdout=subprocess.PIPE, text=True)
    if found.returncode:
        say("nnU-Net's environment is not there and cannot be made: its side is left out")
        return None
    return found.stdout.strip()


def files_of(ours: Ours) -> dict[str, tuple[Path, Path]]:
    """Image and label of every case."""
    from autoseg.pipeline.tasks import dataset_of

    folder = ours.home.task_folder(ours.task)
    cases = dataset_of(ours.home, ours.task)[0].cases
    if any(len(case.images) > 1 for case in cases):
        raise SystemExit("only tasks with one file per image can be brought to nnU-Net here")
    return {case.id: ((folder / case.images[0]).resolve(), (folder / str(case.label)).resolve()) for case in cases}


def _described(ours: Ours) -> dict[str, Any]:
    """What nnU-Net is told of the task: its files, channels, labels and our folds."""
    cases, question, folds = files_of(ours), ours.read().question, ours.home.folds(ours.task)
    assert folds is not None
    ending = next(e for e in ENDINGS if next(iter(cases.values()))[0].name.endswith(e))
    pairs = [folds.split(number) for number in range(len(folds.folds))]
    return {
        "cases": [[id, str(image), str(label)] for id, (image, label) in cases.items()], "ending": f".{ending}",
        "channels": {str(n): channel.name for n, channel in enumerate(question.channels)}, "labels": question.labels,
        "splits": [{"train": list(training), "val": list(held_out)} for training, held_out in pairs],
    }  # fmt: skip


def _numbers(one: Configuration) -> dict[str, Any]:
    """A configuration as nnU-Net's plans have it. Raises: SystemExit where that has no plain U-Net of its kind."""
    net = one.network
    plain = (net.architecture.name, net.block.name, net.decoder_block.name, net.norm.name, net.inserts)
    if plain != ("unet", "plain", "plain", "instance", ()):
        raise SystemExit(f"only plain U-Nets can be compared here, not {plain}")
    convs = [count * _convs(part.options) for part, counts in ((net.block, net.depths),
             (net.decoder_block, net.decoder_depths)) for count in counts]  # fmt: skip
    stages = len(net.features)
    arch = {
        "n_stages": stages, "features_per_stage": net.features, "strides": net.strides, "kernel_sizes": net.kernels,
        "n_conv_per_stage": convs[:stages], "n_conv_per_stage_decoder": convs[stages:][::-1],
    }  # fmt: skip
    shape = {"patch_size": one.patch, "batch_size": one.batch, "spacing": one.spacing, "axes": list(one.axes)}
    return {"arch": arch, **shape}


def _convs(options: Any) -> int:
    return int(options.get("convs", 2))


# -- our side's turn ----------------------------------------------------------------------------------


def learner_of(ours: Ours, title: str, device: str, precision: str, seed: int = 0) -> tuple[Learner, Batches]:
    """A learner and the batches of fold 0's training cases, as `autoseg train` makes them."""
    from autoseg.pipeline.fold_cases import Wish, cases_of, folds_for
    from autoseg.pipeline.voice import Silent
    from autoseg.steps import device as devices
    from autoseg.steps.learner import build

    plan, where = ours.read(), devices.choose(device)
    wish = Wish(title, 0, seed=seed, device=device)
    cases = cases_of(ours.home, plan, wish, folds_for(ours.home, plan, wish), Silent())
    one = plan.configurations[title]
    learner = build(one, plan.question, seed, where, precision)  # type: ignore[arg-type]
    return learner, cases.batches(cases.training, one, where)


def our_steps(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a training step with the wait for its data; what network, patch and batch it was."""
    import torch

    from autoseg.steps import train

    torch.set_num_threads(spec["threads"])
    ours = Ours(Path(spec["root"]), spec["task"], spec["plan"])
    learner, batches = learner_of(ours, spec["title"], spec["device"], spec["precision"], spec["seed"])
    progress = train.train(learner, batches, spec["warm"] + spec["steps"])
    found = timed_steps(lambda: next(progress), spec["warm"], spec["steps"], spec["device"] != "cpu")
    progress.close()
    images, labels = batches.batch(0)
    return {
        **found, "parameters": sum(weight.numel() for weight in learner.network.parameters()),
        "patch": list(labels.shape[1:]), "batch": len(images), "channels": images.shape[1],
        "optimiser": type(learner.optimiser).__name__, "cases": len(batches.cases),
        "precision": learner.precision,
    }  # fmt: skip


def our_turn(ours: Ours, title: str, **spec: Any) -> dict[str, Any]:
    """`our_steps` in a process of its own."""
    whole = {"root": str(ours.root), "task": ours.task, "plan": ours.plan, "title": title, **spec}
    found: dict[str, Any] = answer([sys.executable, str(SCRIPTS / "bench_train_sides.py"), "steps", json.dumps(whole)])
    return found


def settle(threads: int, device: str, passive: bool) -> None:
    """Gives this process and its children so many threads, on a CPU also no more processors than that.

    Passive threads sleep while they wait for each other; else each spins, which costs both sides dearly where
    something else runs on one of the processors.
    """
    if passive:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if device == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    print(json.dumps({"steps": our_steps}[sys.argv[1]](json.loads(sys.argv[2]))))
