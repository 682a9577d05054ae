"""The part of a decoder that families share, over one packed sequence of tokens without padding.

Every tensor is [tokens, ...]: there is no batch dimension. Which token sees which is the business of `Attend`, where a
token stands that of `Rotary`; both are made once for a forward pass and used by every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# (query [tokens, heads, size], key, value [tokens, kv heads, size]) -> [tokens, heads, size]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin of each token's angles, [tokens, 1, size of a head], the halves repeated."""

    cos: Tensor
    sin: Tensor

    def turn(self, heads: Tensor) -> Tensor:
        """[tokens, heads, size] turned by its position: element i and i + size / 2 are a pair."""
        left, right = heads.chunk(2, dim=-1)
        return heads * self.cos + torch.cat([-right, left], dim=-1) * self.sin


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension: computed in float32, scaled in the activations' dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden.dtype)


class Block(nn.Module):
    """One pre-norm layer around a family's attention (hidden, rotary, attend) -> hidden and mlp (hidden) -> hidden."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, size: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(size, eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.mlp = mlp

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, attend)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class Decoder(nn.Module):
    """Embedding, blocks and last norm. `forward` stops before the norm: it is due only where logits are read."""

    def __init__(self, vocabulary: int, size: int, blocks: Iterable[Block], eps: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, size)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(size, eps)

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, rotary, attend)
        return hidden
