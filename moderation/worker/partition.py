"""One input partition while it is assigned to this worker, from its fence to its last commit."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import NamedTuple

from moderation.inference.verdict_cache import VerdictCache
from moderation.observability import metrics, traces
from moderation.observability.phases import InHand, Phase
from moderation.types import Arrival, Verdict
from moderation.worker.messages import Message
from moderation.worker.offsets import Offsets
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Mark, Suspects

MAX_POSTS = 500  # in one transaction
_NUMBERS = count()  # numbers partitions, and all posts in the order in which they are taken


class Result(NamedTuple):
    """What is published for a post."""

    messages: Sequence[Message]
    verdict: Verdict | None  # None: the record is an erasure
    ready: float  # when the result was ready, by time.perf_counter
    span: traces.Span | None = None  # of the post; ends at the commit


class AssignedPartition:
    """Fences earlier owners, finds the position, restores the verdict cache, and then commits prefix by prefix."""

    def __init__(self, publisher: Publisher, cache: VerdictCache, changed: asyncio.Event, limit: int) -> None:
        """`changed` is set when more posts may be taken. `limit`: highest number of posts in hand here."""
        self.cache = cache  # verdicts of this partition's posts
        self.suspects = Suspects(Mark(), limit)
        self.in_order = asyncio.Lock()  # held by the post that is attempted alone
        self._limit = limit
        self._mark_commit: asyncio.Future[None] | None = None  # while posts wait for a commit of the mark
        self._crashed = False
        self._given_up = 0  # posts
        self._publisher = publisher
        self._worker_changed = changed
        self._offsets: Offsets[Result] | None = None
        self._in_hand: dict[int, InHand] = {}  # by offset, in order: delivered and not yet committed
        self._posts: set[asyncio.Task[None]] = set()
        self._number = next(_NUMBERS)  # unique
        self._written = -math.inf  # Arrival.written of the last post
        self._changed = asyncio.Event()
        self._draining = False

    def __len__(self) -> int:
        """Posts in hand: delivered and not yet committed."""
        return len(self._offsets) if self._offsets else 0

    @property
    def bytes(self) -> int:
        """Bytes of the records in hand. A dead letter holds its record until it is committed."""
        return sum(post.size for post in self._in_hand.values())

    @property
    def reached(self) -> int:
        """The first offset that was not taken; 0 before the partition is open."""
        return self._offsets.reached if self._offsets else 0

    @property
    def oldest_ms(self) -> int | None:
        """Timestamp of the first record in hand; None if there is none."""
        return next((post.timestamp_ms for post in self._in_hand.values()), None)

    @property
    def oldest(self) -> tuple[int, InHand] | None:
        """The post in hand that was taken first, with its offset; None if there is none."""
        return next(iter(self._in_hand.items()), None)

    @property
    def phases(self) -> Counter[Phase]:
        """Counts the posts in hand by phase."""
        return Counter(post.phase for post in self._in_hand.values())

    @property
    def begun(self) -> bool:
        """Whether the partition was ever open."""
        return self._offsets is not None

    @property
    def open(self) -> bool:
        """Whether the partition takes posts."""
        return self._offsets is not None and not self._draining

    async def run(self, restore: Callable[[], Awaitable[None]], begin: Callable[[int], None]) -> None:
        """Runs the partition until it is drained. Calls `begin` once, with the position, when posts may come.

        `restore` fills the verdict cache. It is called after the fence: from then on no earlier owner adds verdicts.

        Raises DeliveryError.
        """
        async with self._publisher:
            await restore()
            if self._draining:
                return
            self._offsets = Offsets(self._publisher.position)
            self.suspects = Suspects(self._publisher.mark, self._limit)
            begin(self._publisher.position)
            self._worker_changed.set()
            while (prefix := await self._prefix(self._offsets)) is not None:
                await self._commit(self._offsets, prefix)
            if (mark := self._last_mark(self._offsets)) is not None:
                await self._publisher.publish([], self._publisher.position, mark)

    def take(self, offset: int, size: int, timestamp_ms: int) -> bool:
        """Takes a post if the partition is open. Returns whether it was taken. Raises DeliveryError if out of order."""
        if self._offsets is None or self._draining:
            return False
        self._offsets.deliver(offset)
        self.suspects.deliver(offset)
        self._in_hand[offset] = InHand(size, timestamp_ms, time.monotonic())
        return True

    def in_hand(self, offset: int) -> InHand | None:
        """The post at this offset; None if it is not in hand here."""
        return self._in_hand.get(offset)

    def arrival(self, stamp_ms: int, polled: float, wall: float) -> Arrival:
        """Returns the arrival of a post that was taken.

        `polled` and `wall`: when its poll ended, by time.perf_counter and time.time.
        """
        age = max(0.0, wall - stamp_ms / 1000) if stamp_ms > 0 else 0.0
        self._written = max(self._written, polled - age)  # a post cannot be committed before the post in front of it
        return Arrival(polled, self._written, next(_NUMBERS), self._number)

    def own(self, post: asyncio.Task[None]) -> None:
        """Owns the task of a post that was taken: `cut` cancels the task."""
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    def settle(self, offset: int, result: Result) -> None:
        """Sets what is published for a post."""
        if self._offsets is not None:
            self._offsets.settle(offset, result)
            if (post := self._in_hand.get(offset)) is not None:
                post.phase = Phase.COMMIT
            self._changed.set()

    async def count(self) -> None:
        """Returns once the committed offset records that this opening has posts in hand, or after progress."""
        if self._offsets is not None and not self.suspects.counted:
            self.suspects.count()
            await self._commit_mark()

    async def attempt(self, offset: int) -> int:
        """Commits that an attempt of this suspect begins. Returns the number of the attempt, from 1."""
        number = self.suspects.attempt(offset)
        await self._commit_mark()
        return number

    async def passed(self, offset: int) -> None:
        """Records that the attempt has not ended the process."""
        if self.suspects.passed(offset):
            await self._commit_mark()

    def drain(self) -> None:
        """Takes no further posts. `run` ends when the posts in hand are committed."""
        self._draining = True
        self._changed.set()

    def end(self, *, crashed: bool) -> None:
        """Cuts the partition because the process ends. crashed: posts in hand here may have caused the end.

        From now on no new producer is started, because it could fence a new owner.
        """
        self._publisher.replaces = False
        self._crashed = crashed
        self.cut()

    def cut(self) -> None:
        """Gives up posts without a result. `run` commits the results that are ready, and ends."""
        self.drain()
        if self._offsets is not None:
            self._given_up += self._offsets.give_up()
            self._in_hand = {offset: post for offset, post in self._in_hand.items() if offset in self._offsets}
        for post in self._posts:
            post.cancel()

    async def _commit_mark(self) -> None:
        """Returns when `run` has committed the mark as it is now."""
        self._mark_commit = self._mark_commit or asyncio.get_running_loop().create_future()
        self._changed.set()
        await asyncio.wait([self._mark_commit])  # unlike await, this does not cancel the future with this task

    async def _commit(self, offsets: Offsets[Result], prefix: Sequence[tuple[int, Result]]) -> None:
        messages = [message for _, result in prefix for message in result.messages]
        begun = time.perf_counter()
        last = prefix[-1][0] if prefix else None
        mark = self.suspects.mark(last)
        mark_commit, self._mark_commit = self._mark_commit, None
        await self._publisher.publish(messages, self._publisher.position if last is None else last + 1, mark)
        self.suspects.written(mark)
        if mark_commit:
            mark_commit.set_result(None)
        if last is None:
            return
        offsets.commit(prefix)
        for offset, _ in prefix:
            del self._in_hand[offset]
        self.cache.committed(last)
        self._worker_changed.set()
        _count(prefix, begun)

    def _last_mark(self, offsets: Offsets[Result]) -> Mark | None:
        if self._crashed:
            return self.suspects.at_crash(self._given_up, offsets.reached)
        return self.suspects.at_drain()

    async def _prefix(self, offsets: Offsets[Result]) -> list[tuple[int, Result]] | None:
        """Returns the next results to commit; an empty list to commit only a mark; None if nothing is left."""
        while True:
            self._changed.clear()
            if (prefix := offsets.prefix(MAX_POSTS)) or self._mark_commit:
                return prefix
            if self._draining and not offsets:
                return None
            await self._changed.wait()


def _count(prefix: Sequence[tuple[int, Result]], begun: float) -> None:
    """Counts posts that are committed."""
    now = time.perf_counter()
    metrics.TRANSACTION.add(now - begun)
    metrics.TRANSACTION_POSTS.add(len(prefix))
    for _, result in prefix:
        if result.verdict is None:
            metrics.ERASURES.inc()
        else:
            metrics.count_verdict(result.verdict, now - result.ready)
        if result.span is not None:
            traces.committed(result.span, result.ready, now)
