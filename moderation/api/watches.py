"""A watch: what the view holds from a position on, and then what it folds in. Knows no transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from moderation.api import cursors
from moderation.api.auth import Permit
from moderation.api.errors import exhausted, unauthenticated, unavailable
from moderation.api.validation import MAX_RESPONSE_BYTES, WatchQuery
from moderation.observability import metrics
from moderation.settings import ApiSettings
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.feeds import Changes, Feed
from moderation.view.stores import Entry, Kind
from moderation.view.view import View

CHANGE_BYTES = 600  # that a change takes in a message besides its verdict: an id has up to 512 bytes
BEAT_S = 15.0  # a reader gets a message at least so often, with changes or without
READER_RETRY_S = 0.5

Write = Callable[[pb.WatchVerdictsResponse], Awaitable[None]]


class Watch:
    """Writes changes to one reader."""

    def __init__(self, settings: ApiSettings, view: View, query: WatchQuery, permit: Permit, write: Write) -> None:
        """`write`: passes a message to the reader, and returns once the transport has taken it."""
        self._settings = settings
        self._view = view
        self._query = query
        self._permit = permit
        self._write = write
        self._clock = asyncio.get_running_loop().time
        self._expiry = self._clock() + permit.caller.until - time.time()
        self._end = min(self._clock() + settings.watch_s, self._expiry)
        self._positions = dict(query.start or {})  # by partition of the verdicts topic: next offset for the reader
        self._topic_id = ""  # of that topic

    async def run(self) -> None:
        """Runs until it is cancelled, or until a RefusedError says why the watch cannot go on."""
        metrics.WATCHES.inc()
        try:
            await self._begin()
            replaying = self._query.start is not None
            while True:
                with self._view.feed(self._settings.watch_buffer) as feed:
                    if replaying:
                        async for changes in self._view.replay(self._positions, feed.positions):
                            await self._send(changes)
                            self._check_end(feed)
                    if not (replaying and feed.lost):  # else more changes came than the feed holds: replay them
                        await self._send(Changes((), feed.positions), always=True)
                        await self._follow(feed)
        finally:
            metrics.WATCHES.dec()

    async def _begin(self) -> None:
        """Positions in a topic that was deleted mean nothing in the one that exists: the watch begins at its start."""
        if self._query.start is not None and self._query.start_id != self._view.verdicts_id:
            await self._view.lives.refresh()  # without an id, of the topic that exists now; or of one that is new
        if not self._view.caught_up.is_set():
            raise unavailable("NOT_READY", "the view of the verdicts topic is being built again; try again later")
        self._topic_id = self._view.verdicts_id
        if self._query.start_id not in ("", self._topic_id):
            self._positions = {}

    async def _follow(self, feed: Feed) -> None:
        beat = self._clock() + BEAT_S
        while True:
            changes = Changes((), {})
            try:
                async with asyncio.timeout_at(min(beat, self._end)):
                    changes = await feed.get()
            except TimeoutError:
                pass
            self._check_end(feed)
            if feed.lost:
                text = "the reader did not keep up and would miss changes; continue from the last consistency token"
                raise exhausted("SLOW_READER", text, READER_RETRY_S)
            if await self._send(changes, always=self._clock() >= beat):
                beat = self._clock() + BEAT_S

    async def _send(self, changes: Changes, *, always: bool = False) -> bool:
        """Sends what the reader wants of these changes. `always`: also a message without changes. True: it sent."""
        sent = False
        for part in _parts(changes):
            sent = await self._send_part(part) or sent
        return sent or (always and await self._send_part(Changes((), {}), always=True))

    async def _send_part(self, changes: Changes, *, always: bool = False) -> bool:
        """Sends one message."""
        wanted = [change for entry in changes.entries if (change := self._change(entry))]
        for number, position in changes.positions.items():
            # The maximum, because the reader may come from a replica that was further ahead.
            self._positions[number] = max(position, self._positions.get(number, 0))
        if not (wanted or always):
            return False
        token = cursors.of_watch(self._positions, self._topic_id)
        message = pb.WatchVerdictsResponse(changes=wanted, consistency_token=token)
        try:
            async with asyncio.timeout(self._settings.watch_stall_s):
                await self._write(message)
        except TimeoutError:
            text = "the reader did not keep up; continue from the last consistency token"
            raise exhausted("SLOW_READER", text, READER_RETRY_S) from None
        return True

    def _change(self, entry: Entry) -> pb.Change | None:
        """The change for the reader; None: the reader has seen it, or does not want it."""
        query = self._query
        if entry.offset < self._positions.get(entry.partition, 0) or query.tenant not in (None, entry.tenant):
            return None
        if entry.kind == Kind.ERASED:
            return pb.Change(post_id=entry.post_id, erasure=pb.Erasure())
        if entry.verdict is None or (query.outcomes and entry.outcome not in query.outcomes):
            return None
        if query.policies and entry.policy not in query.policies:
            return None
        change = pb.Change(post_id=entry.post_id)
        change.verdict.MergeFromString(entry.verdict)
        return change

    def _check_end(self, feed: Feed) -> None:
        if feed.topic_gone:
            text = "the verdicts topic was deleted and made again; continue from the last consistency token"
            raise unavailable("NOT_READY", text)
        if feed.ended:
            raise unavailable("STOPPING", "this API is stopping; continue from the last consistency token")
        self._permit.check()
        if self._clock() >= self._expiry:
            text = "the bearer token has expired; continue from the last consistency token with a new bearer token"
            raise unauthenticated(text)
        if self._clock() >= self._end:
            text = "the stream has reached its maximum age; continue from the last consistency token"
            raise unavailable("STOPPING", text, 0.0)


def _parts(changes: Changes) -> Iterator[Changes]:
    """The same changes in parts, each small enough for a message. Entries of a partition are in order of offset."""
    begin = size = 0
    for index, entry in enumerate(changes.entries):
        room = len(entry.verdict or b"") + CHANGE_BYTES
        if size and size + room > MAX_RESPONSE_BYTES:
            part = changes.entries[begin:index]
            yield Changes(part, {sent.partition: sent.offset + 1 for sent in part})
            begin, size = index, 0
        size += room
    yield Changes(changes.entries[begin:], changes.positions)
