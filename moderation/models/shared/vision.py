"""Sizes of vision towers, the MLP that all share, and the layers that CLIP and SigLIP share.

Names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import BaseModel, model_validator
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared.config_types import Count, Epsilon, Layers, Side, whole_heads
from moderation.models.shared.linear import Linear


def _quick_gelu(hidden: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), as CLIP was trained; in place where no gradient needs the old values."""
    if torch.is_grad_enabled():
        return hidden * torch.sigmoid(1.702 * hidden)
    return functional.silu(hidden.mul_(1.702), inplace=True).mul_(1 / 1.702)


def _tanh_gelu(hidden: Tensor) -> Tensor:
    return functional.gelu(hidden, approximate="tanh")


# By the name that published configs give them.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
}


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Sizes of a tower. `layers`: how many layers run. `image`, `patch`: sides in pixels. `activation`: its name."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    image: int
    patch: int
    eps: float
    activation: str = "quick_gelu"

    @property
    def grid(self) -> int:
        """Patches along a side; pixels beyond the last whole patch are not seen."""
        return self.image // self.patch

    @property
    def work(self) -> int:
        """Products with weights that all layers take for the patches of one picture."""
        return self.grid**2 * self.layers * self.hidden * (4 * self.hidden + 2 * self.intermediate)


class TowerConfig(BaseModel):
    """The tower's part of a config.json. Subclasses have the defaults."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    image_size: Side
    patch_size: Side
    hidden_act: str
    layer_norm_eps: Epsilon

    def shape(self, layers: int) -> TowerShape:
        """The tower with so many layers."""
        return TowerShape(
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            heads=self.num_attention_heads,
            layers=layers,
            image=self.image_size,
            patch=self.patch_size,
            eps=self.layer_norm_eps,
            activation=self.hidden_act,
        )

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        whole_heads(self.hidden_size, self.num_attention_heads)
        return self


class TowerLayer(nn.Module):
    """One pre-norm layer, [n, tokens, hidden] -> the same."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.self_attn = _Attention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.mlp = TowerMlp(shape)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        mixed: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return mixed


class _Attention(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
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


class TowerMlp(nn.Module):
    """Two matrices around the activation of the shape, [n, tokens, hidden] -> the same."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        self.fc1 = Linear(shape.hidden, shape.intermediate)
        self.fc2 = Linear(shape.intermediate, shape.hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(hidden)))
        return out
