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
    if input.dtype is weight.dtype and input.dtype in _ONEDNN and input.device.type == "cpu" and not _traced():
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], ""))
    return functional.linear(input, weight, bias)


def _traced() -> bool:
    """For gradients, by the compiler or in mixed precision, which all know torch's own product alone."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")


def _kinds() -> frozenset[torch.dtype]:
    """What oneDNN multiplies here. The calls are torch's own compiler's, no promise: another version may lack them."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return frozenset()
    half = hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if half else {torch.float32})


_ONEDNN = _kinds()
