"""One input partition for as long as it is assigned to us: the offsets handed to us, in order, and their outcomes.

Offsets are those that were delivered, never computed: compaction and transaction markers leave gaps.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count, islice, takewhile
from typing import Generic, NamedTuple, TypeVar

from moderation.errors import DeliveryError
from moderation.inference.verdict_cache import VerdictCache
from moderation.observability import metrics, traces
from moderation.observability.phases import InHand, Phase
from moderation.types import Arrival, Verdict
from moderation.worker.publisher import Message, Publisher
from moderation.worker.suspects import Mark, Suspects

MOST = 500  # posts answered in one transaction
_NUMBERS = count()  # of all posts that were taken, in their order

T = TypeVar("T")


class Answer(NamedTuple):
    """What is to be published for a post."""

    messages: Sequence[Message]
    verdict: Verdict | None  # None: it is an erasure
    at: float  # when it was ready, by time.perf_counter
    span: traces.Span | None = None  # of the post, open until it is committed


class Offsets(Generic[T]):
    """What one partition has handed us and what has come of it. Knows no Kafka."""

    def __init__(self, position: int) -> None:
        """`position`: the first offset that is not answered yet."""
        self._next = position
        self._results: dict[int, T | None] = {}  # by offset, in their order: delivered, and not yet committed

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, offset: object) -> bool:
        return offset in self._results

    @property
    def reached(self) -> int:
        """The first offset that may be delivered."""
        return self._next

    def deliver(self, offset: int) -> None:
        """Takes an offset on. Raises DeliveryError if it, or a later one, was taken on before."""
        if offset < self._next:
            raise DeliveryError(
                f"offset {offset} came where {self._next} or later was expected: the log was truncated or its topic "
                "made anew; the group's offsets must be reset to what the topic holds"
            )
        self._next = offset + 1
        self._results[offset] = None

    def settle(self, offset: int, result: T) -> None:
        """Its outcome. That of an offset given up is dropped: another worker answers it."""
        if offset in self._results:
            self._results[offset] = result

    def prefix(self, most: int) -> list[tuple[int, T]]:
        """Offsets with their results, from the first one up to the first that has none, `most` at the most."""
        done = takewhile(lambda entry: entry[1] is not None, self._results.items())
        return [(offset, result) for offset, result in islice(done, most) if result is not None]

    def commit(self, prefix: Sequence[tuple[int, T]]) -> None:
        """This prefix is answered for good."""
        for offset, _ in prefix:
            del self._results[offset]

    def give_up(self) -> int:
        """Leaves what stands behind an offset without a result to the next owner. Returns how many have none."""
        unsettled = sum(result is None for result in self._results.values())
        whole = self.prefix(len(self._results))
        self._results = dict(whole)
        return unsettled


class AssignedPartition:
    """A partition's way from delivery to commit: fence, find the position, recall, then commit prefix by prefix."""

    def __init__(self, publisher: Publisher, cache: VerdictCache, moved: asyncio.Event, most: int) -> None:
        """`moved` is set whenever there may be room for more posts; `most`: posts under way here at most."""
        self.cache = cache  # what was decided for the posts of this partition
        self.suspects = Suspects(Mark(), most)
        self.in_order = asyncio.Lock()  # held by the post that is attempted alone
        self._most = most
        self._noting: asyncio.Future[None] | None = None  # posts wait for the mark to be committed
        self._crashed = False
        self._given_up = 0  # posts
        self._publisher = publisher
        self._moved = moved
        self._offsets: Offsets[Answer] | None = None
        self._in_hand: dict[int, InHand] = {}  # by offset, in their order: delivered, and not yet committed
        self._posts: set[asyncio.Task[None]] = set()
        self._number = next(_NUMBERS)  # of no other lane
        self._written = -math.inf  # of the post that came last, as in its Arrival
        self._changed = asyncio.Event()
        self._draining = False

    def __len__(self) -> int:
        """Posts under way: delivered and not yet committed."""
        return len(self._offsets) if self._offsets else 0

    @property
    def bytes(self) -> int:
        """Of the records of the posts under way: a dead letter holds its own until it is committed."""
        return sum(post.size for post in self._in_hand.values())

    @property
    def reached(self) -> int:
        """The first offset that was not taken on; only of a lane that was open."""
        return self._offsets.reached if self._offsets else 0

    @property
    def oldest_ms(self) -> int | None:
        """When the first of the posts under way was put on its topic; None: there is none."""
        return next((post.timestamp_ms for post in self._in_hand.values()), None)

    @property
    def oldest(self) -> tuple[int, InHand] | None:
        """The first of the posts under way, by offset, and so the one that was taken first; None: there is none."""
        return next(iter(self._in_hand.items()), None)

    @property
    def phases(self) -> Counter[Phase]:
        """How many of the posts under way are in each phase."""
        return Counter(post.phase for post in self._in_hand.values())

    @property
    def begun(self) -> bool:
        """Whether it was open."""
        return self._offsets is not None

    @property
    def open(self) -> bool:
        """Whether it takes posts."""
        return self._offsets is not None and not self._draining

    async def run(self, recall: Callable[[], Awaitable[None]], begin: Callable[[int], None]) -> None:
        """Its whole life; ends when it is drained. `begin` is called once, when posts may come, with the position.

        `recall` fills the memory with what was decided: after the fence, as only then the verdicts end where they end.
        Raises DeliveryError.
        """
        async with self._publisher:
            await recall()
            if self._draining:
                return
            self._offsets = Offsets(self._publisher.position)
            self.suspects = Suspects(self._publisher.found, self._most)
            begin(self._publisher.position)
            self._moved.set()
            while (prefix := await self._prefix(self._offsets)) is not None:
                await self._commit(self._offsets, prefix)
            if (mark := self._last_mark(self._offsets)) is not None:
                await self._publisher.publish([], self._publisher.position, mark)

    def take(self, offset: int, size: int, timestamp_ms: int) -> bool:
        """Whether this post is under way now: only while open. Raises DeliveryError for one out of order."""
        if self._offsets is None or self._draining:
            return False
        self._offsets.deliver(offset)
        self.suspects.deliver(offset)
        self._in_hand[offset] = InHand(size, timestamp_ms, time.monotonic())
        return True

    def in_hand(self, offset: int) -> InHand | None:
        """The post at this offset; None: it is not under way here."""
        return self._in_hand.get(offset)

    def arrival(self, stamp_ms: int, polled: float, wall: float) -> Arrival:
        """Of a post that was taken. `polled` and `wall`: when its poll ended, by time.perf_counter and time.time."""
        age = max(0.0, wall - stamp_ms / 1000) if stamp_ms > 0 else 0.0
        self._written = max(self._written, polled - age)  # answered before the post in front, it could not be committed
        return Arrival(polled, self._written, next(_NUMBERS), self._number)

    def own(self, post: asyncio.Task[None]) -> None:
        """The task of a post that was taken: it ends when the lane is cut."""
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    def settle(self, offset: int, answer: Answer) -> None:
        """What is to be published for a post."""
        if self._offsets is not None:
            self._offsets.settle(offset, answer)
            if (post := self._in_hand.get(offset)) is not None:
                post.phase = Phase.COMMIT
            self._changed.set()

    async def count(self) -> None:
        """Returns once the committed offset says that this opening has posts in hand, or there was progress."""
        if self._offsets is not None and not self.suspects.counted:
            self.suspects.count()
            await self._note()

    async def attempt(self, offset: int) -> int:
        """Returns the number of this attempt of a suspect, from 1, once it is committed that it begins."""
        number = self.suspects.attempt(offset)
        await self._note()
        return number

    async def passed(self, offset: int) -> None:
        """The attempt has not ended the process."""
        if self.suspects.passed(offset):
            await self._note()

    def drain(self) -> None:
        """Takes no further posts; `run` ends when those under way are committed."""
        self._draining = True
        self._changed.set()

    def end(self, *, crashed: bool) -> None:
        """Is cut because the process ends. crashed: posts under way here may have caused it.

        What is ready is not committed where that takes another producer, which could fence a new owner.
        """
        self._publisher.replaces = False
        self._crashed = crashed
        self.cut()

    def cut(self) -> None:
        """Gives up what is under way; `run` commits what is ready and ends."""
        self.drain()
        if self._offsets is not None:
            self._given_up += self._offsets.give_up()
            self._in_hand = {offset: post for offset, post in self._in_hand.items() if offset in self._offsets}
        for post in self._posts:
            post.cancel()

    async def _note(self) -> None:
        """Returns when `run` has committed the mark as it is now."""
        self._noting = self._noting or asyncio.get_running_loop().create_future()
        self._changed.set()
        await asyncio.wait([self._noting])  # which does not cancel it when one of those who wait is cancelled

    async def _commit(self, offsets: Offsets[Answer], prefix: Sequence[tuple[int, Answer]]) -> None:
        messages = [message for _, answer in prefix for message in answer.messages]
        begun = time.perf_counter()
        answered = prefix[-1][0] if prefix else None
        mark = self.suspects.mark(answered)
        noting, self._noting = self._noting, None
        await self._publisher.publish(messages, self._publisher.position if answered is None else answered + 1, mark)
        self.suspects.written(mark)
        if noting:
            noting.set_result(None)
        if answered is None:
            return
        offsets.commit(prefix)
        for offset, _ in prefix:
            del self._in_hand[offset]
        self.cache.answered(answered)
        self._moved.set()
        _count(prefix, begun)

    def _last_mark(self, offsets: Offsets[Answer]) -> Mark | None:
        if self._crashed:
            return self.suspects.at_crash(self._given_up, offsets.reached)
        return self.suspects.at_drain()

    async def _prefix(self, offsets: Offsets[Answer]) -> list[tuple[int, Answer]] | None:
        """The next posts to commit, or none where only a mark is; None when there will be neither."""
        while True:
            self._changed.clear()
            if (prefix := offsets.prefix(MOST)) or self._noting:
                return prefix
            if self._draining and not offsets:
                return None
            await self._changed.wait()


def _count(prefix: Sequence[tuple[int, Answer]], begun: float) -> None:
    """They are committed."""
    now = time.perf_counter()
    metrics.TRANSACTION.add(now - begun)
    metrics.TRANSACTION_POSTS.add(len(prefix))
    for _, answer in prefix:
        if answer.verdict is None:
            metrics.ERASURES.inc()
        else:
            metrics.count_verdict(answer.verdict, now - answer.at)
        if answer.span is not None:
            traces.committed(answer.span, answer.at, now)
