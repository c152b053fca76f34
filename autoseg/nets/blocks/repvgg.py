"""A block that trains with three branches and predicts with one convolution."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from autoseg.nets.blocks.plain import steps
from autoseg.nets.layers import active, batch, convolution


class RepVGG(nn.Module):
    """`convs` times the sum of plan-wide, 1-wide and identity branches, then leaky ReLU (Ding 2021); `fuse` makes it
    one convolution each.

    Every branch has batch norm, whatever the plan's norm: only its running statistics can be folded into a
    convolution. It wants a batch of at least 8. The identity stands where the shape stays.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        convs: int = 2,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                Branches(dims, source, channels_out, kernel, step)
                for source, step in steps(channels_in, channels_out, stride, convs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        out: Tensor = self.layers(x)
        return out


class Branches(nn.Module):
    """Leaky ReLU of the sum of the branches."""

    def __init__(self, dims: int, source: int, width: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.kernel = tuple(kernel)
        self.wide = convolution(dims, source, width, kernel, stride, bias=False)
        self.wide_norm = batch(dims, width)
        self.point = convolution(dims, source, width, 1, stride, bias=False)
        self.point_norm = batch(dims, width)
        self.same_norm = batch(dims, width) if source == width and max(stride) == 1 else None
        self.act = active()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        total = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x))
        if self.same_norm is not None:
            total = total + self.same_norm(x)
        out: Tensor = self.act(total)
        return out

    @torch.no_grad()
    def fused(self) -> nn.Sequential:
        """One convolution and the leaky ReLU, which answer the same in evaluation."""
        one = copy.deepcopy(self.wide)
        folded = [_folded(weight, norm, self.kernel) for weight, norm in self._branches()]
        weights, biases = zip(*folded, strict=True)
        one.weight, one.bias = nn.Parameter(sum(weights)), nn.Parameter(sum(biases))
        return nn.Sequential(one, active())

    def _branches(self) -> Iterator[tuple[Tensor, nn.Module]]:
        """The weights and the norm of every branch."""
        wide, point = self.wide.weight, self.point.weight
        assert isinstance(wide, Tensor) and isinstance(point, Tensor)
        yield wide, self.wide_norm
        yield point, self.point_norm
        if self.same_norm is not None:
            yield torch.eye(len(point), dtype=point.dtype, device=point.device).reshape(point.shape), self.same_norm


def _folded(weight: Tensor, norm: nn.Module, kernel: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution as wide as `kernel` that does what `weight` and the norm do."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None and norm.running_var is not None
    scaled, bias = fuse_conv_bn_weights(
        weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    margins = [(k - n) // 2 for k, n in zip(kernel, weight.shape[2:], strict=True)]
    return F.pad(scaled, [m for margin in reversed(margins) for m in (margin, margin)]), bias


def fuse(network: nn.Module) -> nn.Module:
    """A copy for prediction, in evaluation mode: every RepVGG block in it has one convolution for its branches."""
    fused = copy.deepcopy(network).eval()
    for module in list(fused.modules()):
        for name, child in module.named_children():
            if isinstance(child, Branches):
                setattr(module, name, child.fused())
    return fused
