"""The materialised view of the verdicts topic: what the newest record about each post says, for lookups.

The topic is the source of truth. The store (stores/) can always be rebuilt from the topic. The view folds records in,
batch by batch, and then passes the changes on to calls that wait for a post and to watches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import clients
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.kafka.topics import Topics
from moderation.lifecycle import first_result
from moderation.observability import metrics
from moderation.settings import Settings
from moderation.view import stores
from moderation.view.entries import entry_of
from moderation.view.feeds import Changes, Feed, Waiter
from moderation.view.freshness import Freshness, Stall
from moderation.view.recent import Encode, Recent
from moderation.view.stores import Entry, Kind, Log, LookupRow, Progress, Store, StoreBehindError, StoreUnavailableError
from moderation.view.topic_lag import ViewLag

BATCH = 500  # records in one transaction
BATCH_BYTES = 32 << 20  # of these records; a larger record goes alone
STORE_RETRY_S = 1.0  # before a store that could not be written is tried again
RENEW_S = 10.0  # between two notes in the store that the view is up to date
PRUNE_S = 10.0  # between two searches for what is too old
WARM_BYTES = 4_000  # of memory for each verdict that is read at the start

log = structlog.get_logger()


class View:
    """Answers lookups while `follow` runs, from `caught_up` on. Made by `open_view`."""

    def __init__(self, settings: Settings, store: Store, consumer: Consumer, topics: Topics, encode: Encode) -> None:
        self.caught_up = asyncio.Event()  # set once all that was on the topic at the start is folded in
        self.store = store
        self.lag = ViewLag()
        self.decided: dict[int, int] = {}  # by partition of the posts topic: highest offset whose outcome is known
        self._settings = settings
        self._consumer = consumer
        self._topic = settings.kafka.verdicts_topic
        self._cluster_id = topics.cluster_id
        self._partitions = frozenset(range(topics.partitions))
        self._progress: dict[int, Progress] = {}
        self._recent = Recent(settings.api.recent_bytes, encode)
        self._listeners: list[Callable[[Mapping[int, int]], None]] = []
        self._prune_at = 0.0
        self._renew_at = 0.0
        self._freshness = Freshness(consumer)
        self._ends: dict[int, int] = {}  # by partition: where the topic ended when the store was opened
        self._stall = Stall()
        self._waiters: set[Waiter] = set()
        self._feeds: set[Feed] = set()

    @property
    def positions(self) -> dict[int, int]:
        """By partition of the verdicts topic: the next offset."""
        return {number: at.next for number, at in self._progress.items()}

    async def find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        """Returns what is known, by post id. Posts of which nothing is known are left out."""
        rows = {post_id: row for post_id in post_ids if (row := self._recent.find(post_id)) is not None}
        if len(rows) < len(post_ids) and (missing := [post_id for post_id in post_ids if post_id not in rows]):
            rows |= await self.store.find(missing)
        return rows

    def results(self, post_ids: Sequence[str], tenant: str | None) -> list[bytes | None]:
        """Returns each post's result in the response to a batch. None: the verdict is not in memory."""
        return self._recent.results(post_ids, tenant)

    def reached(self, posts: Mapping[int, int]) -> bool:
        """Whether the outcomes of the posts topic's records up to these offsets are folded in."""
        return all(self.decided.get(number, -1) >= offset for number, offset in posts.items())

    def on_decided(self, listener: Callable[[Mapping[int, int]], None]) -> None:
        """Calls `listener` after every fold with `decided`."""
        self._listeners.append(listener)

    @contextmanager
    def waiting(self, post_id: str, posts: Mapping[int, int]) -> Iterator[asyncio.Event]:
        """Yields an event that is set at each change of the post, and when the positions are reached."""
        waiter = Waiter(post_id, posts)
        self._waiters.add(waiter)
        try:
            yield waiter.woken
        finally:
            self._waiters.discard(waiter)

    @contextmanager
    def feed(self, max_entries: int) -> Iterator[Feed]:
        """Yields a feed of what is folded in from now on."""
        feed = Feed(max_entries, self.positions)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

    def end_feeds(self) -> None:
        """Ends all feeds."""
        for feed in self._feeds:
            feed.end()

    async def replay(self, start: Mapping[int, int], end: Mapping[int, int]) -> AsyncIterator[Changes]:
        """Yields what the view keeps of the topic between these positions: the newest record of each post."""
        positions = {number: start.get(number, 0) for number in end}
        for number, limit in end.items():
            while positions[number] < limit:
                entries = await self.store.since(number, positions[number], limit, BATCH)
                positions[number] = entries[-1].offset + 1 if len(entries) == BATCH else limit
                yield Changes(entries, dict(positions))

    async def follow(self) -> None:
        """Folds the topic in until cancelled. Raises DeliveryError when the topic cannot be read any more."""
        try:
            await first_result(self._follow(), self.lag.follow(self._ask_ends, self.caught_up))
        except UnreadableError as error:
            raise DeliveryError(str(error)) from error
        except KafkaError as error:
            raise DeliveryError(f"cannot read topic {self._topic}: {type(error).__name__}") from error

    async def _ask_ends(self) -> dict[int, int]:
        """Where the partitions end, as the brokers report now."""
        ends = await self._consumer.end_offsets([self._partition(number) for number in self._partitions])
        return {partition.partition: end for partition, end in ends.items()}

    async def _follow(self) -> None:
        started = time.monotonic()
        await self._open()
        self._assign()
        while True:
            await self._take_new_partitions()
            batches = await self._consumer.poll(max_records=BATCH, max_bytes=BATCH_BYTES, timeout_s=0.2)
            if self.caught_up.is_set():
                self._freshness.check(batches)
            try:
                await self._fold(batches)
            except StoreBehindError as error:
                self._rewind(error.progress)
                continue
            self._freshness.folded(batches)
            await self._renew()
            if not self.caught_up.is_set() and await self._is_complete():
                await self._check_posts()
                self.caught_up.set()
                log.info("view_caught_up", topic=self._topic, seconds=round(time.monotonic() - started, 3))
            if time.monotonic() >= self._prune_at:
                await self._prune()

    async def _open(self) -> None:
        """Opens the store. Tries again while the store is unavailable. Raises ConfigError after view_start_s."""
        deadline = time.monotonic() + self._settings.api.view_start_s
        while True:
            try:
                self._take(await self._stall.watch("open", self.store.open(self._ask)))
                await self._warm_up()
            except StoreUnavailableError as error:
                if time.monotonic() >= deadline:
                    raise ConfigError(
                        f"the view could not be opened in time, see MODERATION_API__VIEW*: {error}"
                    ) from None
                self._stall.begin("open", error)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                self._stall.end("open")
                return

    async def _ask(self) -> Log:
        """What the topic is now."""
        partitions = [self._partition(number) for number in self._partitions]
        begins, ends = await self._consumer.beginning_offsets(partitions), await self._consumer.end_offsets(partitions)
        self._ends = {partition.partition: end for partition, end in ends.items()}
        begin = {partition.partition: offset for partition, offset in begins.items()}
        return Log(self._cluster_id, self._topic, begin, dict(self._ends))

    async def _is_complete(self) -> bool:
        """Whether all that was on the topic at the start is folded in, and the store may serve lookups."""
        positions = self.positions
        if any(positions[number] < end for number, end in self._ends.items()):
            return False
        try:
            stored = await self._stall.watch("serve", self.store.serve())
        except StoreUnavailableError as error:
            self._stall.begin("serve", error)
            return False
        self._stall.end("serve")
        if stored is None:
            return False
        level = {number: at for number, at in stored.items() if at.next == positions.get(number)}
        self._take(self._progress | level)
        return True

    async def _renew(self) -> None:
        """Notes in the store that the view is up to date: regularly, with verdicts or without."""
        if time.monotonic() < self._renew_at:
            return
        age_s = self._freshness.age_s({self._partition(number): at for number, at in self.positions.items()})
        if age_s is None:
            return
        self._renew_at = time.monotonic() + RENEW_S
        try:
            await self._stall.watch("follow", self.store.followed(age_s))
        except StoreUnavailableError as error:
            self._stall.begin("follow", error)
            self._renew_at = time.monotonic() + STORE_RETRY_S
        else:
            self._stall.end("follow")

    def _rewind(self, stored: Mapping[int, Progress]) -> None:
        """Reads again what the store has lost. What lookups and watches know stays."""
        back = {number: at._replace(next=min(at.next, stored[number].next)) for number, at in self._progress.items()}
        records = sum(at.next - back[number].next for number, at in self._progress.items())
        log.warning("view_rewound", topic=self._topic, records=records)
        self._freshness.rewound()
        self._take(back)
        self._assign()

    async def _check_posts(self) -> None:
        """Forgets what was decided of a posts topic that was deleted and created again: its offsets begin at 0."""
        topic = self._settings.kafka.posts_topic
        if topic not in await self._consumer.topics():
            return  # a role that submits posts has checked that the topic is there
        posts = [TopicPartition(topic, number) for number in self._partitions]
        for partition, end in (await self._consumer.end_offsets(posts)).items():
            at = self._progress[partition.partition]
            if at.decided >= end:
                log.warning("posts_topic_recreated", partition=partition.partition, decided=at.decided, end=end)
                self._take(self._progress | {partition.partition: at._replace(decided=-1)})

    async def _warm_up(self) -> None:
        """Fills `recent` with the last records of each partition."""
        for number, at in self._progress.items():
            start = max(0, at.next - self._settings.api.recent_bytes // WARM_BYTES // len(self._progress))
            async for changes in self.replay({number: start}, {number: at.next}):
                self._recent.put(changes.entries)

    async def _fold(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Folds batches in. Empty batches may move a position, too: past transaction markers."""
        records = [record for batch in batches.values() for record in batch]
        topic = self._settings.kafka.posts_topic
        entries = [entry for record in records if (entry := entry_of(record, topic))]
        self.lag.read({each.partition: batch[0].timestamp for each, batch in batches.items() if batch})
        before, after = dict(self._progress), {}
        decided = {number: at.decided for number, at in before.items()}
        for entry in entries:
            if entry.source_partition in decided:
                decided[entry.source_partition] = max(decided[entry.source_partition], entry.source_offset)
        for number, at in before.items():
            reached = Progress(await self._consumer.position(self._partition(number)), decided[number])
            if reached.next < at.next:
                raise DeliveryError(f"topic {self._topic} was created again, or was cut short: restart the API")
            if reached != at:
                after[number] = reached
        if after:
            tenants = await self._written(entries, before, after)
            self._take(before | after)
            self._publish(entries, tenants)
        metrics.FOLDED.inc(len(records))
        self.lag.folded({each.partition: batch[-1].timestamp for each, batch in batches.items() if batch})

    async def _written(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        """Tries until the store has written: only a restart would read these records again."""
        while True:
            try:
                tenants = await self._stall.watch("fold", self.store.fold(entries, before, after))
            except StoreUnavailableError as error:
                self._stall.begin("fold", error)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                self._stall.end("fold")
                return tenants

    def _take(self, progress: Mapping[int, Progress]) -> None:
        self._progress = dict(progress)
        self.decided = {number: at.decided for number, at in progress.items()}
        self.lag.moved(self.positions)
        for listener in self._listeners:
            listener(self.decided)

    def _publish(self, entries: Sequence[Entry], tenants: Mapping[str, str]) -> None:
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
        """Assigns all partitions, each from the store's position."""
        self._consumer.assign([self._partition(number) for number in self._progress])
        for number, at in self._progress.items():
            self._consumer.seek(self._partition(number), at.next)

    async def _take_new_partitions(self) -> None:
        """Follows partitions that an operator has added. The client's metadata has them within five minutes."""
        known = frozenset(self._consumer.partitions_for_topic(self._topic) or ())
        if not known > self._partitions:
            return
        log.info("partitions_added", topic=self._topic, partitions=len(known))
        added = dict.fromkeys(known - self._partitions, 0)
        try:
            await self._stall.watch("add", self.store.add(added))
        except StoreUnavailableError as error:
            self._stall.begin("add", error)
            return  # tried again before the next records
        self._stall.end("add")
        self._partitions = known
        self._take(self._progress | {number: Progress(begin, -1) for number, begin in added.items()})
        self._assign()

    async def _prune(self) -> None:
        """Deletes some of what is too old. Folds go on between two calls."""
        settings, now = self._settings.api, int(time.time() * 1000)
        before = now - int(settings.retention_days * 86_400_000) if settings.retention_days else -stores.EVER_MS
        try:
            erased_before = now - stores.ERASED_KEPT_S * 1000
            pruned = await self._stall.watch("prune", self.store.prune(before, erased_before, BATCH))
            size = await self._stall.watch("prune", self.store.size())
        except StoreUnavailableError as error:
            self._stall.begin("prune", error)
            pruned = 0
        else:
            self._stall.end("prune")
            metrics.VIEW_BYTES.set(size)
            metrics.PRUNED.inc(pruned)
            self._recent.forget(before)
        self._prune_at = time.monotonic() + (0 if pruned else PRUNE_S)


@asynccontextmanager
async def open_view(settings: Settings, topics: Topics, encode: Encode) -> AsyncIterator[View]:
    """Yields a view that has connected and does not follow yet. `encode` makes the results that the view keeps."""
    async with AsyncExitStack() as stack:
        consumer = clients.consumer(settings.kafka)
        stack.push_async_callback(clients.stop, consumer)
        await clients.connected(consumer.start, settings.kafka)
        store = stores.open_store(settings.api)
        stack.push_async_callback(store.close)
        yield View(settings, store, consumer, topics, encode)
