"""What every architecture, block and insert costs beside the plain U-Net, and our U-Net beside nnU-Net's and MONAI's.

    python scripts/bench_networks.py [parts|opponents ...] [--dims 2 3] [--device cuda] [--precision float32] [--quick]

Every figure is a ratio measured side by side: a step of the one, a step of the other, and so on in turn; the median of
the pairs. Memory is the growth of a fresh process (on a GPU: of the allocator) over two training steps. The tables are
Markdown; the last line of output is one JSON object with every figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from autoseg import parts
from autoseg.errors import AutosegError
from autoseg.nets import places, survey
from autoseg.records import Channel, Configuration, Memory, Part, Question, Train
from autoseg.steps import design, train
from autoseg.steps import device as devices
from autoseg.steps.design import Variant
from autoseg.steps.learner import build
from autoseg.steps.topology import Topology

ROOT = Path(__file__).resolve().parent.parent
QUESTION = Question(
    reader="nifti", channels=(Channel(name="image", kind="mr"),), labels={"background": 0, "a": 1, "b": 2}
)
# the CPU plans of autoseg for hippocampus (3D) and for aerial tiles (2D)
PLANS = {
    3: Topology((40, 56, 40), ((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3), ((3,) * 3,) * 4, (16, 32, 64, 128), 2),
    2: Topology((256, 256), ((1,) * 2, *((2,) * 2,) * 6), ((3,) * 2,) * 7, (16, 32, 64, 128, 256, 256, 256), 4),
}
# where an insert stands in the tables: at every skip, or where its formula belongs
STANDS = {"sppf": "bottleneck", "aspp": "bottleneck", "global_guidance": "bottleneck", "self_attention": "bottleneck"}


def variants() -> Iterator[tuple[str, str, Variant]]:
    """(kind, name, variant) of every row."""
    for name in parts.NETWORKS:
        yield "architecture", name, Variant(architecture=Part(name=name))
    for name in parts.BLOCKS:
        yield "block", name, Variant(block=Part(name=name))
    for name in parts.INSERTS:
        place = STANDS.get(name, "skip")
        yield "insert", f"{name}@{place}", Variant(inserts=places.parse(f"{name}@{place}"))
    for name in parts.JOINS:
        yield "fusion", f"{name}@join", Variant(inserts=places.parse(f"{name}@join"))


def configuration(dims: int, variant: Variant) -> Configuration:
    """The plan of a variant; its patch is a multiple of what the architecture asks for."""
    found = PLANS[dims]
    network = design.network_of(found, variant)
    patch = tuple(-(-edge // d) * d for edge, d in zip(found.patch, network.divisor, strict=True))
    return Configuration(
        spacing=(1.0,) * dims, patch=patch, batch=found.batch, normalise=(Part(name="zscore"),),
        resample=Part(name="spline"), network=network, memory=Memory(bytes=0, method="none"),
        train=Train(loss="dice+ce", augment=(), steps=1000, optimiser=Part(name="adamw"), schedule=Part(name="poly"),
                    foreground=0.33),
    )  # fmt: skip


class Bench:
    """A network with its batch, ready for steps."""

    def __init__(self, dims: int, variant: Variant, device: torch.device, precision: str) -> None:
        self.plan, self.device = configuration(dims, variant), device
        self.learner = build(self.plan, QUESTION, 0, device, devices.precision(device, precision))  # type: ignore[arg-type]
        torch.manual_seed(0)
        shape = (self.plan.batch, *self.plan.patch)
        self.images = torch.randn(shape[0], 1, *self.plan.patch, device=device)
        self.labels = torch.randint(0, 3, shape, device=device).to(torch.uint8)

    def step(self) -> None:
        """One training step."""
        train.learn(self.learner, self.images, self.labels)

    def forward(self) -> None:
        """One forward pass as in prediction."""
        self.learner.network.eval()
        with torch.inference_mode(), devices.autocast(self.device, self.learner.precision):
            self.learner.network(self.images)


def seconds(act: Callable[[], None], device: torch.device) -> float:
    """How long it takes."""
    _wait(device)
    began = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pairs(one: Callable[[], None], other: Callable[[], None], device: torch.device, count: int) -> dict[str, float]:
    """Median seconds of both in turn, after one of each to warm up, and the median ratio of the pairs."""
    one(), other()
    times = [(seconds(one, device), seconds(other, device)) for _ in range(count)]
    first, second = (statistics.median(side) for side in zip(*times, strict=True))
    return {"seconds": first, "plain_seconds": second, "ratio": statistics.median(a / b for a, b in times)}


def memory(dims: int, name: str, kind: str, wanted: argparse.Namespace) -> float:
    """Bytes that two training steps of a variant add to a fresh process."""
    words = ["--device", wanted.device, "--precision", wanted.precision]
    command = [sys.executable, __file__, "memory", kind, name, str(dims), *words]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def grown(dims: int, name: str, kind: str, wanted: argparse.Namespace) -> float:
    """The same, in this process."""
    device = devices.choose(wanted.device)
    variant = next(v for k, n, v in variants() if (k, n) == (kind, name))
    if name in ("swin_unet", "vit_unet"):
        import monai.networks.nets  # noqa: F401  so that importing it is nobody's growth

    before = _highest()
    bench = Bench(dims, variant, device, wanted.precision)
    bench.step(), bench.step()
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(_highest() - before)


def _highest() -> int:
    """The most bytes this process has held, on Linux; getrusage would answer those of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def table(dims: int, wanted: argparse.Namespace) -> list[dict[str, Any]]:
    """The table of one dimension, a row as soon as it is measured."""
    device = devices.choose(wanted.device)
    plain = Bench(dims, Variant(), device, wanted.precision)
    plain_memory = memory(dims, "unet", "architecture", wanted)
    first = survey.survey(plain.plan.network, 1, 3, plain.plan.patch)
    size = "×".join(map(str, plain.plan.patch))
    print(f"\n{dims}D: patch {size}, batch {plain.plan.batch}, {plain.learner.precision}, {device}\n")
    print("| kind | name | parameters (M) | GFLOPs | memory | forward | training step |\n|---|---|---|---|---|---|---|")
    rows = []
    for kind, name, variant in variants():
        try:
            bench = Bench(dims, variant, device, wanted.precision)
        except AutosegError as problem:
            print(f"| {kind} | `{name}` | {problem.what} |||||")
            continue
        found = survey.survey(bench.plan.network, 1, 3, bench.plan.patch)
        row: dict[str, Any] = {"dims": dims, "kind": kind, "name": name, "parameters": found.parameters}
        row |= {"flops": found.flops, "flops_ratio": found.flops / first.flops, "patch": bench.plan.patch}
        row["memory_ratio"] = memory(dims, name, kind, wanted) / plain_memory
        row["forward"] = pairs(bench.forward, plain.forward, device, wanted.pairs)
        row["step"] = pairs(bench.step, plain.step, device, wanted.pairs)
        rows.append(row)
        other = "" if bench.plan.patch == plain.plan.patch else f" (patch {'×'.join(map(str, bench.plan.patch))})"
        print(
            f"| {kind} | `{name}`{other} | {found.parameters / 1e6:.2f} | {found.flops / 1e9:.2f} | "
            f"{row['memory_ratio']:.2f} | {row['forward']['ratio']:.2f} | {row['step']['ratio']:.2f} |", flush=True,
        )  # fmt: skip
    print(f"\nThe plain U-Net: {plain_memory / 1e6:.0f} MB, a training step {_plain(rows):.3f} s.")
    return rows


