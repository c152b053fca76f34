"""Holds our networks to nnU-Net's: the same numbers, the same parameters and, with the weights copied, outputs.

    python scripts/check_networks.py [--fixtures DIR]

--fixtures also keeps the small ones for the tests. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from autoseg.nets import nnunet, survey

ROOT = Path(__file__).resolve().parent.parent


def compare(file: Path) -> dict[str, Any]:
    """Parameters of both sides, and the largest difference of any output of training."""
    with safe_open(file, "pt") as opened:
        spec = json.loads(opened.metadata()["spec"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    network = nnunet.network_of(spec["arch_kwargs"])
    module = survey.build(network, spec["channels"], spec["classes"], tuple(spec["patch"]))
    theirs = {name.removeprefix("weights."): value for name, value in tensors.items()}
    module.load_state_dict(nnunet.renamed(network, module, theirs))
    with torch.no_grad():
        outputs = module.train()(tensors["input"])
    differences = [float((ours - tensors[f"output.{i}"]).abs().max()) for i, ours in enumerate(outputs)]
    ours = sum(weight.numel() for weight in module.parameters())
    return {"ours": ours, "theirs": spec["parameters"], "heads": len(outputs), "difference": max(differences)}


def small(residual: bool, dims: int) -> dict[str, Any]:
    """Numbers of a network small enough to keep: anisotropic, a stage that keeps its width."""
    flat, encoder, decoder = [1] * dims, ([2, 1, 2], [1, 2]), ([1, 2, 2], [1, 1])
    arch = {
        "features_per_stage": [4, 6, 6], "strides": [flat, [1] + [2] * (dims - 1), [2] * dims],
        "kernel_sizes": [[1] + [3] * (dims - 1), [3] * dims, [3] * dims],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": (decoder if residual else encoder)[0],
        "n_conv_per_stage_decoder": (decoder if residual else encoder)[1],
    }  # fmt: skip
    return {"arch_kwargs": arch, "channels": 2, "classes": 3, "patch": [4] + [8] * (dims - 1)}


def full(residual: bool, dims: int) -> dict[str, Any]:
    """Numbers of nnU-Net's own plans for 8 GB."""
    count = 6 if dims == 3 else 8
    arch = {
        "features_per_stage": [min(32 * 2**i, 320 if dims == 3 else 512) for i in range(count)],
        "strides": [[1] * dims, *[[2] * dims] * (count - 1)], "kernel_sizes": [[3] * dims] * count,
        "n_blocks_per_stage" if residual else "n_conv_per_stage":
            ([1, 3, 4] + [6] * count)[:count] if residual else [2] * count,
        "n_conv_per_stage_decoder": [1 if residual else 2] * (count - 1),
    }  # fmt: skip
    return {"arch_kwargs": arch, "channels": 1, "classes": 4, "patch": [64] * 3 if dims == 3 else [256, 256]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fixtures", type=Path, help="folder to keep the small ones in")
    wanted = parser.parse_args()
    found = subprocess.run([ROOT / "scripts/opponent", "--python"], check=True, stdout=subprocess.PIPE, text=True)
    specs = {
        f"{size.__name__}_{'resenc' if residual else 'unet'}_{dims}d": size(residual, dims)
        for size in (small, full)
        for residual in (False, True)
        for dims in (2, 3)
    }
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "specs.json"
        listed.write_text(json.dumps(specs))
        subprocess.run([found.stdout.strip(), ROOT / "scripts/opponent_networks.py", listed, folder], check=True)
        files = {name: Path(folder) / f"{name}.safetensors" for name in specs}
        rows = {name: compare(file) for name, file in files.items()}
        for name in specs if wanted.fixtures else ():
            if name.startswith("small"):
                wanted.fixtures.mkdir(parents=True, exist_ok=True)
                shutil.copy(files[name], wanted.fixtures)
    for name, row in rows.items():
        both = f"parameters {row['ours']:>11,}  nnU-Net {row['theirs']:>11,}"
        print(f"{name:16} {both}  largest difference {row['difference']:.1e}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
