"""A decoder through torch's compiler, with FlexAttention over a block mask of the trees.

Large steps run layer by layer through one graph that takes any number of tokens. In small steps, launching kernels
takes longer than running them. So small steps run through one graph of all layers for each rounded number of tokens,
captured and replayed on CUDA. The last layer runs at the scored tokens alone and is not compiled.

Tested on a CPU only so far, so it is off by default (MODERATION_MODEL__COMPILE).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from moderation.models.shared.decoder import Attend, Decoder, Rotary, Scored
from moderation.models.shared.tree import Packed

BLOCK = 128  # FlexAttention's
SMALL = (256, 512, 1024)  # tokens of a step that is replayed
WARM_UP = (*SMALL, 2 * SMALL[-1], 4 * SMALL[-1])  # every size with a graph of its own, and two that share one


@dataclass(frozen=True, slots=True)
class Trees:
    """An Attend over FlexAttention's block mask."""

    mask: BlockMask

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See Attend."""
        return _attend(query, key, value, self.mask)


class Compiled:
    """Replaces Decoder.forward. Not a Module: the weights stay in the decoder."""

    def __init__(self, decoder: Decoder, backend: str = "inductor") -> None:
        self._decoder = decoder
        mode = "reduce-overhead" if backend == "inductor" else None  # CUDA graphs; no effect on a CPU
        self._large = torch.compile(_layer, dynamic=True, fullgraph=True, backend=backend)
        self._small = torch.compile(_layers, dynamic=False, fullgraph=True, backend=backend, mode=mode)

    def attention(self, packed: Packed) -> Trees:
        """The attention for all layers of a step."""
        return Trees(block_mask(packed))

    def __call__(self, hidden: Tensor, rotary: Rotary, attend: Trees, scored: Scored | None) -> Tensor:
        *before, last = self._decoder.layers
        if len(hidden) in SMALL:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            hidden = self._small(before, hidden, rotary.cos, rotary.sin, attend.mask)
        else:
            for layer in before:
                hidden = self._large(layer, hidden, rotary.cos, rotary.sin, attend.mask)
        return cast(Tensor, last(hidden, rotary, attend, scored))


def rounded(tokens: int) -> int:
    """How many tokens a step of so many takes. The rest is padding: a post without questions."""
    return next((total for total in SMALL if tokens <= total), -(-tokens // BLOCK) * BLOCK)


def block_mask(packed: Packed) -> BlockMask:
    """FlexAttention's mask: which blocks of tokens attend to which, and which tokens within a block."""
    post: list[int] = []
    branch: list[int] = []
    for place, span in enumerate(packed.spans):
        post += [place] * (span.stop - span.start)
        branch += [-1] * (span.bounds[0] - span.start)
        for number, (start, stop) in enumerate(pairwise(span.bounds)):
            branch += [number] * (stop - start)
    device, tokens = packed.ids.device, len(packed.ids)
    posts, branches = torch.tensor([post, branch], device=device)

    def allowed(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same: Tensor = (branches[key] < 0) | (branches[key] == branches[query])
        mask: Tensor = same & (posts[query] == posts[key]) & (key <= query)
        return mask

    return create_block_mask(allowed, None, None, tokens, tokens, device=device, BLOCK_SIZE=BLOCK)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask) -> Tensor:
    # Contiguous: the compiler reads wrong elements of views made within a graph (torch 2.13 on a CPU).
    query, key, value = (part.transpose(0, 1)[None].contiguous() for part in (query, key, value))
    out = flex_attention(query, key, value, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])
    return out.squeeze(0).transpose(0, 1)


def _layer(layer: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask) -> Tensor:
    attend: Attend = lambda query, key, value: _attend(query, key, value, mask)  # noqa: E731
    out: Tensor = layer(hidden, Rotary(cos, sin), attend)
    return out


def _layers(layers: Iterable[nn.Module], hidden: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask) -> Tensor:
    for layer in layers:
        hidden = _layer(layer, hidden, cos, sin, mask)
    return hidden
