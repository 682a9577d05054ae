"""Rotary angles from a position and one base, as most decoders have them."""

from __future__ import annotations

import torch
from torch import Tensor

from moderation.models.shared.decoder import Rotary


def plain(
    positions: Tensor, *, theta: float, pairs: int, dtype: torch.dtype, rounded: torch.dtype | None = None
) -> Rotary:
    """cos and sin of position * theta ** (-i / pairs) for pair i, in `dtype`.

    positions: int64 [tokens]. pairs: of a head, or of its rotated part. rounded: a dtype in which the published code
    kept its tables, which makes the numbers coarser in any `dtype`.
    """
    exponents = torch.arange(0, 2 * pairs, 2, device=positions.device).float() / (2 * pairs)
    angles = (positions[:, None].float() * (1.0 / theta**exponents))[:, None]
    cos, sin = angles.cos(), angles.sin()
    if rounded is not None:
        cos, sin = cos.to(rounded), sin.to(rounded)
    return Rotary(cos.to(dtype), sin.to(dtype))
