"""How the view passes changes on: a feed for each watch, a waiter for each call that waits for one post."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from moderation.view.stores import Entry


@dataclass(frozen=True, slots=True)
class Changes:
    """What one batch has changed, in order, and how far the view is after that batch."""

    entries: Sequence[Entry]  # without copies of erasures; the entry of an erasure has the tenant, if that is known
    positions: Mapping[int, int]  # by partition of the verdicts topic: the next offset


class Feed:
    """Changes as they are folded in, for one watch. With more than `max_entries` unread, the feed is lost."""

    def __init__(self, max_entries: int, positions: Mapping[int, int]) -> None:
        self.positions = positions  # where the feed begins
        self.lost = False  # the reader is too slow: changes are missing
        self.ended = False  # no more changes will come
        self.topic_gone = False  # because the verdicts topic was deleted: its positions mean nothing any more
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

    def end(self, *, topic_gone: bool = False) -> None:
        """Ends the feed."""
        self.ended, self.topic_gone = True, topic_gone
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
    posts_id: str = ""  # of that posts topic; empty: of the one that exists now
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Subscribers:
    """The feeds and the waiters of a view."""

    def __init__(self, is_over: Callable[[Waiter], bool]) -> None:
        """`is_over`: whether nothing is to come up to the positions that a waiter waits for."""
        self.waiters: set[Waiter] = set()
        self._feeds: set[Feed] = set()
        self._is_over = is_over

    @contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[asyncio.Event]:
        """Yields the waiter's event."""
        self.waiters.add(waiter)
        try:
            yield waiter.woken
        finally:
            self.waiters.discard(waiter)

    @contextmanager
    def feed(self, feed: Feed) -> Iterator[Feed]:
        """Yields the feed, which gets all changes."""
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

    def put(self, changes: Changes, post_ids: Collection[str]) -> None:
        """Passes changes on. `post_ids`: all posts of which something was folded in."""
        for feed in self._feeds:
            feed.put(changes)
        self.wake(post_ids)

    def wake(self, post_ids: Collection[str] = ()) -> None:
        """Wakes those that wait for these posts, and those for which nothing is to come any more."""
        for waiter in self.waiters:
            if waiter.post_id in post_ids or (waiter.posts and self._is_over(waiter)):
                waiter.woken.set()

    def end_feeds(self, *, topic_gone: bool = False) -> None:
        """Ends all feeds. topic_gone: because the verdicts topic was deleted; waiters are woken, too."""
        for feed in self._feeds:
            feed.end(topic_gone=topic_gone)
        for waiter in self.waiters if topic_gone else ():
            waiter.woken.set()
