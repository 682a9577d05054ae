"""A whole checkpoint as a network: ids and pictures in, logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.shared import attention, compiled
from moderation.models.shared.compiled import Compiled
from moderation.models.shared.decoder import Decoder, Rotary, Scored
from moderation.models.shared.linear import Linear
from moderation.models.shared.tree import Packed


class LanguageNetwork(nn.Module, ABC):
    """A decoder with its head, and a picture's features in the picture's slots. A family adds its vision tower."""

    compiled: Compiled | None = None

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """Embedding, layers and last norm."""

    @property
    @abstractmethod
    def head(self) -> Linear:
        """Hidden states to logits."""

    @abstractmethod
    def rotary(self, packed: Packed, variants: Sequence[int], dtype: torch.dtype) -> Rotary:
        """The angles of every token. variants: one for each tree, see `engine.Part`."""

    @abstractmethod
    def embed_images(self, pictures: Sequence[Any]) -> list[Tensor]:
        """The features of the family's pictures, [tokens, hidden] each."""

    def variant(self, tokens: int) -> int:
        """The variant that a prompt of so many tokens takes alone."""
        return 0

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    def forward(
        self, packed: Packed, features: Sequence[Tensor], variants: Sequence[int], *, only_scored: bool = False
    ) -> Tensor:
        """Hidden states before the last norm, [tokens, hidden]; only_scored: those of packed.scored, [scored, hidden].

        features: of `embed_images`, in the order of their slots, which are the ids below zero.
        """
        hidden = self.decoder.embed_tokens(packed.ids.clamp(min=0))
        if features:
            hidden[packed.ids < 0] = torch.cat(list(features))
        rotary = self.rotary(packed, variants, hidden.dtype)
        scored = Scored(packed.scored, attention.of_scored(packed)) if only_scored else None
        if self.compiled is not None:
            return self.compiled(hidden, rotary, self.compiled.attention(packed), scored)
        out: Tensor = self.decoder(hidden, rotary, attention.of_tokens(packed), scored)
        return out

    def rounded(self, tokens: int) -> int:
        """The padded size of a pass of `tokens` tokens."""
        return tokens if self.compiled is None else compiled.rounded(tokens)

    def logits(self, hidden: Tensor, exact: Sequence[int] = ()) -> Tensor:
        """float32 [n, vocabulary] of n hidden states.

        exact: ids whose logits are summed and kept in float32. bfloat16 logits near 20 come in steps of 1/8, and so
        would the margin between two of them.
        """
        normed = self.decoder.norm(hidden)
        logits: Tensor = self.head(normed).float()
        if exact and normed.dtype != torch.float32:
            rows, bias = self.head.weight[list(exact)].float(), self.head.bias
            kept = None if bias is None else bias[list(exact)].float()
            logits[:, list(exact)] = functional.linear(normed.float(), rows, kept)
        return logits
