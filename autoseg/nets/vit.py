"""The vision transformer, under the names of MONAI's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.records import Shape

CELL = 16  # edge of what is one token


class VisionTransformer(nn.Module):
    """Layers of self-attention over the cells of an image (Dosovitskiy 2021), without a class token."""

    def __init__(
        self, dims: int, channels: int, patch: Shape, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        from monai.networks.blocks.patchembedding import PatchEmbeddingBlock

        super().__init__()
        self.patch_embedding = PatchEmbeddingBlock(
            channels, patch, CELL, width, heads, dropout_rate=dropout, spatial_dims=dims
        )
        self.blocks = nn.ModuleList(Layer(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.laid_out = nn.Unflatten(2, tuple(edge // CELL for edge in patch))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *S) -> (B, width, *(S / 16)) of the layers at 1/4, 1/2, 3/4 of the depth and of the last."""
        x = self.patch_embedding(x)
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        tapped = [seen[len(seen) * quarter // 4] for quarter in (1, 2, 3)]
        return [self.laid_out(one.transpose(1, 2)) for one in (*tapped, self.norm(x))]


class Layer(nn.Module):
    """Self-attention of all tokens, then an MLP of 4 times the width, each behind a norm and added (Vaswani 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        from monai.networks.blocks.mlp import MLPBlock

        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.norm2, self.mlp = nn.LayerNorm(width), MLPBlock(width, 4 * width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> same."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> same."""
        dropout = self.dropout if self.training else 0.0
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return F.dropout(self.out_proj(seen.transpose(1, 2).flatten(2)), self.dropout, self.training)
