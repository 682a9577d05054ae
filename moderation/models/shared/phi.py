"""Phi's layers: attention and MLP side by side behind one LayerNorm, biases everywhere, a part of each head rotated.

Names are those of microsoft/phi-2 since transformers 4.37. The last norm, which Phi calls final_layernorm, belongs to
the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared.decoder import Attend, RMSNorm, Rotary, Scored
from moderation.models.shared.linear import Linear


@dataclass(frozen=True, slots=True)
class PhiShape:
    """Sizes of a layer.

    norms_heads: a LayerNorm over each query head and each key head, before they are rotated. dense_norm_eps: not None:
    an RMSNorm with this eps over the output of attention. Phi-2 has neither; TinyGPT-V has both.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    eps: float  # of every LayerNorm
    norms_heads: bool = False
    dense_norm_eps: float | None = None

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


class PhiBlock(nn.Module):
    """One layer. Attention and MLP read the same normed states, and the residual takes the sum of both."""

    def __init__(self, shape: PhiShape) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.self_attn = PhiAttention(shape)
        self.mlp = PhiMlp(shape)
        self.post_layernorm = None if shape.dense_norm_eps is None else RMSNorm(shape.hidden, shape.dense_norm_eps)

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        normed = self.input_layernorm(hidden)
        mixed = self.self_attn(normed, rotary, attend, scored)
        if self.post_layernorm is not None:
            mixed = self.post_layernorm(mixed)
        if scored is not None:
            hidden, normed = hidden[scored.at], normed[scored.at]
        out: Tensor = mixed + self.mlp(normed) + hidden
        return out


class PhiAttention(nn.Module):
    """Query, key and value from a matrix each."""

    def __init__(self, shape: PhiShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.q_proj = Linear(shape.hidden, shape.heads * shape.head_size)
        self.k_proj = Linear(shape.hidden, shape.kv_heads * shape.head_size)
        self.v_proj = Linear(shape.hidden, shape.kv_heads * shape.head_size)
        self.dense = Linear(shape.heads * shape.head_size, shape.hidden)
        self.q_layernorm = nn.LayerNorm(shape.head_size, eps=shape.eps) if shape.norms_heads else None
        self.k_layernorm = nn.LayerNorm(shape.head_size, eps=shape.eps) if shape.norms_heads else None

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        asking = hidden if scored is None else hidden[scored.at]
        query = self._heads(self.q_proj, asking, self.q_layernorm)
        key = self._heads(self.k_proj, hidden, self.k_layernorm)
        value = self._heads(self.v_proj, hidden, None)
        key = rotary.apply(key)
        if scored is None:
            mixed = attend(rotary.apply(query), key, value)
        else:
            mixed = scored.attend(rotary.at(scored.at).apply(query), key, value)
        out: Tensor = self.dense(mixed.flatten(1))
        return out

    def _heads(self, projection: nn.Module, hidden: Tensor, norm: nn.Module | None) -> Tensor:
        """[tokens, heads, size]."""
        heads: Tensor = projection(hidden).unflatten(-1, (-1, self.head_size))
        return heads if norm is None else norm(heads)


class PhiMlp(nn.Module):
    """Two matrices, with GELU's tanh form between them, which published configs call gelu_new."""

    def __init__(self, shape: PhiShape) -> None:
        super().__init__()
        self.fc1 = Linear(shape.hidden, shape.intermediate)
        self.fc2 = Linear(shape.intermediate, shape.hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(hidden), approximate="tanh"))
        return out
