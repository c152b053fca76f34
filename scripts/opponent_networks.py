"""Runs in the opponent's environment: builds nnU-Net's networks and writes weights, input and outputs.

PYTHON_OF_OPPONENT scripts/opponent_networks.py SPECS.json OUT_DIR
"""

import json
import sys
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from safetensors.torch import save_file
from torch import nn


def build(spec):
    """A network of nnU-Net from the numbers of a plan."""
    arch = spec["arch_kwargs"]
    dims = len(arch["strides"][0])
    conv, norm = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[dims - 2]
    kind = ResidualEncoderUNet if "n_blocks_per_stage" in arch else PlainConvUNet
    return kind(
        input_channels=spec["channels"], num_classes=spec["classes"], n_stages=len(arch["strides"]), conv_op=conv,
        norm_op=norm, conv_bias=True, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True, **arch,
    )  # fmt: skip


def main(specs, out):
    for name, spec in json.loads(Path(specs).read_text()).items():
        torch.manual_seed(0)
        network = build(spec)
        for weight in network.parameters():  # those that start at 0 or 1 would hide a mistake
            if weight.ndim == 1:
                nn.init.normal_(weight, 0.5, 0.2)
        x = torch.randn(2, spec["channels"], *spec["patch"])
        with torch.no_grad():
            outputs = network.eval()(x)
        weights = {
            key: value.clone()
            for key, value in network.state_dict().items()
            if ".all_modules." not in key and not key.startswith("decoder.encoder.")
        }
        stored = {f"weights.{key}": value for key, value in weights.items()}
        stored |= {"input": x, **{f"output.{i}": output for i, output in enumerate(outputs)}}
        total = sum(weight.numel() for weight in network.parameters())
        save_file(stored, Path(out) / f"{name}.safetensors", {"spec": json.dumps({**spec, "parameters": total})})


if __name__ == "__main__":
    main(*sys.argv[1:])
