"""nnU-Net's networks as ours: the plan of the same numbers, and its weights under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from autoseg.nets.unet import ResEnc
from autoseg.records import Network, Part

LAYER = re.compile(r"(\d+)\.(.+)")


def network_of(arch: Mapping[str, Any]) -> Network:
    """The network of the `arch_kwargs` of a PlainConvUNet or, where blocks are counted, a ResidualEncoderUNet."""
    strides, kernels = (tuple(map(tuple, arch[field])) for field in ("strides", "kernel_sizes"))
    plain = Part(name="plain", options={"convs": 1})
    residual = "n_blocks_per_stage" in arch
    network = Network.plain(
        tuple(arch["features_per_stage"]), strides, kernels, block=plain, decoder_block=plain,
        depths=tuple(arch["n_blocks_per_stage" if residual else "n_conv_per_stage"]),
        decoder_depths=tuple(reversed(arch["n_conv_per_stage_decoder"])),
    )  # fmt: skip
    changes = {"architecture": Part(name="resenc"), "block": ResEnc.suit(network).block} if residual else {}
    return network.model_copy(update=changes)


def renamed(network: Network, module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a PlainConvUNet or ResidualEncoderUNet of the same numbers, named as `module` names them.

    Args:
        network: of the architecture `unet` with plain blocks, or `resenc`.
        weights: a state of dynamic_network_architectures; its duplicates are not looked at.
    Raises: KeyError for a weight that is not there.
    """
    return {name: weights[their_name(network, name)] for name in module.state_dict()}


def their_name(network: Network, name: str) -> str:
    """nnU-Net's name of a weight of ours. Its decoder counts from the coarsest stage."""
    room, _, rest = name.partition(".")
    found = LAYER.fullmatch(rest)
    if room == "stem":
        return f"encoder.stem.{_convs(rest, 0, 1)}"
    assert found is not None
    stage, inner = int(found[1]), found[2]
    upward = len(network.features) - 2 - stage
    if room == "upsample":
        return f"decoder.transpconvs.{upward}.{inner}"
    if room == "heads":
        return f"decoder.seg_layers.{upward}.{inner}"
    if room == "decoder":
        return f"decoder.stages.{upward}.{_block(inner, _convs_of(network.decoder_block.options))}"
    if network.block.name == "plain":
        return f"encoder.stages.{stage}.0.{_block(inner, _convs_of(network.block.options))}"
    block, kind, *leaf = inner.split(".")
    if kind == "skip":  # a pooling, where there is one, stands before its convolution
        place = f"skip.{int(max(network.strides[stage]) > 1)}.{leaf.pop(0)}"
    else:
        place = f"conv{kind[-1]}.{kind[:-1]}"
    return f"encoder.stages.{stage}.blocks.{block}.{place}.{'.'.join(leaf)}"


def _convs_of(options: Mapping[str, object]) -> int:
    convs = options.get("convs", 2)
    assert isinstance(convs, int)
    return convs


def _block(inner: str, convs: int) -> str:
    block, _, layer = inner.partition(".")
    return _convs(layer, int(block), convs)


def _convs(layer: str, block: int, convs: int) -> str:
    """`layers.N.weight` of a plain block: convolution, norm and activation take turns."""
    _, number, leaf = layer.split(".")
    kind = ("conv", "norm")[int(number) % 3]
    return f"convs.{block * convs + int(number) // 3}.{kind}.{leaf}"
