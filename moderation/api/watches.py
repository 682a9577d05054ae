"""One WatchVerdicts stream: what the view keeps from a position on, and then what it folds in."""

from __future__ import annotations

import asyncio
import time

from moderation.api import cursors
from moderation.api.auth import Authenticator, Caller, Context, unauthenticated
from moderation.api.grpc.status import exhausted, unavailable
from moderation.api.validation import Watch
from moderation.observability import metrics
from moderation.settings import ApiSettings
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.feeds import Changes, Feed
from moderation.view.stores import Entry, Kind
from moderation.view.view import View

BEAT_S = 15.0  # a reader hears from us so often, changes or not
RETRY_S = 0.5


class Watching:
    """Writes changes to one reader."""

    def __init__(
        self,
        settings: ApiSettings,
        view: View,
        watch: Watch,
        caller: Caller,
        authenticator: Authenticator,
        context: Context,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._edition = authenticator.edition  # of the keys that the caller's token was checked with
        self._view = view
        self._watch = watch
        self._context = context
        self._clock = asyncio.get_running_loop().time
        self._expiry = self._clock() + caller.until - time.time()
        self._end = min(self._clock() + settings.watch_s, self._expiry)
        self._at = dict(watch.start or {})  # what the reader has seen, by partition

    async def run(self) -> None:
        """Until the reader leaves, or a RefusedError says why it cannot go on."""
        metrics.WATCHES.inc()
        try:
            replaying = self._watch.start is not None
            while True:
                with self._view.feed(self._settings.watch_buffer) as feed:
                    if replaying:
                        async for changes in self._view.replay(self._at, feed.positions):
                            await self._send(changes)
                            self._check_end(feed)
                    if not (replaying and feed.lost):  # else so much came meanwhile that the replay has to go on
                        await self._send(Changes((), feed.positions), always=True)
                        await self._follow(feed)
        finally:
            metrics.WATCHES.dec()

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
                text = "the reader did not keep up and would miss changes; go on from the last token"
                raise exhausted("SLOW_READER", text, RETRY_S)
            if await self._send(changes, always=self._clock() >= beat):
                beat = self._clock() + BEAT_S

    async def _send(self, changes: Changes, *, always: bool = False) -> bool:
        """Whether there was anything to send; `always`: the token alone is something, too."""
        passed = [change for entry in changes.entries if (change := self._change(entry))]
        for number, position in changes.positions.items():
            self._at[number] = max(position, self._at.get(number, 0))  # the reader may come from a faster replica
        if not (passed or always):
            return False
        message = pb.WatchVerdictsResponse(changes=passed, consistency_token=cursors.of_watch(self._at))
        try:
            async with asyncio.timeout(self._settings.watch_stall_s):
                await self._context.write(message)
        except TimeoutError:
            text = "the reader took no message for too long; go on from the last token"
            raise exhausted("SLOW_READER", text, RETRY_S) from None
        return True

    def _change(self, entry: Entry) -> pb.Change | None:
        """What the reader is told of it; None: nothing."""
        watch = self._watch
        if entry.offset < self._at.get(entry.partition, 0) or watch.tenant not in (None, entry.tenant):
            return None
        if entry.kind == Kind.ERASED:
            return pb.Change(post_id=entry.post_id, erasure=pb.Erasure())
        if entry.verdict is None or (watch.outcomes and entry.outcome not in watch.outcomes):
            return None
        if watch.policies and entry.policy not in watch.policies:
            return None
        change = pb.Change(post_id=entry.post_id)
        change.verdict.MergeFromString(entry.verdict)
        return change

    def _check_end(self, feed: Feed) -> None:
        if feed.ended:
            raise unavailable("STOPPING", "the service is stopping; go on from the last token")
        self._edition = self._authenticator.check(self._context, self._edition)
        if self._clock() >= self._expiry:
            raise unauthenticated("the bearer token has expired; go on from the last consistency token with a new one")
        if self._clock() >= self._end:
            raise unavailable("STOPPING", "the stream has lived long enough; go on from the last token", 0.0)
