"""From the verdicts topic to the archive, from where the last run ended; and the topic's rows without an archive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation import wire
from moderation.errors import ConfigError, DeliveryError
from moderation.evaluation.traffic.archive import Archive, Erased
from moderation.evaluation.traffic.rows import BATCH_ROWS, Place, Rows
from moderation.kafka import refusals
from moderation.kafka.consumer import Consumer
from moderation.kafka.ranges import open_consumer, read, spans_from
from moderation.kafka.records import Record
from moderation.kafka.topic_ids import topic_ids
from moderation.kafka.topics import partitions_of
from moderation.settings import KafkaSettings

COMMIT_ROWS = 100_000  # of a commit; the rows that wait are in memory
COMMIT_BYTES = 128 << 20  # of them
ERASURES_S = 12 * 3600  # half of Kafka's delete.retention.ms: for so long at least a topic keeps an erasure
MOST_ERASURES = 10_000  # that wait before they are carried out

Step = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Archived:
    """What a run did."""

    verdicts: int = 0  # that were added
    erased: int = 0  # that went, because their posts were erased
    unread: int = 0  # records that are no verdicts
    lost: int = 0  # offsets that Kafka removed before they were archived; some have no record
    late: bool = False  # the last run is so long ago that Kafka may have removed erasures meanwhile
    recreated: bool = False  # the topic was deleted and made again: its offsets began at 0 again


@dataclass(frozen=True, slots=True)
class _Topic:
    """What is to be read now."""

    id: str
    spans: Mapping[TopicPartition, range]


class Run:
    """One run: reads up to the end that the topic has when the run begins."""

    def __init__(self, settings: KafkaSettings, archive: Archive, stop: asyncio.Event) -> None:
        """stop: once it is set, the run commits what it has read, and ends."""
        self._settings = settings
        self._archive = archive
        self._stop = stop
        self._rows = Rows()
        self._batches: list[pa.RecordBatch] = []
        self._erasures: list[Erased] = []
        self._state = archive.state
        self._done = Archived()

    async def go(self, shown: Callable[[int], Step]) -> Archived:
        """Archives. `shown` is called with the number of offsets to read, and returns what takes how many are done.

        Raises ConfigError and DeliveryError. What was committed before stays.
        """
        async with open_consumer(self._settings) as consumer:
            topic = await self._opened(consumer)
            step = shown(sum(map(len, topic.spans.values())))
            positions = {partition: span.start for partition, span in topic.spans.items()}
            async for record in read(self._settings, consumer, topic.spans):
                place = TopicPartition(record.topic, record.partition)
                taken = self._take(record, topic.id)
                step(record.offset + 1 - positions[place])
                positions[place] = record.offset + 1
                if taken and self._full:
                    await self._commit(consumer, topic, positions)
                if self._stop.is_set():
                    break
            else:
                positions = {partition: span.stop for partition, span in topic.spans.items()}
            await self._commit(consumer, topic, positions)
        erased = self._done.erased + self._archive.erase()
        self._archive.join(datetime.now(UTC).date())
        return replace(self._done, erased=erased)

    async def _opened(self, consumer: Consumer) -> _Topic:
        """What is to be read, by what the archive has. Raises ConfigError where the topic does not go on from there."""
        name, state, folder = self._settings.verdicts_topic, self._state, self._archive.folder
        if state.topic and state.topic != name:
            raise ConfigError(f"{folder}: it holds verdicts of {state.topic}, not of {name}: archive to another folder")
        count = (await partitions_of(self._settings, [name]))[name]
        id = await self._id(consumer)
        recreated = bool(state.topic_id and id and id != state.topic_id)
        offsets = {} if recreated else state.offsets
        whole = await spans_from(self._settings, consumer, [TopicPartition(name, number) for number in range(count)])
        spans, lost = {}, 0
        for partition, span in whole.items():
            begin = offsets.get(partition.partition, 0)
            if begin > span.stop:
                raise ConfigError(
                    f"{name}/{partition.partition} ends at offset {span.stop}, and the archive {folder} has read it up "
                    f"to {begin}: the brokers have lost records; archive to another folder"
                )
            lost += max(0, span.start - begin) if partition.partition in offsets else 0
            spans[partition] = range(max(begin, span.start), span.stop)
        now = time.time_ns() // 1_000_000
        late = bool(state.read_ms and any(spans.values())) and now - state.read_ms > ERASURES_S * 1000
        known = {"topic": name, "topic_id": id or state.topic_id, "offsets": offsets, "read_ms": now}
        self._state = state.model_copy(update=known)
        self._done = replace(self._done, lost=lost, late=late, recreated=recreated)
        return _Topic(id, spans)

    async def _id(self, consumer: Consumer) -> str:
        name = self._settings.verdicts_topic
        try:
            return (await topic_ids(consumer._client, [name])).get(name, "")
        except KafkaError as error:
            raise refusals.failure(self._settings, f"{name} cannot be read", error, consumer) from error

    @property
    def _full(self) -> bool:
        rows = sum(batch.num_rows for batch in self._batches)
        size = sum(batch.nbytes for batch in self._batches)
        return rows >= COMMIT_ROWS or size >= COMMIT_BYTES or len(self._erasures) >= MOST_ERASURES

    def _take(self, record: Record, topic_id: str) -> bool:
        """Returns whether it is time to look if enough waits for a commit."""
        if record.value is None:
            if id := wire.id_in_key(record.key):
                self._erasures.append(Erased(id, topic_id, record.partition, record.offset))
            return len(self._erasures) >= MOST_ERASURES
        if not _added(self._rows, record, topic_id):
            self._done = replace(self._done, unread=self._done.unread + 1)
            return False
        self._done = replace(self._done, verdicts=self._done.verdicts + 1)
        if len(self._rows) < BATCH_ROWS:
            return False
        self._batches.append(self._rows.taken())
        return True

    async def _commit(self, consumer: Consumer, topic: _Topic, positions: Mapping[TopicPartition, int]) -> None:
        """Raises DeliveryError where the topic was made again while it was read."""
        if await self._id(consumer) != topic.id:
            raise DeliveryError(f"{self._settings.verdicts_topic} was deleted or made again meanwhile: run this again")
        if len(self._rows):
            self._batches.append(self._rows.taken())
        offsets = self._state.offsets | {partition.partition: offset for partition, offset in positions.items()}
        erasures = [*self._state.erasures, *self._erasures]
        state = self._state.model_copy(update={"offsets": offsets, "erasures": erasures})
        if self._batches or state != self._archive.state:
            self._archive.add(self._batches, state)
        self._batches, self._erasures = [], []
        if len(self._archive.state.erasures) >= MOST_ERASURES:
            self._done = replace(self._done, erased=self._done.erased + self._archive.erase())
        self._state = self._archive.state


async def topic_batches(
    settings: KafkaSettings, since: datetime | None, until: datetime | None, shown: Callable[[int], Step]
) -> AsyncIterator[pa.RecordBatch]:
    """Batches of the verdicts that the topic has of a period, by when their records were written.

    A post that was judged several times, or erased since, may have rows until Kafka compacts the topic. Raises
    ConfigError and DeliveryError.
    """
    name = settings.verdicts_topic
    count = (await partitions_of(settings, [name]))[name]
    begin, end = (None if at is None else int(at.timestamp() * 1000) for at in (since, until))
    rows = Rows()
    async with open_consumer(settings) as consumer:
        partitions = [TopicPartition(name, number) for number in range(count)]
        spans = await spans_from(settings, consumer, partitions, begin)
        step = shown(sum(map(len, spans.values())))
        positions = {partition: span.start for partition, span in spans.items()}
        async for record in read(settings, consumer, spans):
            place = TopicPartition(record.topic, record.partition)
            step(record.offset + 1 - positions[place])
            positions[place] = record.offset + 1
            if record.value is not None and (end is None or record.timestamp < end):
                _added(rows, record, "")
            if len(rows) >= BATCH_ROWS:
                yield rows.taken()
    if len(rows):
        yield rows.taken()


def _added(rows: Rows, record: Record, topic_id: str) -> bool:
    """Whether the record is a verdict; then it is in `rows`."""
    if record.problem is not None:
        return False
    try:
        verdict = wire.read_verdict(record.value or b"", record.headers)
    except ValueError:
        return False
    rows.add(verdict, Place(record.timestamp, topic_id, record.partition, record.offset))
    return True
