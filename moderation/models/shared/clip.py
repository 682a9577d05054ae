"""CLIP's vision tower, up to the layer whose features are used. Later layers are neither built nor run.

Names are those of the published checkpoints, `pre_layrnorm` included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared.linear import Linear


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Sizes of the tower. `layers`: how many layers run. `image`, `patch`: sides in pixels."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    image: int
    patch: int
    eps: float

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image // self.patch


class ClipVision(nn.Module):
    """Crops [n, 3, image, image], normalised -> features of the patches [n, grid * grid, hidden], row-major."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.pre_layrnorm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(shape) for _ in range(shape.layers))})

    def forward(self, crops: Tensor) -> Tensor:
        hidden: Tensor = self.pre_layrnorm(self.embeddings(crops))
        layers = self.encoder["layers"]
        for layer in layers.children():
            hidden = layer(hidden)
        return hidden[:, 1:]  # the first is the class token's


class _Embeddings(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(shape.hidden))
        self.patch_embedding = nn.Conv2d(3, shape.hidden, kernel_size=shape.patch, stride=shape.patch, bias=False)
        self.position_embedding = nn.Embedding(shape.grid**2 + 1, shape.hidden)

    def forward(self, crops: Tensor) -> Tensor:
        patches = self.patch_embedding(crops).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(crops), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _Layer(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.self_attn = _Attention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.mlp = _Mlp(shape)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        mixed: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return mixed


class _Attention(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = Linear(shape.hidden, shape.hidden)
        self.k_proj = Linear(shape.hidden, shape.hidden)
        self.v_proj = Linear(shape.hidden, shape.hidden)
        self.out_proj = Linear(shape.hidden, shape.hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class _Mlp(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.fc1 = Linear(shape.hidden, shape.intermediate)
        self.fc2 = Linear(shape.intermediate, shape.hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(_quick_gelu(self.fc1(hidden)))
        return out


def _quick_gelu(hidden: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), as CLIP was trained; in place where no gradient needs the old values."""
    if torch.is_grad_enabled():
        return hidden * torch.sigmoid(1.702 * hidden)
    return functional.silu(hidden.mul_(1.702), inplace=True).mul_(1 / 1.702)
