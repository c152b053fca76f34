"""Holds the estimated memory of a training step against what one takes, for many plans.

    python scripts/check_memory.py [--count 30] [--seed 0] [--device cuda] [--most 3]

Every plan is trained for three steps in a process of its own. On a CPU its growth counts (VmHWM), on a GPU what torch's
allocator has reserved; there every plan is tried again with no more memory than the estimate. The table is Markdown,
the last line of output one JSON object with every figure.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

from autoseg.errors import AutosegError
from autoseg.nets import places
from autoseg.records import Channel, Configuration, Memory, Part, Question, Train
from autoseg.steps import design, device, memory, topology
from autoseg.steps.design import Variant

ARCHITECTURES = ("unet", "unet", "unet", "resenc", "unetpp", "swin_unet", "vit_unet", "hrnet", "deeplabv3p")
INSERTS = ("", "", "", "cbam@skip", "se@encoder+attention_gate@join", "scse@decoder", "aspp@bottleneck", "coord@skip")
PLAIN_ONES = ("unet", "resenc", "unetpp")  # that take an insert at every place
CLASSES = (2, 3, 5, 14, 40, 105)
PATCHES = {2: ((128, 128), (192, 160), (256, 256), (320, 256), (512, 512)),
           3: ((32, 32, 32), (40, 56, 40), (64, 64, 64), (80, 96, 64), (96, 96, 96), (20, 160, 128))}  # fmt: skip
BATCHES = {2: (1, 2, 4, 8, 12, 16), 3: (1, 2, 2, 4)}
SLACK = 150e6  # bytes by which an estimate may miss on a CPU, where that is more than 15 %


def specs(seed: int) -> Iterator[dict[str, Any]]:
    """Plans drawn at random, as few numbers each."""
    draw = random.Random(seed)
    while True:
        dims = draw.choice((2, 3))
        architecture = draw.choice(ARCHITECTURES)
        yield {
            "architecture": architecture, "inserts": draw.choice(INSERTS) if architecture in PLAIN_ONES else "",
            "patch": draw.choice(PATCHES[dims]), "batch": draw.choice(BATCHES[dims]), "classes": draw.choice(CLASSES),
            "channels": draw.choice((1, 1, 3, 4)), "width": draw.choice((16, 32)),
            "precision": draw.choice(("bf16", "float32")), "optimiser": draw.choice(("adamw", "adamw", "sgd")),
        }  # fmt: skip


def planned(spec: dict[str, Any]) -> tuple[Configuration, Question]:
    """The configuration of a spec. Raises: AutosegError where its parts do not go together."""
    dims, width = len(spec["patch"]), spec["width"]
    spacing = (4.0, 1.0, 1.0) if max(spec["patch"]) > 4 * min(spec["patch"]) else (1.0,) * dims
    found = topology.stages(spec["patch"], spacing, topology.Limits(0, width, 10 * width, 2))
    variant = Variant(Part(name=spec["architecture"]), inserts=places.parse(spec["inserts"]))
    network = design.network_of(found, variant)
    patch = tuple(-(-edge // d) * d for edge, d in zip(found.patch, network.divisor, strict=True))
    settings = Train(
        loss="dice+ce", augment=(), steps=1000, optimiser=Part(name=spec["optimiser"]), schedule=Part(name="poly"),
        foreground=0.33,
    )  # fmt: skip
    made = Configuration(
        spacing=spacing, patch=patch, batch=spec["batch"], normalise=(Part(name="zscore"),) * spec["channels"],
        resample=Part(name="spline"), network=network, train=settings, memory=Memory(bytes=0, method="none"),
    )  # fmt: skip
    channels = tuple(Channel(name=f"c{n}", kind="mr") for n in range(spec["channels"]))
    return made, Question(reader="nifti", channels=channels, labels={f"l{n}": n for n in range(spec["classes"])})


def estimated(spec: dict[str, Any], kind: Any) -> memory.Estimate:
    """The estimate of a spec."""
    one, question = planned(spec)
    return memory.estimate(
        one.network, spec["channels"], len(question.outputs), one.patch, one.batch, device=kind,
        precision=spec["precision"], optimiser=one.train.optimiser,
    )  # fmt: skip


def child(spec: dict[str, Any]) -> int:
    """Bytes of a dry run in this process, on a GPU with no more than the share of it that the spec allows."""
    import monai.networks.nets  # noqa: F401  so that importing it is nobody's growth

    one, question = planned(spec)
    where = device.choose(spec["device"])
    if where.type == "cuda" and spec.get("share"):
        torch.cuda.set_per_process_memory_fraction(spec["share"], where)
    return memory.measured(one, question, where, spec["precision"])


def run(spec: dict[str, Any]) -> int:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(spec)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def told(spec: dict[str, Any]) -> str:
    """The first cell of a row."""
    parts = [spec["architecture"], spec["inserts"], "×".join(map(str, spec["patch"])), f"batch {spec['batch']}",
             f"{spec['classes']} classes", f"{spec['channels']} channels", f"width {spec['width']}", spec["precision"],
             spec["optimiser"]]  # fmt: skip
    return ", ".join(part for part in parts if part)


def row(spec: dict[str, Any], where: torch.device, cost: memory.Estimate) -> dict[str, Any]:
    """A plan estimated and measured, printed as soon as it is."""
    spec = {**spec, "device": str(where)}
    found = run(spec)
    made: dict[str, Any] = {**spec, "estimate": cost.total, "measured": found, "ratio": cost.total / found}
    if where.type == "cuda":
        there = device.memory(where)
        made["held"] = run({**spec, "share": min(1.0, cost.total / there)}) <= there
    held = f" {'yes' if made['held'] else 'no'} |" if "held" in made else ""
    print(f"| {told(spec)} | {cost.total / 1e6:.0f} | {found / 1e6:.0f} | {made['ratio']:.2f} |{held}", flush=True)
    return made


def chosen(seed: int, count: int, where: torch.device, most: float) -> Iterator[tuple[dict[str, Any], memory.Estimate]]:
    """So many plans that can be had and are estimated at no more than `most` bytes."""
    for spec in specs(seed):
        if count == 0:
            return
        try:
            cost = estimated(spec, where.type)
        except AutosegError:
            continue
        if cost.total <= most:
            count -= 1
            yield spec, cost


def summary(rows: list[dict[str, Any]], where: torch.device) -> dict[str, Any]:
    """The median error, and the share of plans within 15 % or 150 MB, on a GPU within 20 %."""
    errors = [abs(one["ratio"] - 1) for one in rows]
    if where.type == "cuda":
        good = [error <= 0.20 for error in errors]
    else:
        good = [abs(one["estimate"] - one["measured"]) <= max(0.15 * one["measured"], SLACK) for one in rows]
    return {"plans": len(rows), "median_error": statistics.median(errors), "largest_error": max(errors),
            "share_within": sum(good) / len(good)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most", type=float, default=3.0, help="GB of the largest plan")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.child:
        print(child(json.loads(wanted.child)))
        return
    where = device.choose(wanted.device)
    last = " holds |" if where.type == "cuda" else ""
    print(f"| plan | estimate, MB | measured, MB | ratio |{last}\n|---|---|---|---|{'---|' if last else ''}")
    rows = [row(spec, where, cost) for spec, cost in chosen(wanted.seed, wanted.count, where, wanted.most * 1e9)]
    found = summary(rows, where)
    print(f"\nMedian error {found['median_error']:.1%}, within the bound {found['share_within']:.0%}.")
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), **found, "rows": rows}))


if __name__ == "__main__":
    main()
