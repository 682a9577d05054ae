"""How the view passes changes on: a feed for each watch, a waiter for each call that waits for one post."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moderation.view.stores import Entry


@dataclass(frozen=True, slots=True)
class Changes:
    """What one batch has changed, in order, and how far the view is after that batch."""

    entries: Sequence[Entry]  # the entry of an erasure has the tenant, if that is known
    positions: Mapping[int, int]  # by partition of the verdicts topic: the next offset


class Feed:
    """Changes as they are folded in, for one watch. With more than `max_entries` unread, the feed is lost."""

    def __init__(self, max_entries: int, positions: Mapping[int, int]) -> None:
        self.positions = positions  # where the feed begins
        self.lost = False  # the reader is too slow: changes are missing
        self.ended = False  # no more changes will come
        self._max_entries = max_entries
        self._held: deque[Changes] = deque()
        self._count = 0
        self._changed = asyncio.Event()

    def put(self, changes: Changes) -> None:
        """Adds changes. Never waits: a slow reader does not delay the view."""
        self._count += len(changes.entries) + 1
        if self._count > self._max_entries:
            self.lost = True
            self._held.clear()
        elif not self.lost:
            self._held.append(changes)
        self._changed.set()

    def end(self) -> None:
        """Ends the feed."""
        self.ended = True
        self._changed.set()

    async def get(self) -> Changes:
        """Returns the next changes; empty ones when the feed is lost or has ended."""
        while not (self._held or self.lost or self.ended):
            self._changed.clear()
            await self._changed.wait()
        if self.lost or self.ended:
            return Changes((), {})
        changes = self._held.popleft()
        self._count -= len(changes.entries) + 1
        return changes


@dataclass(eq=False, slots=True)
class Waiter:
    """A call that waits for a change of one post."""

    post_id: str
    posts: Mapping[int, int]  # the call also waits for these positions of the posts topic
    woken: asyncio.Event = field(default_factory=asyncio.Event)
