"""The parts of a decoder that families share, over one packed sequence of tokens without padding.

Every tensor is [tokens, ...]: there is no batch dimension. `Attend` decides which token attends to which, `Rotary`
holds the positions. Both are made once for a forward pass, and every layer uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# (query [queries, heads, size], key, value [tokens, kv heads, size]) -> [queries, heads, size]. The queries are all
# tokens' or the scored ones'. Where there are fewer kv heads than heads, groups of heads share one.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin of each token's angles, [tokens, 1, pairs].

    Elements of a head beyond two for each pair are not rotated, for families that rotate only a part of a head.
    """

    cos: Tensor
    sin: Tensor

    def apply(self, heads: Tensor) -> Tensor:
        """[tokens, heads, size] rotated by each token's position. Elements i and i + pairs are a pair."""
        pairs = self.cos.shape[-1]
        left, right = heads[..., :pairs], heads[..., pairs : 2 * pairs]
        rotated = (
            torch.addcmul(left * self.cos, right, self.sin, value=-1),
            torch.addcmul(right * self.cos, left, self.sin),
        )
        return torch.cat([*rotated, heads[..., 2 * pairs :]], dim=-1)

    def at(self, tokens: Tensor) -> Rotary:
        """The angles of these tokens alone."""
        return Rotary(self.cos[tokens], self.sin[tokens])


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


@dataclass(frozen=True, slots=True)
class Scored:
    """The tokens whose hidden states are read after the last layer, int64 [scored], ascending, and their attention."""

    at: Tensor
    attend: Attend


class Block(nn.Module):
    """One pre-norm layer around a family's attention (hidden, rotary, attend, scored) and mlp (hidden).

    scored: given to the last layer alone. From its attention on, only the hidden states of these tokens are computed.
    """

    def __init__(self, attention: nn.Module, mlp: nn.Module, size: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(size, eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.mlp = mlp

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(hidden), rotary, attend, scored)
        hidden = mixed + (hidden if scored is None else hidden[scored.at])
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class Decoder(nn.Module):
    """Embedding, blocks and last norm. `forward` stops before the norm, which runs only where logits are read."""

    def __init__(self, vocabulary: int, size: int, blocks: Iterable[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, size)
        self.layers = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        """[tokens, size]; or [scored, size]."""
        *before, last = self.layers
        for layer in before:
            hidden = layer(hidden, rotary, attend)
        out: Tensor = last(hidden, rotary, attend, scored)
        return out


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; without gradients, in one new tensor."""
    return functional.silu(gate) * up if torch.is_grad_enabled() else functional.silu(gate).mul_(up)
