"""Starting from the weights of another run: what fits is taken, what nearly fits is adapted, the rest is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.errors import BadUsage
from autoseg.nets.inserts.rater import Rater

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # their second axis is that of outputs


@dataclass(frozen=True)
class Transfer:
    """Names of the network's tensors: `taken` as they were, `adapted` to other channels or classes, `left` fresh.

    `unused` are those of the other run that this network has no place for.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def told(self) -> str:
        """In one line, with the first names of what is not simply taken."""
        parts = [f"{len(self.taken)} tensors taken"]
        for what, names in (("adapted", self.adapted), ("left fresh", self.left), ("not used", self.unused)):
            if names:
                parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})")
        return ", ".join(parts)


def transfer(
    network: nn.Module, weights: Mapping[str, Tensor], channels: Sequence[int], outputs: Sequence[Sequence[str]],
    raters: Sequence[Sequence[str]] = ((), ()),
) -> Transfer:  # fmt: skip
    """Gives the network the weights of another, by name and shape.

    A convolution of the image, which differs in its input channels alone, gets the mean over the channels it had in
    every channel, scaled so that its answers stay as large; where channels came behind those it had, as an earlier
    stage's do, it keeps these and begins with 0 for the others. A head keeps the rows of the outputs that both tasks
    have by name, and vectors those of the raters; the others stay fresh.

    Args:
        channels: inputs of the other network, of this one, and how many of the latter are the image's.
        outputs, raters: the names of theirs, in order.
    Raises: BadUsage where nothing fits.
    """
    state, heads = network.state_dict(), _modules(network, "head")
    turned = {f"{n}.weight" for n, one in network.named_modules() if isinstance(one, TRANSPOSED)}
    vectors = {f"{n}.vectors" for n, one in network.named_modules() if isinstance(one, Rater)}
    taken: list[str] = []
    adapted: list[str] = []
    left: list[str] = []
    for name, value in state.items():
        other = weights.get(name)
        is_head = any(name.startswith(f"{head}.") for head in heads) and "inserts" not in name.split(".")
        made = None
        if other is not None and value.ndim == other.ndim:
            rows = raters if name in vectors else outputs if is_head else None
            made = _fitted(value, other) if rows is None else _head(value, other, *rows)
            if made is None and name not in turned:
                made = _seen(value, other, *channels)
        if made is None:
            left.append(name)
        else:
            (taken if made is other else adapted).append(name)
            state[name] = made
    if not taken:
        raise BadUsage(
            "no tensor of the model fits this network", where="--pretrained",
            remedy="plan the model's network: its --network and --block, features, kernels and strides by --set",
        )  # fmt: skip
    network.load_state_dict(state)
    return Transfer(tuple(taken), tuple(adapted), tuple(left), tuple(name for name in weights if name not in state))


def encoder_of(network: nn.Module) -> list[nn.Parameter]:
    """The weights of the encoder with its bottleneck. Raises: BadUsage where the architecture does not tell them."""
    found = [p for name in _modules(network, "encoder", "bottleneck") for p in network.get_submodule(name).parameters()]
    if not found:
        raise BadUsage("this architecture does not say what its encoder is", where="--freeze")
    return found


def _modules(network: nn.Module, *places: str) -> list[str]:
    """The names of the modules that stand there."""
    units = network.anatomy() if hasattr(network, "anatomy") else ()  # type: ignore[operator]
    known = dict(network.named_modules())
    return [name for unit in units if unit.place in places for name in unit.modules if name in known]


def _fitted(value: Tensor, other: Tensor) -> Tensor | None:
    return other if value.shape == other.shape else None


def _head(value: Tensor, other: Tensor, had: Sequence[str], have: Sequence[str]) -> Tensor | None:
    """The other's tensor where it has as many rows as there are outputs: those that both have; else what fits."""
    if tuple(had) == tuple(have) or value.ndim == 0 or (len(other), len(value)) != (len(had), len(have)):
        return _fitted(value, other)
    return _rows(value, other, had, have) if value.shape[1:] == other.shape[1:] and set(had) & set(have) else None


def _seen(value: Tensor, other: Tensor, had: int, have: int, image: int) -> Tensor | None:
    """The other's filters of the image for other channels."""
    if value.ndim < 3 or had == have or (other.shape[1], value.shape[1]) != (had, have):
        return None
    if value[:, :1].shape != other[:, :1].shape:
        return None
    if had == image:
        return torch.cat([other, torch.zeros_like(value[:, had:])], 1)
    return (other.mean(1, keepdim=True) * (had / have)).expand_as(value).clone()


def _rows(value: Tensor, other: Tensor, had: Sequence[str], have: Sequence[str]) -> Tensor:
    """Fresh rows, but those of outputs that both have."""
    made = value.clone()
    for row, name in enumerate(have):
        if name in had:
            made[row] = other[list(had).index(name)]
    return made