def _plain(rows: list[dict[str, Any]]) -> float:
    return statistics.median(row["step"]["plain_seconds"] for row in rows)


# -- the same U-Net by others --------------------------------------------------------------------------


def opponents(dims: int, wanted: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step of ours, of nnU-Net's and of MONAI's network, in turns of their own processes."""
    found = subprocess.run([ROOT / "scripts/opponent", "--python"], check=True, stdout=subprocess.PIPE, text=True)
    theirs, script = found.stdout.strip(), str(ROOT / "scripts/opponent_steps.py")
    spec = _numbers(PLANS[dims], wanted)
    here = [sys.executable, __file__, "step"]
    sides = {
        "autoseg": here,
        "nnU-Net PlainConvUNet": [theirs, script, "nnunet"],
        "MONAI DynUNet": [sys.executable, script, "monai"],
    }
    times: dict[str, list[float]] = {}
    for _ in range(wanted.pairs):
        for precision in ("float32", "bf16"):
            for side, command in sides.items():
                words = [*command, json.dumps({**spec, "precision": precision})]
                answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1]
                times.setdefault(f"{side}, {precision}", []).append(float(answer))
    ours = {precision: times[f"autoseg, {precision}"] for precision in ("float32", "bf16")}
    print(f"\n{dims}D: patch {spec['patch']}, batch {spec['batch']}, features {spec['features']}, {wanted.device}\n")
    print("| network | seconds per step | times ours in float32 | times ours in bf16 |\n|---|---|---|---|")
    rows = {}
    for name, each in times.items():
        row: dict[str, Any] = {"seconds": statistics.median(each)}
        for precision, mine in ours.items():
            row[precision] = statistics.median(b / a for a, b in zip(mine, each, strict=True))
        rows[name] = row
        print(f"| {name} | {row['seconds']:.4f} | {row['float32']:.2f} | {row['bf16']:.2f} |", flush=True)
    return {"dims": dims, "rows": rows}


def _numbers(found: Topology, wanted: argparse.Namespace) -> dict[str, Any]:
    return {
        "patch": found.patch, "batch": found.batch, "features": found.features, "strides": found.strides,
        "kernels": found.kernels, "classes": 3, "device": wanted.device, "steps": wanted.steps,
    }  # fmt: skip


def own_step(spec: dict[str, Any]) -> float:
    """Median seconds of our training step of these numbers."""
    device = devices.choose(spec["device"])
    bench = Bench(len(spec["patch"]), Variant(), device, spec["precision"])
    bench.learner.optimiser = torch.optim.SGD(bench.learner.network.parameters(), 1e-3, 0.99, 0, 3e-5, True)
    bench.learner.base_rates = [1e-3]
    times = [seconds(bench.step, device) for _ in range(spec["steps"] + 2)]
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", default=["opponents", "parts"], help="opponents, parts")
    parser.add_argument("--dims", nargs="+", type=int, choices=[2, 3], default=[3, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bf16"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of each opponent's turn")
    parser.add_argument("--quick", action="store_true", help="one pair, three steps")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    torch.manual_seed(wanted.seed)
    if wanted.quick:
        wanted.pairs, wanted.steps = 1, 3
    if wanted.what[0] == "memory":
        print(grown(int(wanted.what[3]), wanted.what[2], wanted.what[1], wanted))
    elif wanted.what[0] == "step":
        print(own_step(json.loads(wanted.what[1])))
    else:
        found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if "opponents" in wanted.what:
            found["opponents"] = [opponents(dims, wanted) for dims in wanted.dims]
        if "parts" in wanted.what:
            found["parts"] = [row for dims in wanted.dims for row in table(dims, wanted)]
        print(json.dumps(found))


if __name__ == "__main__":
    main()
