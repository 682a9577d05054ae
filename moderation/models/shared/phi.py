"""Phi's decoder: attention and MLP side by side behind one LayerNorm, biases everywhere, a part of each head rotated.

Modules are named as in microsoft/phi-2 since transformers 4.37, but for the last norm, see `published`.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared import rotary
from moderation.models.shared.config_types import (
    Count,
    Epsilon,
    Layers,
    RotaryConfig,
    Share,
    whole_groups,
    whole_heads,
)
from moderation.models.shared.decoder import Attend, Decoder, RMSNorm, Rotary, Scored
from moderation.models.shared.linear import Linear


class PhiConfig(RotaryConfig):
    """The decoder's part of a config.json, with the defaults of transformers' PhiConfig: files leave those out.

    The defaults are not phi-2's: its files say partial_rotary_factor 0.4.
    """

    vocab_size: Count = 51_200
    hidden_size: Count = 2048
    intermediate_size: Count = 8192
    num_hidden_layers: Layers = 24
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    hidden_act: Literal["gelu_new"] = "gelu_new"
    layer_norm_eps: Epsilon = 1e-5
    max_position_embeddings: Count = 2048
    partial_rotary_factor: Share = 0.5
    qk_layernorm: bool = False
    tie_word_embeddings: Literal[False] = False

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def pairs(self) -> int:
        """Rotated pairs of a head."""
        return int(self.head_size * self.partial_rotary_factor) // 2

    @property
    def token_work(self) -> int:
        """Products with weights that all layers take for one token."""
        attention = 2 * (self.num_attention_heads + self.kv_heads) * self.head_size
        return self.num_hidden_layers * self.hidden_size * (attention + 2 * self.intermediate_size)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        whole_heads(self.hidden_size, self.num_attention_heads)
        whole_groups(self.num_attention_heads, self.kv_heads)
        rotated = int(self.head_size * self.partial_rotary_factor)
        if rotated % 2 or not 0 < rotated <= self.head_size:
            raise ValueError(
                f"partial_rotary_factor {self.partial_rotary_factor} rotates {rotated} of a head's {self.head_size} "
                "elements; that must be an even number of them"
            )
        return self

    def rotary(self, positions: Tensor, dtype: torch.dtype, *, rounded: torch.dtype | None = None) -> Rotary:
        """The angles at these positions; see `shared.rotary.plain`."""
        return rotary.plain(positions, theta=self.rope_theta, pairs=self.pairs, dtype=dtype, rounded=rounded)


class PhiAttention(nn.Module):
    """Query, key and value from a matrix each. norms_heads: a LayerNorm over each query and key head comes first."""

    def __init__(self, config: PhiConfig, *, norms_heads: bool = False) -> None:
        super().__init__()
        self.head_size = config.head_size
        queries, keys = config.num_attention_heads * self.head_size, config.kv_heads * self.head_size
        self.q_proj = Linear(config.hidden_size, queries)
        self.k_proj = Linear(config.hidden_size, keys)
        self.v_proj = Linear(config.hidden_size, keys)
        self.dense = Linear(queries, config.hidden_size)
        self.q_layernorm = nn.LayerNorm(self.head_size, eps=config.layer_norm_eps) if norms_heads else None
        self.k_layernorm = nn.LayerNorm(self.head_size, eps=config.layer_norm_eps) if norms_heads else None

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        """[tokens, hidden]; or [scored, hidden]."""
        key = rotary.apply(self._heads(self.k_proj(hidden), self.k_layernorm))
        value = self._heads(self.v_proj(hidden))
        if scored is not None:
            hidden, rotary, attend = hidden[scored.at], rotary.at(scored.at), scored.attend
        query = rotary.apply(self._heads(self.q_proj(hidden), self.q_layernorm))
        out: Tensor = self.dense(attend(query, key, value).flatten(1))
        return out

    def _heads(self, projected: Tensor, norm: nn.Module | None = None) -> Tensor:
        heads = projected.view(len(projected), -1, self.head_size)
        return heads if norm is None else cast(Tensor, norm(heads))


class PhiMlp(nn.Module):
    """Two matrices, with GELU's tanh form between them, which published configs call gelu_new."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden]."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(hidden), approximate="tanh"))
        return out


class PhiBlock(nn.Module):
    """One layer. Attention and MLP read the same normed states; both outputs are added to the residual.

    norms_heads: see PhiAttention. dense_norm_eps: of an RMSNorm over the output of attention; None: there is none.
    """

    def __init__(self, config: PhiConfig, *, norms_heads: bool = False, dense_norm_eps: float | None = None) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = PhiAttention(config, norms_heads=norms_heads)
        self.mlp = PhiMlp(config)
        self.post_layernorm = None if dense_norm_eps is None else RMSNorm(config.hidden_size, dense_norm_eps)

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        """[tokens, hidden]; or [scored, hidden]."""
        normed = self.input_layernorm(hidden)
        mixed = self.self_attn(normed, rotary, attend, scored)
        if self.post_layernorm is not None:
            mixed = self.post_layernorm(mixed)
        if scored is not None:
            hidden, normed = hidden[scored.at], normed[scored.at]
        out: Tensor = mixed + self.mlp(normed) + hidden
        return out


class PhiDecoder(Decoder):
    """Embedding, layers and last norm. The head is not among them.

    TinyGPT-V takes both options, see PhiBlock. Phi itself takes norms_heads where its config says qk_layernorm.
    """

    def __init__(self, config: PhiConfig, *, norms_heads: bool = False, dense_norm_eps: float | None = None) -> None:
        norms = norms_heads or config.qk_layernorm
        blocks = (
            PhiBlock(config, norms_heads=norms, dense_norm_eps=dense_norm_eps) for _ in range(config.num_hidden_layers)
        )
        last = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        super().__init__(config.vocab_size, config.hidden_size, blocks, last)


def published(name: str) -> str:
    """The published name of a decoder's tensor."""
    return f"final_layernorm.{name.removeprefix('norm.')}" if name.startswith("norm.") else name
