"""Attention within the trees of a packed sequence, in the ways that devices have. All see the same tokens.

two_part   every stretch (a shared part, or a branch) attends to itself, causally; then the branches to their shared
           part; the two are merged by their log-sum-exps. No pair of tokens is computed that does not see each other.
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
from moderation.models.shared.packed import Packed, Span


def of_tokens(packed: Packed) -> Attend:
    """For all tokens as queries; the way that suits the device. What it needs is made here, once for all layers."""
    device = packed.ids.device
    if device.type == "cpu":
        return two_part(packed)
    return _cuda(packed) if device.type == "cuda" else masked(packed)


def of_scored(packed: Packed) -> Attend:
    """For the scored tokens as queries: few, so that one call a post with a mask costs next to nothing."""
    rows = packed.scored.tolist()
    calls: list[tuple[slice, slice, Tensor]] = []  # queries, keys, mask
    done = 0
    for post in packed.posts:
        mine = [row for row in rows[done:] if row < post.stop]
        if not mine:
            continue
        mask = torch.zeros(len(mine), post.stop - post.start, dtype=torch.bool)
        for seen, row in zip(mask, mine, strict=True):
            seen[: post.bounds[0] - post.start] = True
            begin = max((bound for bound in post.bounds if bound <= row), default=post.start)
            seen[begin - post.start : row + 1 - post.start] = True
            seen[row + 1 - post.start :] = False
        calls.append((slice(done, done + len(mine)), slice(post.start, post.stop), mask.to(packed.ids.device)))
        done += len(mine)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        for asked, seen, mask in calls:
            out[asked] = _sdpa(query[asked], key[seen], value[seen], mask)
        return out

    return attend


def two_part(packed: Packed) -> Attend:
    """On a CPU, stretch by stretch: to gather them first would cost more than it saves."""
    whole = [post for post in packed.posts if len(post.bounds) <= 2]  # one branch: plainly causal from its first token
    split = [post for post in packed.posts if len(post.bounds) > 2]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = _spread(key, query.shape[1]), _spread(value, query.shape[1])
        out = torch.empty_like(query)
        for post in whole:
            seen = slice(post.start, post.stop)
            out[seen] = _sdpa(query[seen], key[seen], value[seen])
        for post in split:
            shared, branches = slice(post.start, post.bounds[0]), slice(post.bounds[0], post.stop)
            if post.bounds[0] == post.start:  # nothing is shared
                for start, stop in pairwise(post.bounds):
                    own = slice(start, stop)
                    out[own] = _sdpa(query[own], key[own], value[own])
                continue
            out[shared] = _sdpa(query[shared], key[shared], value[shared])
            before, weight = _flash(query[branches], key[shared], value[shared], causal=False)
            for start, stop in pairwise(post.bounds):
                own, there = slice(start, stop), slice(start - post.bounds[0], stop - post.bounds[0])
                after, other = _flash(query[own], key[own], value[own], causal=True)
                out[own] = merge(before[there], weight[there], after, other)
        return out

    return attend


def merge(before: Tensor, weight: Tensor, after: Tensor, other: Tensor) -> Tensor:
    """Attention over two sets of keys from that over each [tokens, heads, size] and its log-sum-exp [tokens, heads]."""
    share = torch.sigmoid(other - weight)[..., None]
    return torch.lerp(before, after, share.to(before.dtype))


def masked(packed: Packed) -> Attend:
    """See the head of the file."""
    masks = [_branch_masks(post, packed.ids.device) for post in packed.posts]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        for post, branch_masks in zip(packed.posts, masks, strict=True):
            shared = post.bounds[0] - post.start
            causal = slice(post.start, post.bounds[0] if branch_masks else post.stop)
            out[causal] = _sdpa(query[causal], key[causal], value[causal])
            if not branch_masks:
                continue
            # Each branch in turn takes its place behind the shared part. To attend from all branches at once would be
            # one call, but most of its work would be on pairs of tokens that don't see each other.
            longest = max(map(len, branch_masks))
            keys, values = (functional.pad(part[causal], (0, 0, 0, 0, 0, longest)) for part in (key, value))
            for (start, stop), mask in zip(pairwise(post.bounds), branch_masks, strict=True):
                branch, seen = slice(start, stop), shared + stop - start
                keys[shared:seen], values[shared:seen] = key[branch], value[branch]
                out[branch] = _sdpa(query[branch], keys[:seen], values[:seen], mask)
        return out

    return attend


@dataclass(frozen=True, slots=True)
class Stretches:
    """Sequences that stand one behind the other. bounds: int32 [sequences + 1] on the device."""

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
    """FlashAttention takes bfloat16 alone, on a GPU from Ampere on; all else is masked."""
    plain = masked(packed)
    if torch.cuda.get_device_capability(packed.ids.device) < (8, 0):
        return plain
    fast = stretches(packed, _varlen)
    return lambda query, key, value: (fast if query.dtype == torch.bfloat16 else plain)(query, key, value)


def stretches(packed: Packed, kernel: Kernel) -> Attend:
    """two_part in two calls for the whole batch: of all stretches to themselves, and of all branches to what is shared.

    Not run on CUDA yet; its packing and merging are tested on a CPU with another kernel.
    """
    device = packed.ids.device
    split = [post for post in packed.posts if len(post.bounds) > 2 and post.bounds[0] > post.start]
    bounds = {0, *(post.start for post in packed.posts), *(post.stop for post in packed.posts)}
    bounds |= {bound for post in packed.posts if len(post.bounds) > 2 for bound in post.bounds}
    own = Stretches.of(sorted(bounds), device)
    asking = torch.cat([torch.arange(post.bounds[0], post.stop) for post in split] or [torch.arange(0)]).to(device)
    shared = torch.cat([torch.arange(post.start, post.bounds[0]) for post in split] or [torch.arange(0)]).to(device)
    asked = Stretches.of(list(accumulate((post.stop - post.bounds[0] for post in split), initial=0)), device)
    seen = Stretches.of(list(accumulate((post.bounds[0] - post.start for post in split), initial=0)), device)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out, weight = kernel(query, key, value, own, own, True)
        if split:
            before, other = kernel(query[asking], key[shared], value[shared], asked, seen, False)
            out[asking] = merge(before, other, out[asking], weight[asking])
        return out

    return attend


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, asked: Stretches, seen: Stretches, causal: bool
) -> tuple[Tensor, Tensor]:
    out, weight = _kernel(query, key, value, asked, seen, causal=causal)
    return out, weight.transpose(0, 1) if heads_first(query.device) else weight


@cache
def heads_first(device: torch.device) -> bool:
    """Whether varlen attention's log-sum-exp is [heads, queries], as its kernels give it up to torch 2.13, and not
    [queries, heads], as its documentation says.

    Seen once a device from 3 queries with 2 heads: of a batch with as many queries as heads the shape tells nothing.
    """
    some = torch.zeros(3, 2, 64, dtype=torch.bfloat16, device=device)
    one = Stretches.of([0, 3], device)
    weight = _kernel(some, some, some, one, one, causal=False)[1]
    if tuple(weight.shape) not in ((2, 3), (3, 2)):
        raise DeviceError(f"torch {torch.__version__}: the log-sum-exp of varlen attention has an unknown shape")
    return tuple(weight.shape) == (2, 3)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, asked: Stretches, seen: Stretches, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """torch's, whatever the shape of its log-sum-exp."""
    from torch.nn.attention import varlen  # noqa: PLC0415 - only a GPU has it

    out, weight = varlen.varlen_attn(
        query,
        key,
        value,
        asked.bounds,
        seen.bounds,
        asked.longest,
        seen.longest,
        return_aux=varlen.AuxRequest(lse=True),
        window_size=(-1, 0 if causal else -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out, weight


def _flash(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """What SDPA runs on a CPU, with the log-sum-exp that SDPA drops: out, float32 [tokens, heads]."""
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)
    return out[0].transpose(0, 1), weight[0].transpose(0, 1)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """[tokens, heads, size] -> the same; causal without a mask. Fewer key heads than query heads are repeated."""
    key, value = _spread(key, query.shape[1]), _spread(value, query.shape[1])
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    return out[0].transpose(0, 1)


def _spread(part: Tensor, heads: int) -> Tensor:
    """[tokens, kv heads, size], each head repeated for the queries' heads that share it."""
    groups = heads // part.shape[1]
    return part.repeat_interleave(groups, dim=1) if groups > 1 else part


def _branch_masks(post: Span, device: torch.device) -> list[Tensor]:
    """For each branch bool [its tokens, tokens of the shared part and its own], True: is seen."""
    if len(post.bounds) <= 2:
        return []  # with one branch at most, a post is a plain causal sequence
    shared = post.bounds[0] - post.start
    lengths = [stop - start for start, stop in pairwise(post.bounds)]
    return [torch.ones(n, shared + n, dtype=torch.bool, device=device).tril(shared) for n in lengths]
