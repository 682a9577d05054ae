"""How the view passes changes on: a feed for each watch, and a waiter for each call that waits for one post."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moderation.view.stores import Entry


@dataclass(frozen=True, slots=True)
class Changes:
    """What one batch has changed, in order, and how far the view is after it."""

    entries: Sequence[Entry]  # an erasure's has the tenant, where it is known
    positions: Mapping[int, int]  # by partition of the verdicts topic: the next offset


class Feed:
    """Changes as they are folded in, for one watch. Holds so many entries; then it is lost."""

    def __init__(self, most: int, positions: Mapping[int, int]) -> None:
        self.positions = positions  # where it begins
        self.lost = False  # the reader is too slow: changes are missing
        self.ended = False  # there will be no more
        self._most = most
        self._held: deque[Changes] = deque()
        self._count = 0
        self._news = asyncio.Event()

    def put(self, changes: Changes) -> None:
        """Never waits: the view goes on, whatever its readers do."""
        self._count += len(changes.entries) + 1
        if self._count > self._most:
            self.lost = True
            self._held.clear()
        elif not self.lost:
            self._held.append(changes)
        self._news.set()

    def end(self) -> None:
        """No more."""
        self.ended = True
        self._news.set()

    async def get(self) -> Changes:
        """The next ones; none when it is lost or has ended."""
        while not (self._held or self.lost or self.ended):
            self._news.clear()
            await self._news.wait()
        if self.lost or self.ended:
            return Changes((), {})
        changes = self._held.popleft()
        self._count -= len(changes.entries) + 1
        return changes


@dataclass(eq=False, slots=True)
class Waiter:
    """Who waits for news of one post."""

    post_id: str
    posts: Mapping[int, int]  # or for these positions of the posts topic
    woken: asyncio.Event = field(default_factory=asyncio.Event)
