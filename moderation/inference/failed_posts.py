"""Posts that the model fails on, each alone: held back until it is clear whether the posts are at fault or the model.

A model that fails on every post but our own would turn a whole topic into dead letters. So a failure becomes final

    once another post goes well
    once nothing else has come for a while, as long as there are few of them

and when there are several in a row, a post that went well before is tried again: if it fails, the model is at fault. If
it goes well it clears those posts, but not the model for good: it may fail at all that is new.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from moderation.errors import PostError

PATIENCE = 4  # at so many times `most` in a row the model is at fault, whatever an earlier post says


class FailedPosts:
    """Those that fail at one thing that the model does. Belongs to the event loop."""

    def __init__(self, most: int) -> None:
        """most: different posts that may fail in a row before the model is doubted."""
        self.well = 0  # posts that went well, ever
        self._most = most
        self._row: set[str] = set()  # which posts have failed since another one went well
        self._cleared = 0  # how many of the row
        self._held: deque[tuple[str, asyncio.Future[Any], PostError]] = deque()

    def __len__(self) -> int:
        """Posts that are held back."""
        return len(self._held)

    @property
    def doubtful(self) -> bool:
        """Whether so many have failed in a row that the model may be at fault."""
        return len(self._row) - self._cleared >= self._most

    @property
    def hopeless(self) -> bool:
        """Whether so many have that it is at fault, whatever an earlier post says."""
        return len(self._row) >= PATIENCE * self._most

    def hold(self, post: str, answer: asyncio.Future[Any], error: PostError) -> None:
        """`post` is the same for the same content; `answer` gets the error once the post is found to be at fault."""
        self._held.append((post, answer, error))
        self._row.add(post)

    def went_well(self) -> None:
        """Another post did: those that are held back are at fault themselves."""
        self.well += 1
        if self._row:
            self._row.clear()
            self.clear()

    def clear(self) -> None:
        """An earlier post still goes well: those that are held back are at fault themselves. The row goes on."""
        self._cleared = len(self._row)
        while self._held:
            self.release()

    def release(self) -> None:
        """Answers the post that was held back longest, and all with its content. The row goes on."""
        first = self._held[0][0]
        for post, answer, error in self._held:
            if post == first and not answer.done():
                answer.set_exception(error)
        self._held = deque(held for held in self._held if held[0] != first)
