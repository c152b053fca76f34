"""What a stage of an encoder or decoder is made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.parts import NORMS
from autoseg.records import Part

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def instance(dims: int, channels: int, eps: float = 1e-5) -> nn.Module:
    """Instance norm with scale and shift (Ulyanov 2016)."""
    kind = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims]
    return kind(channels, eps=eps, affine=True)


def group(dims: int, channels: int, groups: int = 8, eps: float = 1e-5) -> nn.Module:
    """Group norm (Wu 2018); as many groups as divide the channels, at most `groups`."""
    return nn.GroupNorm(next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0), channels, eps)


class Plain(nn.Module):
    """`convs` times convolution, norm, leaky ReLU (0.01); the first convolution carries the stride."""

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        convs: int,
        norm: Part,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convs):
            source = channels_in if index == 0 else channels_out
            step = tuple(stride) if index == 0 else 1
            padding = tuple(k // 2 for k in kernel)
            layers += [
                CONVOLUTION[dims](source, channels_out, tuple(kernel), step, padding),  # type: ignore[arg-type]
                NORMS.build(norm, dims=dims, channels=channels_out),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *S) -> (B, out, *ceil(S / stride))."""
        out: Tensor = self.layers(x)
        return out


def initialise(network: nn.Module) -> None:
    """He initialisation for leaky ReLU 0.01 (He 2015) of every convolution; biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
