"""Llama's decoder, and Mistral's, which differs in nothing but its numbers: matrices without bias, grouped queries.

Modules are named so that the published tensors fit without renaming.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor, nn

from moderation.models.shared.config_types import (
    Count,
    Epsilon,
    Layers,
    RotaryConfig,
    whole_groups,
    whole_heads,
)
from moderation.models.shared.decoder import Attend, Block, Decoder, RMSNorm, Rotary, Scored, gated
from moderation.models.shared.linear import Linear


class LlamaConfig(RotaryConfig):
    """The decoder's part of a config.json, with the defaults of transformers' LlamaConfig: files leave those out."""

    vocab_size: Count = 32_000
    hidden_size: Count = 4096
    intermediate_size: Count = 11_008
    num_hidden_layers: Layers = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: Epsilon = 1e-6
    max_position_embeddings: Count = 2048
    sliding_window: Count | None = None
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: Literal[False] = False

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def token_work(self) -> int:
        """Products with weights that all layers take for one token."""
        attention = 2 * (self.num_attention_heads + self.kv_heads) * self.head_size
        return self.num_hidden_layers * self.hidden_size * (attention + 3 * self.intermediate_size)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.head_dim is None:
            whole_heads(self.hidden_size, self.num_attention_heads)
        if self.head_size % 2:
            raise ValueError(f"a head has {self.head_size} elements; rotary positions need an even number")
        if self.partial_rotary_factor != 1:
            raise ValueError(f"partial_rotary_factor is {self.partial_rotary_factor}; Llama rotates whole heads")
        whole_groups(self.num_attention_heads, self.kv_heads)
        if self.sliding_window is not None and self.sliding_window < self.max_position_embeddings:
            raise ValueError(
                f"sliding_window {self.sliding_window} is shorter than max_position_embeddings "
                f"{self.max_position_embeddings}: attention within a window is not supported"
            )
        return self


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary positions on whole heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        queries, keys = config.num_attention_heads * self.head_size, config.kv_heads * self.head_size
        self.q_proj = Linear(config.hidden_size, queries, bias=False)
        self.k_proj = Linear(config.hidden_size, keys, bias=False)
        self.v_proj = Linear(config.hidden_size, keys, bias=False)
        self.o_proj = Linear(queries, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotary: Rotary, attend: Attend, scored: Scored | None = None) -> Tensor:
        """[tokens, hidden]; or [scored, hidden]."""
        key = rotary.apply(self._heads(self.k_proj(hidden)))
        value = self._heads(self.v_proj(hidden))
        if scored is not None:
            hidden, rotary, attend = hidden[scored.at], rotary.at(scored.at), scored.attend
        query = rotary.apply(self._heads(self.q_proj(hidden)))
        out: Tensor = self.o_proj(attend(query, key, value).flatten(1))
        return out

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(len(projected), -1, self.head_size)


class LlamaMlp(nn.Module):
    """down(silu(gate) * up)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden]."""
        out: Tensor = self.down_proj(gated(self.gate_proj(hidden), self.up_proj(hidden)))
        return out


class LlamaDecoder(Decoder):
    """Embedding, layers and last norm. The head is not among them."""

    def __init__(self, config: LlamaConfig) -> None:
        blocks = (
            Block(LlamaAttention(config), LlamaMlp(config), config.hidden_size, config.rms_norm_eps)
            for _ in range(config.num_hidden_layers)
        )
        super().__init__(
            config.vocab_size, config.hidden_size, blocks, RMSNorm(config.hidden_size, config.rms_norm_eps)
        )
