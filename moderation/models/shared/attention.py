"""Attention within the trees of a packed sequence. Each way computes the same; which one runs depends on the device.

two_part   every stretch (a shared part, or a branch) attends to itself, causally. Then the branches attend to their
           shared part, and the two results are merged by their log-sum-exps. No masked pair of tokens is computed.
masked     one branch after the other behind the shared part, with plain SDPA: for devices that return no log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from moderation.errors import DeviceError
from moderation.models.shared.decoder import Attend
from moderation.models.shared.tree import Packed, Span


def of_tokens(packed: Packed) -> Attend:
    """Attention with all tokens as queries, in the way that suits the device. Made once for all layers."""
    device = packed.ids.device
    if device.type == "cpu":
        return two_part(packed)
    if device.type == "meta":
        return stretches(packed, _shapes)
    return _cuda(packed) if device.type == "cuda" else masked(packed)


def of_scored(packed: Packed) -> Attend:
    """Attention with the scored tokens as queries. They are few, so one call with a mask for each span is cheap."""
    rows = [bound - 1 for span in packed.spans for bound in span.bounds[1:]]  # as packed.scored, without a device
    calls: list[tuple[slice, slice, Tensor]] = []  # queries, keys, mask
    done = 0
    for span in packed.spans:
        queries = [row for row in rows[done:] if row < span.stop]
        if not queries:
            continue
        mask = torch.zeros(len(queries), span.stop - span.start, dtype=torch.bool)
        for allowed, row in zip(mask, queries, strict=True):
            allowed[: span.bounds[0] - span.start] = True
            begin = max((bound for bound in span.bounds if bound <= row), default=span.start)
            allowed[begin - span.start : row + 1 - span.start] = True
            allowed[row + 1 - span.start :] = False
        calls.append((slice(done, done + len(queries)), slice(span.start, span.stop), mask.to(packed.ids.device)))
        done += len(queries)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        for queries, keys, mask in calls:
            out[queries] = _sdpa(query[queries], key[keys], value[keys], mask)
        return out

    return attend


def two_part(packed: Packed) -> Attend:
    """On a CPU, stretch by stretch: gathering them into fewer calls would cost more than it saves."""
    whole = [span for span in packed.spans if len(span.bounds) <= 2]  # one branch: plainly causal from its first token
    split = [span for span in packed.spans if len(span.bounds) > 2]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = _repeat_heads(key, query.shape[1]), _repeat_heads(value, query.shape[1])
        out = torch.empty_like(query)
        for span in whole:
            own = slice(span.start, span.stop)
            out[own] = _sdpa(query[own], key[own], value[own])
        for span in split:
            shared, branches = slice(span.start, span.bounds[0]), slice(span.bounds[0], span.stop)
            if span.bounds[0] == span.start:  # nothing is shared
                for start, stop in pairwise(span.bounds):
                    own = slice(start, stop)
                    out[own] = _sdpa(query[own], key[own], value[own])
                continue
            out[shared] = _sdpa(query[shared], key[shared], value[shared])
            before, weight = _flash(query[branches], key[shared], value[shared], causal=False)
            for start, stop in pairwise(span.bounds):
                own, there = slice(start, stop), slice(start - span.bounds[0], stop - span.bounds[0])
                after, other = _flash(query[own], key[own], value[own], causal=True)
                out[own] = merge(before[there], weight[there], after, other)
        return out

    return attend


def merge(before: Tensor, weight: Tensor, after: Tensor, other: Tensor) -> Tensor:
    """Attention over two sets of keys from that over each [tokens, heads, size] and its log-sum-exp [tokens, heads]."""
    share = torch.sigmoid(other - weight)[..., None]
    return torch.lerp(before, after, share.to(before.dtype))


def masked(packed: Packed) -> Attend:
    """See the docstring of the module."""
    masks = [_branch_masks(span, packed.ids.device) for span in packed.spans]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        for span, branch_masks in zip(packed.spans, masks, strict=True):
            shared = span.bounds[0] - span.start
            causal = slice(span.start, span.bounds[0] if branch_masks else span.stop)
            out[causal] = _sdpa(query[causal], key[causal], value[causal])
            if not branch_masks:
                continue
            # Each branch in turn is copied behind the shared part. One call for all branches would spend most of its
            # work on masked pairs of tokens.
            longest = max(map(len, branch_masks))
            keys, values = (functional.pad(part[causal], (0, 0, 0, 0, 0, longest)) for part in (key, value))
            for (start, stop), mask in zip(pairwise(span.bounds), branch_masks, strict=True):
                branch, end = slice(start, stop), shared + stop - start
                keys[shared:end], values[shared:end] = key[branch], value[branch]
                out[branch] = _sdpa(query[branch], keys[:end], values[:end], mask)
        return out

    return attend


@dataclass(frozen=True, slots=True)
class Stretches:
    """Sequences one behind the other. bounds: int32 [sequences + 1] on the device."""

    bounds: Tensor
    longest: int

    @classmethod
    def of(cls, bounds: Sequence[int], device: torch.device) -> Stretches:
        longest = max((stop - start for start, stop in pairwise(bounds)), default=0)
        return cls(torch.tensor(bounds, dtype=torch.int32, device=device), longest)


# (query, key, value, stretches of the queries, of the keys, causal) -> out [queries, heads, size] and log-sum-exp
# [queries, heads]: stretch i of the queries attends to stretch i of the keys.
Kernel = Callable[[Tensor, Tensor, Tensor, Stretches, Stretches, bool], tuple[Tensor, Tensor]]


def _cuda(packed: Packed) -> Attend:
    """FlashAttention, which needs bfloat16 and a GPU from Ampere on; otherwise `masked`."""
    plain = masked(packed)
    if torch.cuda.get_device_capability(packed.ids.device) < (8, 0):
        return plain
    fast = stretches(packed, _varlen)
    return lambda query, key, value: (fast if query.dtype == torch.bfloat16 else plain)(query, key, value)


def stretches(packed: Packed, kernel: Kernel) -> Attend:
    """two_part in two calls for the whole batch: all stretches to themselves, and all branches to their shared part.

    Not run on CUDA yet. Tests run its packing and merging on a CPU with another kernel.
    """
    device = packed.ids.device
    split = [span for span in packed.spans if len(span.bounds) > 2 and span.bounds[0] > span.start]
    bounds = {0, *(span.start for span in packed.spans), *(span.stop for span in packed.spans)}
    bounds |= {bound for span in packed.spans if len(span.bounds) > 2 for bound in span.bounds}
    own = Stretches.of(sorted(bounds), device)
    asking = torch.cat([torch.arange(span.bounds[0], span.stop) for span in split] or [torch.arange(0)]).to(device)
    shared = torch.cat([torch.arange(span.start, span.bounds[0]) for span in split] or [torch.arange(0)]).to(device)
    query_stretches = Stretches.of(list(accumulate((span.stop - span.bounds[0] for span in split), initial=0)), device)
    key_stretches = Stretches.of(list(accumulate((span.bounds[0] - span.start for span in split), initial=0)), device)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out, weight = kernel(query, key, value, own, own, True)
        if split:
            before, other = kernel(query[asking], key[shared], value[shared], query_stretches, key_stretches, False)
            out[asking] = merge(before, other, out[asking], weight[asking])
        return out

    return attend


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, query_stretches: Stretches, key_stretches: Stretches, causal: bool
) -> tuple[Tensor, Tensor]:
    out, weight = _kernel(query, key, value, query_stretches, key_stretches, causal=causal)
    return out, weight.transpose(0, 1) if heads_first(query.device) else weight


def _shapes(
    query: Tensor, key: Tensor, value: Tensor, query_stretches: Stretches, key_stretches: Stretches, causal: bool
) -> tuple[Tensor, Tensor]:
    """A Kernel for the meta device: what `_varlen` returns, by shape."""
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    return out, query.new_empty(query.shape[:2], dtype=torch.float32)


@cache
def heads_first(device: torch.device) -> bool:
    """Whether varlen attention's log-sum-exp is [heads, queries], as its kernels return it up to torch 2.13, and not
    [queries, heads], as its documentation says.

    Measured once for each device with 3 queries and 2 heads: equal numbers would not show which is which.
    """
    zeros = torch.zeros(3, 2, 64, dtype=torch.bfloat16, device=device)
    stretch = Stretches.of([0, 3], device)
    weight = _kernel(zeros, zeros, zeros, stretch, stretch, causal=False)[1]
    if tuple(weight.shape) not in ((2, 3), (3, 2)):
        raise DeviceError(f"torch {torch.__version__}: the log-sum-exp of varlen attention has an unknown shape")
    return tuple(weight.shape) == (2, 3)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, query_stretches: Stretches, key_stretches: Stretches, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """torch's varlen attention; see `heads_first` for the shape of its log-sum-exp."""
    from torch.nn.attention import varlen  # noqa: PLC0415 - only a GPU has it

    out, weight = varlen.varlen_attn(
        query,
        key,
        value,
        query_stretches.bounds,
        key_stretches.bounds,
        query_stretches.longest,
        key_stretches.longest,
        return_aux=varlen.AuxRequest(lse=True),
        window_size=(-1, 0 if causal else -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out, weight


def _flash(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """SDPA's own kernel on a CPU, with the log-sum-exp that SDPA drops: out, float32 [tokens, heads]."""
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)
    return out[0].transpose(0, 1), weight[0].transpose(0, 1)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """[tokens, heads, size] -> the same; causal without a mask. Fewer key heads than query heads are repeated."""
    key, value = _repeat_heads(key, query.shape[1]), _repeat_heads(value, query.shape[1])
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    return out[0].transpose(0, 1)


def _repeat_heads(part: Tensor, heads: int) -> Tensor:
    """[tokens, kv heads, size], each head repeated for the queries' heads that share it."""
    groups = heads // part.shape[1]
    return part.repeat_interleave(groups, dim=1) if groups > 1 else part


def _branch_masks(span: Span, device: torch.device) -> list[Tensor]:
    """For each branch bool [its tokens, tokens of the shared part and its own], True: attended to."""
    if len(span.bounds) <= 2:
        return []  # with one branch at most, a span is a plain causal sequence
    shared = span.bounds[0] - span.start
    lengths = [stop - start for start, stop in pairwise(span.bounds)]
    return [torch.ones(n, shared + n, dtype=torch.bool, device=device).tril(shared) for n in lengths]
