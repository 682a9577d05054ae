"""The materialised view of the verdicts topic: what the newest record about each post says, for lookups.

The topic is the source of truth. The store (stores/) can always be rebuilt from the topic. The view folds records in,
batch by batch, and then passes the changes on to calls that wait for a post and to watches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import answers, clients, losses, refusals, watermarks
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.kafka.topic_ids import IdsAsker
from moderation.kafka.topics import Topics
from moderation.kafka.watermarks import Ends
from moderation.lifecycle import first_result
from moderation.observability import metrics
from moderation.settings import Settings
from moderation.types import Source
from moderation.view import stores
from moderation.view.entries import read
from moderation.view.feeds import Changes, Feed, Subscribers, Waiter
from moderation.view.freshness import Freshness, Stall
from moderation.view.lives import Lives
from moderation.view.outcomes import Judged, Outcomes, Reach
from moderation.view.recent import Encode, Recent
from moderation.view.stores import Entry, Kind, Log, LookupRow, Progress, Store
from moderation.view.topic_lag import ViewLag
from moderation.view.upkeep import Upkeep

BATCH = 500  # records in one transaction
BATCH_BYTES = 32 << 20  # of these records; a larger record goes alone
STORE_RETRY_S = 1.0  # before a store that could not be written is tried again
WARM_BYTES = 4_000  # of memory for each verdict that is read at the start
IDS_S = 1.0  # between two requests for the ids of the topics

log = structlog.get_logger()


class View:
    """Answers lookups while `follow` runs, from `caught_up` on. Made by `open_view`."""

    def __init__(self, settings: Settings, store: Store, consumer: Consumer, topics: Topics, encode: Encode) -> None:
        self.caught_up = asyncio.Event()  # set once all that was on the topic at the start is folded in
        self.store = store
        self.lag = ViewLag()
        self._settings = settings
        self._consumer = consumer
        self._topic, self._posts_topic = settings.kafka.verdicts_topic, settings.kafka.posts_topic
        self._cluster_id = topics.cluster_id
        self._partitions = frozenset(range(topics.partitions))
        self._progress: dict[int, Progress] = {}
        self._encode = encode
        self._recent = Recent(settings.api.recent_bytes, encode)
        self._listeners: list[Callable[[], None]] = []
        self.lives = Lives(IdsAsker(consumer._client, [self._posts_topic, self._topic]).ask)
        self.lives.on_change(self._topic_changed)
        self._outcomes = Outcomes(self.lives, self._posts_topic)
        self._gone = asyncio.Event()  # the topic that is followed was deleted, and another one has its name
        self._freshness = Freshness(consumer)
        self._begins: dict[int, int] = {}  # by partition: where the topic began when the store was opened
        self._ends: dict[int, int] = {}  # and where it ended
        self._stall = Stall()
        self._upkeep = Upkeep(settings.api, store, self._freshness, self._stall)
        self._subscribers = Subscribers(lambda waiter: self.reach(waiter.posts, waiter.posts_id) is not Reach.AHEAD)

    @property
    def positions(self) -> dict[int, int]:
        """By partition of the verdicts topic: the next offset."""
        return {number: at.next for number, at in self._progress.items()}

    @property
    def decided(self) -> dict[int, int]:
        """By partition of the posts topic: the highest offset whose outcome is known; -1: none."""
        return self._outcomes.decided

    @property
    def posts_id(self) -> str:
        """The id of the posts topic that exists now; empty: not known."""
        return self.lives.id(self._posts_topic)

    @property
    def verdicts_id(self) -> str:
        """The id of the verdicts topic that exists now; empty: not known."""
        return self.lives.id(self._topic)

    async def find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        """Returns what is known, by post id. Posts of which nothing is known are left out."""
        rows = {post_id: row for post_id in post_ids if (row := self._recent.find(post_id)) is not None}
        if len(rows) < len(post_ids) and (missing := [post_id for post_id in post_ids if post_id not in rows]):
            rows |= await self.store.find(missing)
        return rows

    def results(self, post_ids: Sequence[str], tenant: str | None) -> list[bytes | None]:
        """Returns each post's result in the response to a batch. None: the verdict is not in memory."""
        return self._recent.results(post_ids, tenant)

    def reach(self, posts: Mapping[int, int], posts_id: str = "") -> Reach:
        """Whether the outcomes of the posts topic's records up to these offsets are folded in. See Outcomes."""
        return self._outcomes.reach(posts, posts_id)

    def is_over(self, source: Source) -> bool:
        """Whether nothing is to come of this record of the posts topic any more."""
        return self.reach({source.partition: source.offset}, source.topic_id) is not Reach.AHEAD

    def on_outcomes(self, listener: Callable[[], None]) -> None:
        """Calls `listener` whenever outcomes have become known, or will never come."""
        self._listeners.append(listener)

    def on_posts_recreated(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the new id when the posts topic was deleted and made again."""
        self.lives.on_change(lambda topic, _: listener(self.posts_id) if topic == self._posts_topic else None)

    def waiting(
        self, post_id: str, posts: Mapping[int, int], posts_id: str = ""
    ) -> AbstractContextManager[asyncio.Event]:
        """Yields an event that is set at each change of the post, and when nothing is to come up to the positions."""
        return self._subscribers.waiting(Waiter(post_id, posts, posts_id))

    def feed(self, max_entries: int) -> AbstractContextManager[Feed]:
        """Yields a feed of what is folded in from now on."""
        return self._subscribers.feed(Feed(max_entries, self.positions))

    def end_feeds(self) -> None:
        """Ends all feeds."""
        self._subscribers.end_feeds()

    async def replay(self, start: Mapping[int, int], end: Mapping[int, int]) -> AsyncIterator[Changes]:
        """Yields what the view keeps of the topic between these positions: the newest record of each post."""
        positions = {number: start.get(number, 0) for number in end}
        for number, limit in end.items():
            while positions[number] < limit:
                entries = await self.store.since(number, positions[number], limit, BATCH)
                positions[number] = entries[-1].offset + 1 if len(entries) == BATCH else limit
                yield Changes(entries, dict(positions))

    async def follow(self) -> None:
        """Folds the topic in until cancelled. Raises DeliveryError, or ConfigError for a missing right."""
        try:
            asking = self.lag.follow(self._ask_ends, self.caught_up)
            await first_result(self._follow(), self._follow_ids(), asking, answers.follow(self._consumer))
        except (KafkaError, UnreadableError) as error:
            what = f"topic {self._topic} cannot be read"
            raise refusals.failure(self._settings.kafka, what, error, self._consumer) from error

    async def _ask_ends(self) -> dict[int, Ends]:
        return await watermarks.all_ends(self._consumer, [self._partition(number) for number in self._partitions])

    async def _follow_ids(self) -> None:
        while True:
            await self.lives.ask()
            self._subscribers.wake()
            await asyncio.sleep(IDS_S)

    async def _follow(self) -> None:
        while True:
            try:
                await self._follow_topic()
            except stores.StoreReplacedError:  # another process was first to see that the topic is another one
                log.info("view_replaced", topic=self._topic)
            await self._begin_again()

    async def _follow_topic(self) -> None:
        """Folds in the topic that exists now, until it is deleted and another one has its name."""
        started = time.monotonic()
        await self.lives.answered(self._settings.api.view_start_s)
        await self._open()
        self._assign()
        while not self._gone.is_set():
            await self._take_new_partitions()
            batches = await self._consumer.poll(max_records=BATCH, max_bytes=BATCH_BYTES, timeout_s=0.2)
            if self.caught_up.is_set():
                self._freshness.check(batches)
            try:
                await self._fold(batches)
            except stores.StoreBehindError as error:
                self._rewind(error.progress)
                continue
            self._freshness.folded(batches)
            await self._upkeep.renew({self._partition(number): at for number, at in self.positions.items()})
            if not self.caught_up.is_set() and await self._is_complete():
                await self._check_posts()
                if self._gone.is_set():
                    return
                self.caught_up.set()
                log.info("view_caught_up", topic=self._topic, seconds=round(time.monotonic() - started, 3))
            await self._upkeep.prune(self._recent)

    def _topic_changed(self, topic: str, before: str) -> None:
        """Called when a topic was deleted and made again. No lookup takes an old verdict for a new one from here on."""
        if topic == self._posts_topic:
            log.warning("posts_topic_recreated", topic=topic, topic_id=self.posts_id, before=before)
            self._take(self._outcomes.renewed())
        else:
            log.error("verdicts_topic_recreated", topic=topic, topic_id=self.verdicts_id, before=before)
            self._stop_serving()

    def _stop_serving(self) -> None:
        self._gone.set()
        self.caught_up.clear()
        self._subscribers.end_feeds(topic_gone=True)

    async def _begin_again(self) -> None:
        """Prepares to follow the topic that has the name now. Raises ConfigError if there is none in view_start_s."""
        self._stop_serving()
        self.lag.begin_again()
        self._recent = Recent(self._settings.api.recent_bytes, self._encode)
        self._freshness.rewound()
        deadline = time.monotonic() + self._settings.api.view_start_s
        client, topic, known = self._consumer._client, self._topic, None
        while not (updated := await client.force_metadata_update()) or not (
            known := self._consumer.partitions_for_topic(topic)
        ):
            if time.monotonic() >= deadline:
                if updated:
                    raise ConfigError(f"topic {topic} does not exist any more: create it")
                raise KafkaTimeoutError("no broker has given metadata")
            await asyncio.sleep(IDS_S)
        self._partitions = frozenset(known)
        self._gone.clear()

    async def _open(self) -> None:
        """Opens the store. Tries again while the store is unavailable. Raises ConfigError after view_start_s."""
        deadline = time.monotonic() + self._settings.api.view_start_s
        while True:
            try:
                self._take(await self._stall.watch("open", self.store.open(self._ask)))
                for number, at in ((number, at) for number, at in self.store.gone.items() if at.next):
                    losses.report("verdicts", self._partition(number), "recreated", (at.next, 0), None)
                await self._warm_up()
            except stores.StoreUnavailableError as error:
                if time.monotonic() >= deadline:
                    what = "the view could not be opened in time, see MODERATION_API__VIEW*"
                    raise ConfigError(f"{what}: {error}") from None
                self._stall.begin("open", error)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                self._stall.end("open")
                break
        for number, at in self._progress.items():
            if at.next < (begin := self._begins.get(number, 0)):
                losses.report("verdicts", self._partition(number), "retention", (at.next, begin), begin - at.next)

    async def _ask(self) -> Log:
        """What the topic is now."""
        await self.lives.ask()
        partitions = [self._partition(number) for number in self._partitions]
        begins, ends = await self._consumer.beginning_offsets(partitions), await self._consumer.end_offsets(partitions)
        self._ends = {partition.partition: end for partition, end in ends.items()}
        self._begins = {partition.partition: offset for partition, offset in begins.items()}
        return Log(self._cluster_id, self._topic, dict(self._begins), dict(self._ends), self.verdicts_id)

    async def _is_complete(self) -> bool:
        """Whether all that was on the topic at the start is folded in, and the store may serve lookups."""
        positions = self.positions
        if any(positions[number] < end for number, end in self._ends.items()):
            return False
        try:
            stored = await self._stall.watch("serve", self.store.serve())
        except stores.StoreUnavailableError as error:
            self._stall.begin("serve", error)
            return False
        self._stall.end("serve")
        if stored is None:
            return False
        level = {number: at for number, at in stored.items() if at.next == positions.get(number)}
        self._take(self._progress | level)
        return True

    def _rewind(self, stored: Mapping[int, Progress]) -> None:
        """Reads again what the store has lost. What lookups and watches know stays."""
        back = {number: at._replace(next=min(at.next, stored[number].next)) for number, at in self._progress.items()}
        records = sum(at.next - back[number].next for number, at in self._progress.items())
        log.warning("view_rewound", topic=self._topic, records=records)
        self._freshness.rewound()
        self._take(back)
        self._assign()

    async def _check_posts(self) -> None:
        """Decides which posts topic the outcomes without an id are of. See Outcomes."""
        if self._posts_topic not in await self._consumer.topics():
            return  # a role that submits posts has checked that the topic is there
        posts = [TopicPartition(self._posts_topic, number) for number in self._partitions]
        ends = await self._consumer.end_offsets(posts)
        self._take(self._outcomes.checked({partition.partition: end for partition, end in ends.items()}))

    async def _warm_up(self) -> None:
        """Fills `recent` with the last records of each partition."""
        for number, at in self._progress.items():
            start = max(0, at.next - self._settings.api.recent_bytes // WARM_BYTES // len(self._progress))
            async for changes in self.replay({number: start}, {number: at.next}):
                self._recent.put(changes.entries)
        self._recent.warmed()

    async def _fold(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Folds batches in. Empty batches may move a position, too: past transaction markers."""
        records = [record for batch in batches.values() for record in batch]
        said = [said for record in records if (said := read(record, self._posts_topic))]
        entries, posts_id = [each.entry for each in said], self.posts_id
        self.lag.read({each.partition: batch[0].timestamp for each, batch in batches.items() if batch})
        before, after = dict(self._progress), {}
        judged = (Judged(entry.source_partition, entry.source_offset, id) for entry, id in said)
        advanced = self._outcomes.advanced(judged)
        for number, at in before.items():
            reached = advanced[number]._replace(next=await self._consumer.position(self._partition(number)))
            if reached.next < at.next:
                await self.lives.refresh()
                if self._gone.is_set():
                    return
                raise DeliveryError(f"topic {self._topic} was created again, or was cut short: restart the API")
            if reached != at:
                after[number] = reached
        if after:
            tenants = await self._written(entries, before, after)
            self._take(before | after)
            if self.posts_id != posts_id:  # the topic was made again while the store wrote
                self._take(self._outcomes.renewed())
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
            except stores.StoreUnavailableError as error:
                self._stall.begin("fold", error)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                self._stall.end("fold")
                return tenants

    def _take(self, progress: Mapping[int, Progress]) -> None:
        self._progress = dict(progress)
        self._outcomes.take(progress)
        self.lag.moved(self.positions)
        for listener in self._listeners:
            listener()

    def _publish(self, entries: Sequence[Entry], tenants: Mapping[str, str]) -> None:
        if tenants:
            entries = [
                entry._replace(tenant=tenants.get(entry.post_id, "")) if entry.kind == Kind.ERASED else entry
                for entry in entries
            ]
        latest = self._recent.put(entries)
        changes = Changes([entry for entry in latest if not entry.copied], self.positions)
        self._subscribers.put(changes, {entry.post_id for entry in entries})

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)

    def _assign(self) -> None:
        """Assigns all partitions, each from the store's position."""
        self._consumer.assign([self._partition(number) for number in self._progress])
        for number, at in self._progress.items():
            self._consumer.seek(self._partition(number), at.next)

    async def _take_new_partitions(self) -> None:
        """Follows partitions that an operator has added. The client's metadata has them within METADATA_MS."""
        known = frozenset(self._consumer.partitions_for_topic(self._topic) or ())
        if not known > self._partitions:
            return
        log.info("partitions_added", topic=self._topic, partitions=len(known))
        added = dict.fromkeys(known - self._partitions, 0)
        try:
            await self._stall.watch("add", self.store.add(added))
        except stores.StoreUnavailableError as error:
            self._stall.begin("add", error)
            return  # tried again before the next records
        self._stall.end("add")
        self._partitions = known
        self._take(self._progress | {number: Progress(begin, -1) for number, begin in added.items()})
        self._assign()


@asynccontextmanager
async def open_view(settings: Settings, topics: Topics, encode: Encode) -> AsyncIterator[View]:
    """Yields a view that has connected and does not follow yet. `encode` makes the results that the view keeps."""
    async with AsyncExitStack() as stack:
        consumer = clients.consumer(settings.kafka, metadata_max_age_ms=clients.METADATA_MS)
        stack.push_async_callback(clients.stop, consumer)
        await clients.connected(consumer.start, settings.kafka)
        store = stores.open_store(settings.api.model_copy(update={"view": settings.view_file}))
        stack.push_async_callback(store.close)
        yield View(settings, store, consumer, topics, encode)
