"""EVA ViT-g, the vision tower of BLIP-2 and TinyGPT-V, up to the last block that is used.

The tower has no last norm: what reads its tokens brings its own. Names are those of eva_vit_g.pth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared.linear import Linear
from moderation.models.shared.vision import TowerMlp, TowerShape


class EvaVision(nn.Module):
    """Pictures [n, 3, image, image], normalised -> tokens [n, 1 + grid * grid, hidden], the class token first."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.hidden))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + shape.grid**2, shape.hidden))
        convolution = nn.Conv2d(3, shape.hidden, kernel_size=shape.patch, stride=shape.patch)
        self.patch_embed = nn.ModuleDict({"proj": convolution})
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(pixels), -1, -1)
        hidden = torch.cat([first, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


def interpolated(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings [1, 1 + old * old, hidden] for another grid of patches, float32 [1, 1 + grid * grid, hidden].

    The class token's row stays. The others are resized as a picture: bicubic, without antialiasing.
    """
    first, rest = positions[:, :1].float(), positions[:, 1:].float()
    old = round(rest.shape[1] ** 0.5)
    square = rest.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([first, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class _Block(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.attn = _Attention(shape)
        self.norm2 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.mlp = TowerMlp(shape)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden))
        out: Tensor = hidden + self.mlp(self.norm2(hidden))
        return out


class _Attention(nn.Module):
    """Query, key and value from one matrix, in this order. The key has no bias."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_bias = nn.Parameter(torch.empty(shape.hidden))
        self.v_bias = nn.Parameter(torch.empty(shape.hidden))
        self.qkv = Linear(shape.hidden, 3 * shape.hidden, bias=False)
        self.proj = Linear(shape.hidden, shape.hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (query + self.q_bias, key, value + self.v_bias)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out
