"""Divides what a worker may have in hand among its partitions.

Half is divided equally. Each partition keeps its part, so the first posts of a quiet partition are taken at once. The
other half goes to the partition that is asked first, so a single busy partition fills batches. Partitions take turns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Held(NamedTuple):
    """Posts in hand, or posts that may be taken."""

    posts: int
    bytes: int


class Shares(Generic[K]):
    """What is free, during one poll."""

    def __init__(self, held: Mapping[K, Held], limit: Held, partition_posts: int) -> None:
        """held: by partition. limit: for all partitions together. partition_posts: highest number for one partition."""
        self._held = dict(held)
        self._partition_posts = partition_posts
        count = max(1, len(held))
        self._own = Held(min(limit.posts // (2 * count), partition_posts), limit.bytes // (2 * count))
        self._whole = Held(limit.posts - self._own.posts * count, limit.bytes - self._own.bytes * count)
        self._left = Held(
            self._whole.posts - sum(max(0, each.posts - self._own.posts) for each in held.values()),
            self._whole.bytes - sum(max(0, each.bytes - self._own.bytes) for each in held.values()),
        )

    def free(self, partition: K) -> Held:
        """Returns what the partition may take now. Zero or less: nothing."""
        held = self._held[partition]
        posts = max(0, self._own.posts - held.posts) + max(0, self._left.posts)
        size = max(0, self._own.bytes - held.bytes) + max(0, self._left.bytes)
        return Held(min(posts, self._partition_posts - held.posts), size)

    def alone(self, partition: K) -> bool:
        """Whether a post may be larger than what is free: the partition holds no post, and no partition borrows."""
        return not self._held[partition].posts and self._left.bytes >= self._whole.bytes

    def take(self, partition: K, taken: Held) -> None:
        """Counts what the partition has taken."""
        held, own = self._held[partition], self._own
        after = Held(held.posts + taken.posts, held.bytes + taken.bytes)
        self._held[partition] = after
        self._left = Held(
            self._left.posts - max(0, after.posts - own.posts) + max(0, held.posts - own.posts),
            self._left.bytes - max(0, after.bytes - own.bytes) + max(0, held.bytes - own.bytes),
        )

    def keep(self) -> None:
        """Stops borrowing of bytes: a post of some partition waits for more bytes than are free."""
        self._left = Held(self._left.posts, 0)
