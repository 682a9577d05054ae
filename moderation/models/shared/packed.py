"""Posts as trees, and the one packed sequence that a forward pass runs over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


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
