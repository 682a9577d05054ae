"""A picture as a family's vision tower takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
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


def on_device(raw: Tensor, device: torch.device) -> Tensor:
    """The bytes on this device. Nothing waits for a copy to CUDA."""
    if device.type == "cuda":
        raw = raw.pin_memory()
    return raw.to(device, non_blocking=True)


def normalised(raw: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [..., 3, height, width] -> float32 of the same shape, on the same device.

    On a CPU the numbers equal the published processors' to the bit; CUDA rounds otherwise.
    """
    means, stds = (torch.tensor(values, device=raw.device)[:, None, None] for values in (mean, std))
    return raw.float().div_(255).sub_(means).div_(stds)
