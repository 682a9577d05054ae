"""How much of what a worker may have in hand each of its partitions may take.

Half of it is divided among the partitions: a part that no other one may take, so that there is room for the first posts
of a partition that was quiet. The other half is for whichever partition is asked first, so that a single busy one fills
batches. Partitions are asked in turn.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Held(NamedTuple):
    """Posts in hand, or what may be taken on."""

    posts: int
    bytes: int


class Shares(Generic[K]):
    """What is free, for one round of questions."""

    def __init__(self, held: Mapping[K, Held], most: Held, most_posts_each: int) -> None:
        """held: by partition. most: of all of them. most_posts_each: of one of them."""
        self._held = dict(held)
        self._most_posts_each = most_posts_each
        count = max(1, len(held))
        self._own = Held(min(most.posts // (2 * count), most_posts_each), most.bytes // (2 * count))
        self._whole = Held(most.posts - self._own.posts * count, most.bytes - self._own.bytes * count)
        self._left = Held(
            self._whole.posts - sum(max(0, one.posts - self._own.posts) for one in held.values()),
            self._whole.bytes - sum(max(0, one.bytes - self._own.bytes) for one in held.values()),
        )

    def of(self, partition: K) -> Held:
        """What the partition may take on now; not above zero: nothing."""
        held = self._held[partition]
        posts = max(0, self._own.posts - held.posts) + max(0, self._left.posts)
        room = max(0, self._own.bytes - held.bytes) + max(0, self._left.bytes)
        return Held(min(posts, self._most_posts_each - held.posts), room)

    def alone(self, partition: K) -> bool:
        """Whether a post may be larger than the room: the partition holds none, and nothing is borrowed by any."""
        return not self._held[partition].posts and self._left.bytes >= self._whole.bytes

    def take(self, partition: K, taken: Held) -> None:
        """The partition has taken so much on."""
        held, own = self._held[partition], self._own
        after = Held(held.posts + taken.posts, held.bytes + taken.bytes)
        self._held[partition] = after
        self._left = Held(
            self._left.posts - max(0, after.posts - own.posts) + max(0, held.posts - own.posts),
            self._left.bytes - max(0, after.bytes - own.bytes) + max(0, held.bytes - own.bytes),
        )

    def keep(self) -> None:
        """A post of some partition waits for more bytes than are free: until it has them, nobody borrows any."""
        self._left = Held(self._left.posts, 0)
