"""The weights in the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autoseg.errors import RunFailed


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint's tensors predict with: the running average of the weights, where there is one."""
    return named("network.", tensors) | named("average.", tensors)


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins so, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_network(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives the network its weights. Raises: RunFailed when they are another network's."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as problem:
        raise RunFailed(f"the checkpoint is of another network: {str(problem).splitlines()[-1].strip()}") from None
