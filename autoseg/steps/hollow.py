"""Tensors of a CPU that have no numbers: what a training step does with memory is found with them.

torch's own fake tensors serve the same end. A step with these takes a quarter of the time, and they keep what real ones
keep in bfloat16 too, where torch's have the statistics of norms in half the precision that a CPU saves them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

aten = torch.ops.aten
META, CPU = torch.device("meta"), torch.device("cpu")
MATH, FLASH = 0, 1  # of torch.nn.attention.SDPBackend


class Hollow(Tensor):
    """It says that it lies on the CPU, so that autocast and the parts take it for what it stands for.

    Attributes:
        meta: the tensor on torch's meta device that has its shape, and whose storage stands for its memory.
    """

    meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, meta: Tensor) -> Hollow:
        made: Hollow = Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype, device=CPU
        )
        made.meta = meta
        return made

    def numpy(self, *, force: bool = False) -> NDArray[Any]:
        """Ones: what a part that looks at numbers is given."""
        return np.ones(tuple(self.shape), str(self.dtype).removeprefix("torch."))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return without_numbers(func, args, kwargs or {})


def hollowed(module: nn.Module) -> nn.Module:
    """The module, whose weights and buffers become hollow ones."""
    made: nn.Module = module.to(META)._apply(Hollow)  # type: ignore[no-untyped-call]
    return made


def without_numbers(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The answer of an operation on hollow tensors; a number that is looked at is 1."""
    if func is aten._local_scalar_dense.default:
        return 1
    if func is aten._fused_sdp_choice.default:
        return _attention(*args)
    written = _written(func)
    if written is not None and torch.Tag.pointwise in func.tags:
        return args[written]
    known, given = SHORT.get(func, func), [_meta(arg) for arg in args]
    out = known(*given, **{name: _meta(value) for name, value in kwargs.items()})
    if written is not None:
        return args[written]
    if isinstance(out, Tensor):
        return Hollow(out)
    if isinstance(out, tuple | list):
        return type(out)(Hollow(one) if isinstance(one, Tensor) else one for one in out)
    return out


def _normalised(x: Tensor, weight: Any, bias: Any, batch: int, _: int, __: int, groups: int, *___: Any) -> Any:
    """Group norm: its answer, and the mean and deviation of every group, which a CPU keeps in float32."""
    mean = x.new_empty((batch, groups), dtype=torch.float32)
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _normalised_back(slope: Tensor, x: Tensor, mean: Any, sd: Any, weight: Tensor | None, *rest: Any) -> Any:
    wanted = zip((x, weight, weight), rest[-1], strict=True)
    return tuple(torch.empty_like(like) if is_wanted and like is not None else None for like, is_wanted in wanted)


# the way back of group norm goes through some fifty operations in torch's account of it
SHORT = {
    aten.native_group_norm.default: _normalised,
    aten.native_group_norm_backward.default: _normalised_back,
    aten.leaky_relu_backward.default: lambda slope, *_: torch.empty_like(slope),
}


def _attention(_: Any, __: Any, ___: Any, mask: Tensor | None = None, dropout: float = 0.0, *____: Any) -> int:
    """Which of torch's ways a CPU takes (`use_flash_attention_cpp` of ATen/native/transformers)."""
    return MATH if dropout or (mask is not None and mask.requires_grad) else FLASH


def _meta(value: Any) -> Any:
    """What an operation is given in place of hollow tensors, and of those with numbers that a part has made."""
    if isinstance(value, Hollow):
        return value.meta
    if isinstance(value, Tensor):
        return value.to(META)
    if isinstance(value, tuple | list):
        return type(value)(map(_meta, value))
    return META if isinstance(value, torch.device) else value


@cache
def _written(func: Any) -> int | None:
    """The number of the argument that an operation writes into and answers."""
    schema = func._schema
    if not schema.returns or schema.returns[0].alias_info is None or not schema.returns[0].alias_info.is_write:
        return None
    return next(n for n, one in enumerate(schema.arguments) if one.alias_info is not None and one.alias_info.is_write)
