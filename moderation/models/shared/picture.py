"""A picture as a family's vision tower takes it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from moderation.models.shared import feature_cache


class EncodedPicture(feature_cache.EncodedPicture, Protocol):
    """One picture of a post. The pixels stay bytes until the tower runs."""

    @property
    def work(self) -> int:
        """The tower's work for it, in tokens of the decoder. Only products with weights count."""

    @property
    def pixels(self) -> Tensor:
        """float32 [crops, 3, height, width], normalised."""
