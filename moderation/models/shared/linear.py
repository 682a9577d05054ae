"""A network's matrices, multiplied in the fastest way of their device."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """nn.Linear that multiplies with oneDNN on a CPU with AVX-512, when no gradients are needed.

    torch itself takes MKL for float32, which runs at 0.87 of oneDNN's speed there (AMD EPYC 9004). On an AMD EPYC with
    AVX2 alone, MKL runs at 1.1 to 1.6 times oneDNN's speed. Measured with torch 2.13, shapes of `bench engine --size
    small`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return _product(input, self.weight, self.bias)

    def rows(self, input: Tensor, rows: slice) -> Tensor:
        """Only these elements of the output."""
        return _product(input, self.weight[rows], None if self.bias is None else self.bias[rows])


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if input.dtype is weight.dtype and input.dtype in _ONEDNN and input.device.type == "cpu" and not _traced():
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], ""))
    return functional.linear(input, weight, bias)


def _traced() -> bool:
    """Whether gradients, the compiler or mixed precision are on; these only work with torch's own product."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")


def _kinds() -> frozenset[torch.dtype]:
    """The dtypes that oneDNN multiplies. These calls are internal to torch, and another version may lack them."""
    ops = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(ops, "_linear_pointwise"):
        return frozenset()
    kinds = set()
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        kinds.add(torch.float32)
    if hasattr(ops, "_is_mkldnn_bf16_supported") and ops._is_mkldnn_bf16_supported():
        kinds.add(torch.bfloat16)
    return frozenset(kinds)


_ONEDNN = _kinds()
