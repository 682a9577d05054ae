"""One input partition while it is assigned to this worker, from its fence to its last commit."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

from moderation.inference.verdict_cache import VerdictCache
from moderation.observability import metrics, traces
from moderation.observability.phases import InHand, Phase
from moderation.types import Arrival
from moderation.worker.erasures import Erasures
from moderation.worker.messages import Result
from moderation.worker.offsets import Offsets
from moderation.worker.opening import Opening
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Mark, Suspects

MAX_POSTS = 500  # in one transaction
PASS_S = 1.0  # of rest, before a position behind offsets without records is committed
_NUMBERS = count()  # numbers partitions, and all posts in the order in which they are taken


class AssignedPartition:
    """Fences earlier owners, finds the position, restores the verdict cache, and then commits prefix by prefix."""

    def __init__(
        self, publisher: Publisher, cache: VerdictCache, erasures: Erasures, changed: asyncio.Event, limit: int
    ) -> None:
        """`changed` is set when more posts may be taken. `limit`: highest number of posts in hand here."""
        self.cache = cache  # verdicts of this partition's posts
        self.suspects = Suspects(Mark(), limit)
        self.in_order = asyncio.Lock()  # held by the post that is attempted alone
        self._limit = limit
        self._mark_commit: asyncio.Future[None] | None = None  # while posts wait for a commit of the mark
        self._crashed = False
        self._given_up = 0  # posts
        self._left = 0  # posts that were taken and are left to the next owner
        self._publisher = publisher
        self._erasures = erasures
        self._worker_changed = changed
        self._offsets: Offsets[Result] | None = None
        self._in_hand: dict[int, InHand] = {}  # by offset, in order: delivered and not yet committed
        self._posts: set[asyncio.Task[None]] = set()
        self._number = next(_NUMBERS)  # unique
        self._passed = 0  # no record before this offset is left to take; 0: unknown
        self._written = -math.inf  # Arrival.written of the last post
        self._changed = asyncio.Event()
        self._draining = False

    def __len__(self) -> int:
        """Posts in hand: delivered and not yet committed."""
        return len(self._offsets) if self._offsets else 0

    @property
    def uncommitted(self) -> int:
        """Posts that were taken and have no committed outcome: in hand, or left to the next owner."""
        return len(self) + self._left

    @property
    def committed(self) -> int:
        """The first offset without a committed outcome, once the partition has begun."""
        return self._publisher.position

    @property
    def bytes(self) -> int:
        """Bytes of the records in hand. A dead letter holds its record until it is committed."""
        return sum(post.size for post in self._in_hand.values())

    @property
    def reached(self) -> int:
        """The first offset that was not taken; 0 before the partition is open."""
        return self._offsets.reached if self._offsets else 0

    @property
    def oldest_arrived(self) -> float | None:
        """When the first record in hand arrived on its topic, by time.perf_counter; None if there is none."""
        return next((post.arrived for post in self._in_hand.values()), None)

    @property
    def oldest(self) -> tuple[int, InHand] | None:
        """The post in hand that was taken first, with its offset; None if there is none."""
        return next(iter(self._in_hand.items()), None)

    @property
    def phases(self) -> Counter[Phase]:
        """Counts the posts in hand by phase."""
        return Counter(post.phase for post in self._in_hand.values())

    @property
    def topic_id(self) -> str:
        """Id of the topic that the records here come from; empty: unknown."""
        return self._publisher.log.topic_id

    @property
    def begun(self) -> bool:
        """Whether the partition was ever open."""
        return self._offsets is not None

    @property
    def open(self) -> bool:
        """Whether the partition takes posts."""
        return self._offsets is not None and not self._draining

    async def run(self, restore: Callable[[], Awaitable[None]], begin: Callable[[Opening], None]) -> None:
        """Runs the partition until it is drained. Calls `begin` once, with what was found, when posts may come.

        `restore` fills the verdict cache. It is called after the fence: from then on no earlier owner adds verdicts.

        Raises DeliveryError.
        """
        async with self._publisher:
            await restore()
            if self._draining:
                return
            self._offsets = Offsets(self._publisher.position)
            self.suspects = Suspects(self._publisher.opening.mark, self._limit)
            self._erasures.begin()
            begin(self._publisher.opening)
            self._worker_changed.set()
            if self._publisher.opening.noteworthy:
                await self._commit(self._offsets, [])
            while (prefix := await self._prefix(self._offsets)) is not None:
                await self._commit(self._offsets, prefix)
            if (mark := self._last_mark(self._offsets)) is not None:
                await self._publisher.publish([], self._position(self._offsets, []), mark)

    def take(self, offset: int, size: int, arrived: float) -> bool:
        """Takes a post if the partition is open. Returns whether it was taken. Raises DeliveryError if out of order.

        `arrived`: on its topic, by time.perf_counter.
        """
        if self._offsets is None or self._draining:
            return False
        self._offsets.deliver(offset)
        self.suspects.deliver(offset)
        self._in_hand[offset] = InHand(size, arrived, time.monotonic())
        return True

    def reach(self, position: int, epoch: int) -> None:
        """Records that all records before this position were taken. epoch: of the leader that wrote the last batch.

        Between the last record and the position are markers of transactions, records of aborted ones, or gaps that
        compaction has left.
        """
        if not self._draining and self._offsets is not None and position > self._passed:
            self._passed = position
            self._publisher.log = self._publisher.log._replace(epoch=max(epoch, self._publisher.log.epoch))
            if not self._offsets:
                self._changed.set()

    def in_hand(self, offset: int) -> InHand | None:
        """The post at this offset; None if it is not in hand here."""
        return self._in_hand.get(offset)

    def arrival(self, arrived: float, polled: float) -> Arrival:
        """Returns the arrival of a post that was taken. Both times are of time.perf_counter."""
        self._written = max(self._written, arrived)  # a post cannot be committed before the post in front of it
        return Arrival(polled, arrived, self._written, next(_NUMBERS), self._number)

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
        self._passed = 0  # what is given up now is left to take
        if self._offsets is not None:
            held = len(self._offsets)
            self._given_up += self._offsets.give_up()
            self._left += held - len(self._offsets)
            self._in_hand = {offset: post for offset, post in self._in_hand.items() if offset in self._offsets}
        for post in self._posts:
            post.cancel()

    async def _commit_mark(self) -> None:
        """Returns when `run` has committed the mark as it is now."""
        self._mark_commit = self._mark_commit or asyncio.get_running_loop().create_future()
        self._changed.set()
        await asyncio.wait([self._mark_commit])  # unlike await, this does not cancel the future with this task

    async def _commit(self, offsets: Offsets[Result], prefix: Sequence[tuple[int, Result]]) -> None:
        messages = await self._erasures.messages([result for _, result in prefix])
        begun = time.perf_counter()
        last = prefix[-1][0] if prefix else None
        mark = self.suspects.mark(last)
        mark_commit, self._mark_commit = self._mark_commit, None
        await self._publisher.publish(messages, self._position(offsets, prefix), mark)
        self.suspects.written(mark)
        if mark_commit:
            mark_commit.set_result(None)
        if last is None:
            return
        now = time.perf_counter()
        offsets.commit(prefix)
        for offset, result in prefix:
            post = self._in_hand.pop(offset)
            if result.erasure is None:
                metrics.POST.add(now - post.arrived)
        self.cache.committed(last)
        self._worker_changed.set()
        _count(prefix, begun, now)

    def _position(self, offsets: Offsets[Result], prefix: Sequence[tuple[int, Result]]) -> int:
        """Returns the first offset that has no outcome once this prefix, of what is in hand, is committed."""
        position = prefix[-1][0] + 1 if prefix else self._publisher.position
        return max(position, self._passed) if len(offsets) == len(prefix) else position

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
            passes = not offsets and self._passed > self._publisher.position
            try:
                async with asyncio.timeout(PASS_S if passes else None):
                    await self._changed.wait()
            except TimeoutError:
                if not offsets and not self._draining:
                    return []


def _count(prefix: Sequence[tuple[int, Result]], begun: float, now: float) -> None:
    """Counts posts that are committed `now`."""
    metrics.TRANSACTION.add(now - begun)
    metrics.TRANSACTION_POSTS.add(len(prefix))
    for _, result in prefix:
        if result.erasure is not None:
            metrics.ERASURES.inc(0 if result.erasure.copied else 1)
        elif result.verdict is not None:
            metrics.count_verdict(result.verdict, now - result.ready)
        if result.span is not None:
            traces.committed(result.span, result.ready, now)
