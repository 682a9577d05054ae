"""Posts that fail alone. They are held until it is clear whether the posts or the model are at fault.

A model that fails on all posts except the reference posts would turn a whole topic into dead letters. So a failure is
final

- if another post succeeds, or
- if no other post has come for a while, and few posts have failed.

If several posts in a row fail, a post that succeeded before is tried again. If it fails, the model is at fault. If it
succeeds, the failed posts are at fault. The streak goes on, because the model may fail on everything that is new.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from moderation.errors import PostError

PATIENCE = 4  # if this many times `limit` fail in a row, the model is at fault even if an earlier post succeeds


class FailedPosts:
    """The posts that fail in one method of the model. Belongs to the event loop."""

    def __init__(self, limit: int) -> None:
        """limit: different posts that may fail in a row before the model is in doubt."""
        self.successes = 0  # posts that have succeeded, since the start
        self._limit = limit
        self._streak: set[str] = set()  # posts that have failed since the last success
        self._cleared = 0  # posts of the streak that are known to be at fault
        self._held: deque[tuple[str, asyncio.Future[Any], PostError]] = deque()

    def __len__(self) -> int:
        """Posts that are held."""
        return len(self._held)

    @property
    def doubtful(self) -> bool:
        """Whether the model may be at fault, because too many posts have failed in a row."""
        return len(self._streak) - self._cleared >= self._limit

    @property
    def hopeless(self) -> bool:
        """Whether the model is at fault, even if an earlier post still succeeds."""
        return len(self._streak) >= PATIENCE * self._limit

    def hold(self, post: str, result: asyncio.Future[Any], error: PostError) -> None:
        """Holds a post. `post`: equal for equal content. `result` gets the error when the post is found at fault."""
        self._held.append((post, result, error))
        self._streak.add(post)

    def succeeded(self, *posts: str) -> bool:
        """Records that these posts have succeeded: if others have failed, they are at fault.

        Returns False for posts that have failed themselves: now a part of them has succeeded, which says little of the
        model.
        """
        if self._streak.issuperset(posts):
            return False
        self.successes += 1
        if self._streak:
            self._streak.clear()
            self.clear()
        return True

    def clear(self) -> None:
        """Records that an earlier post still succeeds: the held posts are at fault. The streak goes on."""
        self._cleared = len(self._streak)
        while self._held:
            self.release()

    def release(self) -> None:
        """Fails the post that was held longest, and all posts with its content. The streak goes on."""
        first = self._held[0][0]
        for post, result, error in self._held:
            if post == first and not result.done():
                result.set_exception(error)
        self._held = deque(held for held in self._held if held[0] != first)
