"""InternViT, up to the layer whose features are used. Later layers are neither built nor run.

Names are those of the published checkpoints. There is no norm before the first layer, nor after the last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared.linear import Linear
from moderation.models.shared.vision import TowerMlp, TowerShape


class InternVision(nn.Module):
    """Tiles [n, 3, image, image], normalised -> features of the patches [n, grid * grid, hidden], row-major."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(shape) for _ in range(shape.layers))})

    def forward(self, tiles: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings(tiles)
        layers = self.encoder["layers"]
        for layer in layers.children():
            hidden = layer(hidden)
        return hidden[:, 1:]  # the first is the class token's


class _Embeddings(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(1, 1, shape.hidden))
        self.patch_embedding = nn.Conv2d(3, shape.hidden, kernel_size=shape.patch, stride=shape.patch)
        self.position_embedding = nn.Parameter(torch.empty(1, shape.grid**2 + 1, shape.hidden))

    def forward(self, tiles: Tensor) -> Tensor:
        patches = self.patch_embedding(tiles).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(tiles), 1, -1), patches], dim=1) + self.position_embedding


class _Layer(nn.Module):
    """Each branch is scaled by a learned vector before it is added."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.attn = _Attention(shape)
        self.ls1 = nn.Parameter(torch.empty(shape.hidden))
        self.norm2 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.mlp = TowerMlp(shape)
        self.ls2 = nn.Parameter(torch.empty(shape.hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden)) * self.ls1
        mixed: Tensor = hidden + self.mlp(self.norm2(hidden)) * self.ls2
        return mixed


class _Attention(nn.Module):
    """Query, key and value from one matrix, in this order."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = Linear(shape.hidden, 3 * shape.hidden)
        self.proj = Linear(shape.hidden, shape.hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out
