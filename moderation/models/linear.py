"""Matrices of a network, each multiplied the fastest way that its device has."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """nn.Linear. Without gradients on a CPU, oneDNN multiplies: torch itself takes MKL for float32, which runs at 0.87
    of oneDNN's speed on an AMD EPYC 9004 (measured with torch 2.13, shapes of `bench engine --size small`)."""

    def forward(self, input: Tensor) -> Tensor:
        return _product(input, self.weight, self.bias)

    def rows(self, input: Tensor, rows: slice) -> Tensor:
        """Some elements of the output alone."""
        return _product(input, self.weight[rows], None if self.bias is None else self.bias[rows])


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _ONEDNN and input.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], ""))
    return functional.linear(input, weight, bias)


# What torch's own compiler calls for a linear layer; no promise of torch's, so it may be gone in another version.
_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
