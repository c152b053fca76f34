"""Median seconds of a training step of nnU-Net's PlainConvUNet or MONAI's DynUNet: opponent_steps.py nnunet|monai SPEC

Each as its own tool trains it: its network, its deep supervision, its Dice + cross-entropy; SGD with Nesterov momentum
and clipped gradients. Runs in the opponent's environment (nnunet) or in ours (monai).
"""

import json
import statistics
import sys
import time

import torch
from torch import nn


def nnunet(spec):
    """nnU-Net's network and loss."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dims, stages = len(spec["patch"]), len(spec["features"])
    conv, norm = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[dims - 2]
    network = PlainConvUNet(
        1, stages, spec["features"], conv, spec["kernels"], spec["strides"], 2, spec["classes"], 2, True, norm,
        {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    loss = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, weight_ce=1, weight_dice=1,
        ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss,
    )  # fmt: skip
    weights = [0.5**i for i in range(stages - 2)] + [0.0]
    wrapped = DeepSupervisionWrapper(loss, [weight / sum(weights) for weight in weights])
    return network, lambda outputs, labels: wrapped(outputs, _sized(labels, outputs))


def monai(spec):
    """MONAI's network, whose heads are all brought to full size, and its loss."""
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet

    heads = len(spec["features"]) - 2
    network = DynUNet(
        len(spec["patch"]), 1, spec["classes"], spec["kernels"], spec["strides"], spec["strides"][1:],
        filters=spec["features"], deep_supervision=True, deep_supr_num=heads - 1,
    )  # fmt: skip
    loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, include_background=False)
    weights = [0.5**i for i in range(heads)]

    def weighted(outputs, labels):
        found = [w * loss(o.float(), labels) for w, o in zip(weights, torch.unbind(outputs, 1), strict=False)]
        return sum(found) / sum(weights)

    return network, weighted


def _sized(labels, outputs):
    return [
        nn.functional.interpolate(labels.float(), output.shape[2:], mode="nearest-exact").to(labels.dtype)
        for output in outputs
    ]


def main(side, spec):
    spec = json.loads(spec)
    torch.manual_seed(0)
    network, loss_of = {"nnunet": nnunet, "monai": monai}[side](spec)
    network = network.to(spec["device"]).train()
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, weight_decay=3e-5, nesterov=True)
    images = torch.randn(spec["batch"], 1, *spec["patch"], device=spec["device"])
    labels = torch.randint(0, spec["classes"], (spec["batch"], 1, *spec["patch"]), device=spec["device"])
    times = []
    for _ in range(spec["steps"] + 2):
        began = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(spec["device"].split(":")[0], torch.bfloat16, enabled=spec["precision"] == "bf16"):
            outputs = network(images)
        loss = loss_of([o.float() for o in outputs] if isinstance(outputs, list) else outputs, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimiser.step()
        float(loss.detach())  # waits for a GPU
        times.append(time.perf_counter() - began)
    print(statistics.median(times[2:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
