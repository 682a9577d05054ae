"""The materialised view of the verdicts topic: what the newest record about each post says, for lookups.

The topic is the truth, the store (stores/) can always be rebuilt from it. What is read is folded in batch by batch, and
then told to those who wait for a post and to those who watch.

A record that is no verdict (something else writes to the topic, or a newer version does) does not stop the view: one
foreign record would stop every API at once. It is logged, and its post is answered UNREADABLE instead of with an
older verdict.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation import kafka, metrics, stores, wire
from moderation.consumer import Consumer, UnreadableError
from moderation.errors import DeliveryError
from moderation.recent import Recent
from moderation.records import Record
from moderation.settings import Settings
from moderation.stores import (
    ERASED_KEPT_S,
    LARGEST_VERDICT,
    Entry,
    Kind,
    Log,
    Progress,
    Row,
    Store,
    StoreUnavailableError,
)
from moderation.v1.verdict_pb2 import Verdict
from moderation.view_lag import Stall, ViewLag

BATCH = 500  # records in one transaction
BATCH_BYTES = 32 << 20  # of them; a larger record goes alone
RETRY_S = 1.0  # before a store that could not be written is tried again
PRUNE_S = 10.0  # between two looks at what has to be forgotten
WARM_BYTES = 4_000  # of memory for each verdict that is remembered at the start
EVER_MS = 1 << 62

log = structlog.get_logger()


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


class View:
    """Answers lookups while `follow` runs, from `caught_up` on. Made by `open_view`."""

    def __init__(self, settings: Settings, store: Store, consumer: Consumer, topics: kafka.Topics) -> None:
        self.caught_up = asyncio.Event()  # set once all that was on the topic at the start is folded in
        self.store = store
        self.lag = ViewLag()
        self.judged: dict[int, int] = {}  # by partition of the posts topic: highest offset whose outcome is known
        self._settings = settings
        self._consumer = consumer
        self._topic = settings.kafka.verdicts_topic
        self._cluster_id = topics.cluster_id
        self._partitions = frozenset(range(topics.partitions))
        self._progress: dict[int, Progress] = {}
        self._recent = Recent(settings.api.memory_bytes)
        self._listeners: list[Callable[[Mapping[int, int]], None]] = []
        self._prune_at = 0.0
        self._stall = Stall()
        self._waiters: set[Waiter] = set()
        self._feeds: set[Feed] = set()

    @property
    def positions(self) -> dict[int, int]:
        """By partition of the verdicts topic: the next offset."""
        return {number: at.next for number, at in self._progress.items()}

    async def find(self, post_ids: Sequence[str]) -> dict[str, Row]:
        """What is known of each post; those of which nothing is are left out."""
        found = {post_id: row for post_id in post_ids if (row := self._recent.find(post_id)) is not None}
        if len(found) < len(post_ids) and (missing := [post_id for post_id in post_ids if post_id not in found]):
            found |= await self.store.find(missing)
        return found

    def answers(self, post_ids: Sequence[str], tenant: str | None) -> list[bytes | None]:
        """For each post its part of the answer to a batch, where its verdict is in memory."""
        return self._recent.answers(post_ids, tenant)

    def reached(self, posts: Mapping[int, int]) -> bool:
        """Whether the outcomes of the posts topic's records up to these are folded in."""
        return all(self.judged.get(number, -1) >= offset for number, offset in posts.items())

    def tell_judged(self, listener: Callable[[Mapping[int, int]], None]) -> None:
        """Calls it with what is judged from now on, after every fold."""
        self._listeners.append(listener)

    @contextmanager
    def waiting(self, post_id: str, posts: Mapping[int, int]) -> Iterator[asyncio.Event]:
        """The event is set whenever there is news of the post, or the positions are reached."""
        waiter = Waiter(post_id, posts)
        self._waiters.add(waiter)
        try:
            yield waiter.woken
        finally:
            self._waiters.discard(waiter)

    @contextmanager
    def feed(self, most: int) -> Iterator[Feed]:
        """What is folded in from now on."""
        feed = Feed(most, self.positions)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

    def end_feeds(self) -> None:
        """Whoever watches is to go."""
        for feed in self._feeds:
            feed.end()

    async def replay(self, start: Mapping[int, int], end: Mapping[int, int]) -> AsyncIterator[Changes]:
        """What the view keeps of the topic between these positions: the newest of each post."""
        at = {number: start.get(number, 0) for number in end}
        for number, limit in end.items():
            while at[number] < limit:
                entries = await self.store.since(number, at[number], limit, BATCH)
                at[number] = entries[-1].offset + 1 if len(entries) == BATCH else limit
                yield Changes(entries, dict(at))

    async def follow(self) -> None:
        """Folds the topic in until cancelled. Raises DeliveryError when it cannot be read any more."""
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self.lag.follow(self._ends, self.caught_up))]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        except UnreadableError as error:
            raise DeliveryError(str(error)) from error
        except KafkaError as error:
            raise DeliveryError(f"cannot read topic {self._topic}: {type(error).__name__}") from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _ends(self) -> dict[int, int]:
        """Where the partitions end, as the brokers say now."""
        found = await self._consumer.end_offsets([self._partition(number) for number in self._partitions])
        return {partition.partition: end for partition, end in found.items()}

    async def _follow(self) -> None:
        started = time.monotonic()
        partitions = [self._partition(number) for number in self._partitions]
        begins, ends = await self._consumer.beginning_offsets(partitions), await self._consumer.end_offsets(partitions)
        behind = {partition.partition: end for partition, end in ends.items()}
        whole = Log(
            self._cluster_id, self._topic, {one.partition: offset for one, offset in begins.items()}, dict(behind)
        )
        self._take(await self.store.open(whole))
        await self._remember()
        self._assign()
        while True:
            await self._take_new_partitions()
            batches = await self._consumer.poll(most=BATCH, room=BATCH_BYTES, timeout_s=0.2)
            await self._fold(batches)
            if not self.caught_up.is_set():
                at = self.positions
                behind = {number: end for number, end in behind.items() if at[number] < end}
                if not behind:
                    await self._check_posts()
                    self.caught_up.set()
                    log.info("view_caught_up", topic=self._topic, seconds=round(time.monotonic() - started, 3))
            if time.monotonic() >= self._prune_at:
                await self._prune()

    async def _check_posts(self) -> None:
        """A posts topic that was made anew begins at 0 again, and what was judged of the old one says nothing of it."""
        topic = self._settings.kafka.posts_topic
        if topic not in await self._consumer.topics():
            return  # whoever puts posts has checked that it is there
        posts = [TopicPartition(topic, number) for number in self._partitions]
        for partition, end in (await self._consumer.end_offsets(posts)).items():
            at = self._progress[partition.partition]
            if at.judged >= end:
                log.warning("posts_topic_is_another", partition=partition.partition, judged=at.judged, end=end)
                self._take(self._progress | {partition.partition: at._replace(judged=-1)})

    async def _remember(self) -> None:
        """What the partitions end with, as after a fold."""
        for number, at in self._progress.items():
            start = max(0, at.next - self._settings.api.memory_bytes // WARM_BYTES // len(self._progress))
            async for changes in self.replay({number: start}, {number: at.next}):
                self._recent.put(changes.entries)

    async def _fold(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Also without records: transaction markers move a position, too."""
        records = [record for batch in batches.values() for record in batch]
        entries = [entry for record in records if (entry := self._entry(record))]
        self.lag.read({each.partition: batch[0].timestamp for each, batch in batches.items() if batch})
        before, after = dict(self._progress), {}
        judged = {number: at.judged for number, at in before.items()}
        for entry in entries:
            if entry.source_partition in judged:
                judged[entry.source_partition] = max(judged[entry.source_partition], entry.source_offset)
        for number, at in before.items():
            there = Progress(await self._consumer.position(self._partition(number)), judged[number])
            if there != at:
                after[number] = there
        if after:
            tenants = await self._written(entries, before, after)
            self._take(before | after)
            self._tell(entries, tenants)
        metrics.FOLDED.inc(len(records))
        self.lag.folded({each.partition: batch[-1].timestamp for each, batch in batches.items() if batch})

    async def _written(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        """Tries until it is: what we have read is not to be had again without a restart."""
        while True:
            try:
                tenants = await self._stall.watch(self.store.fold(entries, before, after))
            except StoreUnavailableError as error:
                self._stall.begin(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._stall.end()
                return tenants

    def _take(self, progress: Mapping[int, Progress]) -> None:
        self._progress = dict(progress)
        self.judged = {number: at.judged for number, at in progress.items()}
        self.lag.moved(self.positions)
        for listener in self._listeners:
            listener(self.judged)

    def _tell(self, entries: Sequence[Entry], tenants: Mapping[str, str]) -> None:
        if tenants:
            entries = [
                entry._replace(tenant=tenants.get(entry.post_id, "")) if entry.kind == Kind.ERASED else entry
                for entry in entries
            ]
        self._recent.put(entries)
        changes = Changes(entries, self.positions)
        for feed in self._feeds:
            feed.put(changes)
        changed = {entry.post_id for entry in entries}
        for waiter in self._waiters:
            if waiter.post_id in changed or (waiter.posts and self.reached(waiter.posts)):
                waiter.woken.set()

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)

    def _assign(self) -> None:
        """All partitions, from where the store is."""
        self._consumer.assign([self._partition(number) for number in self._progress])
        for number, at in self._progress.items():
            self._consumer.seek(self._partition(number), at.next)

    async def _take_new_partitions(self) -> None:
        """An operator may add partitions; the client's metadata tells within five minutes."""
        known = frozenset(self._consumer.partitions_for_topic(self._topic) or ())
        if not known > self._partitions:
            return
        log.info("partitions_added", topic=self._topic, partitions=len(known))
        added = dict.fromkeys(known - self._partitions, 0)
        await self.store.add(added)
        self._partitions = known
        self._take(self._progress | {number: Progress(begin, -1) for number, begin in added.items()})
        self._assign()

    async def _prune(self) -> None:
        """Forgets some of what is too old; then folds go on."""
        settings, now = self._settings.api, int(time.time() * 1000)
        before = now - int(settings.retention_days * 86_400_000) if settings.retention_days else -EVER_MS
        try:
            gone = await self._stall.watch(self.store.prune(before, now - ERASED_KEPT_S * 1000, BATCH))
            size = await self._stall.watch(self.store.size())
        except StoreUnavailableError as error:
            self._stall.begin(error)
            gone = 0
        else:
            self._stall.end()
            metrics.VIEW_BYTES.set(size)
            metrics.PRUNED.inc(gone)
            self._recent.forget(before)
        self._prune_at = time.monotonic() + (0 if gone else PRUNE_S)

    def _entry(self, record: Record) -> Entry | None:
        """None: the record is about no post."""
        position = {"partition": record.partition, "offset": record.offset, "ms": record.timestamp}
        try:
            post_id = (record.key or b"").decode()
        except UnicodeDecodeError:
            post_id = ""
        if wire.id_problem(post_id):
            log.error("verdict_unreadable", topic=record.topic, reason="its key is no post id", **position)
            return None
        kind = Kind.UNREADABLE
        fields: tuple[int, int, str, int, str, int, bytes | None] = (-1, -1, "", 0, "", 0, None)
        if record.value is None:
            kind, fields = Kind.ERASED, (*self._source(wire.erased_source(record.headers)), "", 0, "", 0, None)
        else:
            try:
                found = _verdict(record)
                if found.post_id == post_id:
                    source = (found.source.topic, found.source.partition, found.source.offset)
                    decided = found.decided_at.seconds * 1000 + found.decided_at.nanos // 1_000_000
                    what = (found.tenant, int(found.outcome), found.deciding_policy, decided)
                    kind, fields = Kind.VERDICT, (*self._source(source), *what, found.SerializeToString())
                else:
                    log.error(
                        "verdict_unreadable", topic=record.topic, reason="its key is another post's id", **position
                    )
            except ValueError as error:
                log.error("verdict_unreadable", topic=record.topic, reason=str(error), **position)  # noqa: TRY400
        return Entry(post_id, kind, record.partition, record.offset, record.timestamp, *fields)

    def _source(self, of: tuple[str, int, int] | None) -> tuple[int, int]:
        """Partition and offset on our posts topic."""
        if of is None or of[0] != self._settings.kafka.posts_topic:
            return -1, -1
        return of[1], of[2]


def _verdict(record: Record) -> Verdict:
    """Raises ValueError if it is none, or larger than a view takes."""
    value = record.value or b""
    if len(value) > LARGEST_VERDICT:
        raise ValueError(f"it is larger than {LARGEST_VERDICT} bytes")
    return wire.read_verdict(value, record.headers)


@asynccontextmanager
async def open_view(settings: Settings, topics: kafka.Topics) -> AsyncIterator[View]:
    """A view that has connected and does not follow yet."""
    async with AsyncExitStack() as stack:
        consumer = kafka.consumer(settings.kafka)
        stack.push_async_callback(kafka.stop, consumer)
        await kafka.connected(consumer.start, settings.kafka)
        store = stores.open_store(settings.api)
        stack.push_async_callback(store.close)
        yield View(settings, store, consumer, topics)
