"""Many questions about one post in one forward pass: what they share is computed once.

A post is a tree: a shared part, and one branch a question. Posts stand in one packed sequence without padding,

    [shared of post 1, its branch 1, its branch 2, ..., shared of post 2, ...]

A branch sees its own post's shared part and itself, and continues the positions of the shared part. So a question's
score is that of a prompt with this question alone, whatever stands beside it. Layers that treat tokens one by one run
over the whole sequence; only attention knows of the tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from moderation.models.decoder import Attend
from moderation.types import Score


@dataclass(frozen=True, slots=True)
class Tree:
    """Token ids of one post. What an id below zero stands for is the model's affair."""

    shared: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Positions that a forward pass computes."""
        return len(self.shared) + sum(map(len, self.branches))


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tree stands in the packed sequence: shared is [start, bounds[0]), branch i [bounds[i], bounds[i + 1])."""

    start: int
    bounds: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class Packed:
    """Trees, packed. ids and positions: int64 [tokens]. scored: int64 [questions], the last token of each branch."""

    ids: Tensor
    positions: Tensor
    posts: tuple[Span, ...]
    scored: Tensor


def pack(trees: Sequence[Tree], device: torch.device) -> Packed:
    """The packed sequence of the trees, in their order."""
    ids: list[int] = []
    positions: list[int] = []
    posts: list[Span] = []
    for tree in trees:
        start, shared = len(ids), len(tree.shared)
        posts.append(Span(start, tuple(accumulate(map(len, tree.branches), initial=start + shared))))
        ids += tree.shared
        positions += range(shared)
        for branch in tree.branches:
            ids += branch
            positions += range(shared, shared + len(branch))
    scored = [bound - 1 for post in posts for bound in post.bounds[1:]]
    return Packed(
        ids=torch.tensor(ids, dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        posts=tuple(posts),
        scored=torch.tensor(scored, dtype=torch.int64, device=device),
    )


def attention(packed: Packed) -> Attend:
    """Attention within each post's tree. The masks are made here, once for all layers."""
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


def answers(logits: Tensor, yes: int, no: int) -> list[Score]:
    """The scores in full-vocabulary logits [questions, vocabulary], float32. Raises ArithmeticError if not finite."""
    pair = logits[:, [yes, no]].double()
    mass = (pair.logsumexp(-1) - logits.double().logsumexp(-1)).exp()
    rows = torch.stack([pair[:, 0] - pair[:, 1], mass], dim=-1).tolist()
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ArithmeticError("the model's logits are not finite")
    return [Score(probability=_sigmoid(margin), margin=margin, mass=min(mass, 1.0)) for margin, mass in rows]


def _branch_masks(post: Span, device: torch.device) -> list[Tensor]:
    """For each branch bool [its tokens, tokens of the shared part and its own], True: is seen."""
    if len(post.bounds) <= 2:
        return []  # with one branch at most, a post is a plain causal sequence
    shared = post.bounds[0] - post.start
    lengths = [stop - start for start, stop in pairwise(post.bounds)]
    return [torch.ones(n, shared + n, dtype=torch.bool, device=device).tril(shared) for n in lengths]


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """[tokens, heads, size] -> the same; causal without a mask. Fewer key heads than query heads are repeated."""
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    return out[0].transpose(0, 1)


def _sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-margin)) if margin > -700 else 0.0  # exp overflows a float from about 709 on
