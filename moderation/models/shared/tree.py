"""Posts as trees, and the packed sequence of many posts: what a post's questions share is computed once.

A post is a tree: a shared part, and one branch for each question. One forward pass runs over the packed sequence

    [shared of post 1, its branch 1, its branch 2, ..., shared of post 2, ...]

which has no padding. A branch attends to the shared part of its own post and to itself, and continues the positions of
the shared part. So a question's score is that of a prompt with this question alone; other questions and posts do not
change it. Layers that work token by token run over the whole sequence; only `attention` knows the trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tree:
    """Token ids of one post. An id below zero is a placeholder, which only the model family reads."""

    shared: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Positions that a forward pass computes."""
        return len(self.shared) + sum(map(len, self.branches))


@dataclass(frozen=True, slots=True)
class Span:
    """A tree's place in the packed sequence: shared is [start, bounds[0]), branch i [bounds[i], bounds[i + 1])."""

    start: int
    bounds: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class Packed:
    """Packed trees. ids and positions: int64 [tokens]. scored: int64 [questions], the last token of each branch."""

    ids: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    scored: Tensor


def pack(trees: Sequence[Tree], device: torch.device) -> Packed:
    """The packed sequence of the trees, in their order."""
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    for tree in trees:
        start, shared = len(ids), len(tree.shared)
        spans.append(Span(start, tuple(accumulate(map(len, tree.branches), initial=start + shared))))
        ids += tree.shared
        positions += range(shared)
        for branch in tree.branches:
            ids += branch
            positions += range(shared, shared + len(branch))
    scored = [bound - 1 for span in spans for bound in span.bounds[1:]]
    return Packed(
        ids=torch.tensor(ids, dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        spans=tuple(spans),
        scored=torch.tensor(scored, dtype=torch.int64, device=device),
    )
