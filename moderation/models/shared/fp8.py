"""The decoder's matrices in eight bits, for GPUs from Hopper on: half the bytes of bfloat16, twice the speed.

Each row of weights and each token has its own scale, so no calibration is needed. Tested on a CPU only so far, where
torch computes the same products slowly, so it is off by default (MODERATION_MODEL__FP8).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moderation.models.shared.linear import Linear

KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max


class Fp8Linear(nn.Module):
    """A Linear, its weights and its inputs rounded to e4m3; the bias is exact. Computed in bfloat16."""

    weight: Tensor
    scale: Tensor

    def __init__(self, exact: nn.Linear) -> None:
        super().__init__()
        weight, scale = _rounded(exact.weight)
        self.register_buffer("weight", weight)  # [out, in]; read as its transpose, which is how the product wants it
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = exact.bias

    def forward(self, input: Tensor) -> Tensor:
        values, scale = _rounded(input)
        out = torch._scaled_mm(
            values, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return (out if self.bias is None else out + self.bias).to(input.dtype)


def use(layers: nn.ModuleList) -> int:
    """Replaces the matrices of all layers but the last, which runs at few tokens. Returns how many were replaced."""
    replaced = 0
    for layer in list(layers)[:-1]:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Linear):
                    setattr(module, name, Fp8Linear(child))
                    replaced += 1
    return replaced


def available(device: torch.device) -> bool:
    """Whether the device multiplies eight-bit matrices fast."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(e4m3 [rows, n], float32 scale [rows, 1])."""
    wide = rows.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (wide / scale).clamp(-LARGEST, LARGEST).to(KIND), scale
