"""Replays dead letters: decides on each, gets the record as it was, and hands it to the sender."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from aiokafka import TopicPartition

from moderation import wire
from moderation.dead_letters.decisions import Decision, Rules, Skip, Why, refused, superseded
from moderation.dead_letters.letters import Letter, Selection, id_of, letters
from moderation.dead_letters.sending import Ready, Sender, Tail
from moderation.dead_letters.standing import Standing
from moderation.errors import ConfigError
from moderation.kafka.consumer import Consumer
from moderation.kafka.lookup import record_in
from moderation.kafka.ranges import explained, open_consumer, read, spans_from
from moderation.kafka.records import Record
from moderation.kafka.topics import partitions_of
from moderation.settings import KafkaSettings
from moderation.types import Reason, Source
from moderation.wire.json_out import clamped_ms

CHUNK = 20_000  # dead letters that are decided on together: about 20 MB
CLOCKS_MS = 600_000  # that clocks of producers, workers and brokers may differ
BATCH = 100  # dead letters in one transaction
BATCH_BYTES = 4 << 20  # of their records; a larger one goes alone


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for."""

    selection: Selection = field(default_factory=Selection)
    write: bool = False  # False: only say what would be done
    unproven: bool = False  # see Rules
    rate: float = 0.0  # dead letters per second; 0: no limit


async def replay(settings: KafkaSettings, order: Order) -> AsyncIterator[Decision]:
    """Yields what becomes of each dead letter that is meant. Writes only if the order says so.

    Raises ConfigError, among others for a missing right, and DeliveryError if Kafka fails. What was replayed before an
    error is not replayed again by the same order.
    """
    async with _open(settings, order) as replaying:
        async for decision in replaying.run():
            yield decision


class _Consumers(NamedTuple):
    letters: Consumer
    values: Consumer  # of the dead letters that are chosen
    originals: Consumer  # of records that a dead letter does not hold
    committed: Consumer  # of verdicts, and of posts that wait
    tail: Consumer  # of posts, also of those in open transactions


@asynccontextmanager
async def _open(settings: KafkaSettings, order: Order) -> AsyncIterator[_Replay]:
    counts = await partitions_of(settings, [settings.posts_topic, settings.verdicts_topic, settings.dead_letters])
    async with AsyncExitStack() as stack:
        values, originals, committed, found = [
            await stack.enter_async_context(open_consumer(settings)) for _ in range(4)
        ]
        tail = await stack.enter_async_context(open_consumer(settings, "read_uncommitted"))
        yield _Replay(settings, order, counts, _Consumers(found, values, originals, committed, tail))


class _Replay:
    def __init__(self, settings: KafkaSettings, order: Order, counts: dict[str, int], consumers: _Consumers) -> None:
        """counts: partitions of each topic."""
        self._settings = settings
        self._order = order
        self._counts = counts
        self._consumers = consumers
        partitions = counts[settings.posts_topic]
        self._rules = Rules(settings.posts_topic, partitions, order.selection.explicit, order.unproven)
        self._tail = Tail(settings, consumers.tail)
        self._sender = Sender(settings, self._rules, self._tail)

    async def run(self) -> AsyncIterator[Decision]:
        """Decides on all dead letters that are meant, chunk by chunk."""
        chunk: list[Letter] = []
        count = self._counts[self._settings.dead_letters]
        async for letter, _ in letters(self._consumers.letters, self._settings, count, self._order.selection):
            if (skip := refused(letter, self._rules)) is not None:
                yield Decision(letter, skip)
                continue
            chunk.append(letter)
            if len(chunk) == CHUNK:
                async for decision in self._decide(chunk):
                    yield decision
                chunk = []
        if chunk:
            async for decision in self._decide(chunk):
                yield decision

    async def _decide(self, chunk: Sequence[Letter]) -> AsyncIterator[Decision]:
        standing = Standing((letter.post_id for letter in chunk), self._settings.posts_topic)
        await self._read_verdicts(standing, chunk)
        await self._read_waiting(standing, chunk)
        chosen: dict[tuple[int, int], Letter] = {}
        originals: set[Source | None] = set()
        for letter in chunk:
            skip = superseded(letter, standing, self._rules)
            if skip is None and letter.original in originals:
                skip = Skip(Why.REPEATED)  # of a worker that delivers at least once
            if skip is not None:
                yield Decision(letter, skip)
            else:
                originals.add(letter.original)
                chosen[letter.place] = letter
        if chosen:
            async for decision in self._replay(chosen, standing):
                yield decision

    async def _replay(self, chosen: dict[tuple[int, int], Letter], standing: Standing) -> AsyncIterator[Decision]:
        """Sends what is chosen, or says that it would."""
        began, done, batch = time.monotonic(), 0, list[Ready]()
        selection = Selection(places=frozenset(chosen))
        count = self._counts[self._settings.dead_letters]
        async for letter, held in letters(self._consumers.values, self._settings, count, selection):
            record = await self._whole(letter, held)
            if isinstance(record, Skip):
                yield Decision(letter, record)
            elif not self._order.write:
                yield Decision(letter, None)
            else:
                batch.append(Ready(letter, record))
                if self._is_full(batch):
                    for decision in await self._sender.send(batch, standing):
                        yield decision
                    done, batch = done + len(batch), []
                    if self._order.rate:
                        await asyncio.sleep(max(0.0, began + done / self._order.rate - time.monotonic()))
        if batch:
            for decision in await self._sender.send(batch, standing):
                yield decision

    def _is_full(self, batch: Sequence[Ready]) -> bool:
        at_once = min(BATCH, max(1, int(self._order.rate))) if self._order.rate else BATCH
        return len(batch) >= at_once or sum(ready.record.size for ready in batch) >= BATCH_BYTES

    async def _whole(self, letter: Letter, held: Record) -> Record | Skip:
        """The record as it goes to the posts topic: from the dead letter, or from where it was on that topic."""
        record: Record | None = held
        if not letter.whole:
            record = await self._original(letter)
            if record is not None and record.problem is not None:
                return Skip(Why.TOO_LARGE if record.problem.reason is Reason.RECORD_TOO_LARGE else Why.NOT_WHOLE)
            if record is None or not _is_same(letter, held, record):
                return Skip(Why.NOT_WHOLE)
        if record is None or letter.original is None or id_of(record) != letter.post_id:
            return Skip(Why.OTHER_ID)
        headers = wire.replay_headers(record.headers, letter.position)
        return record._replace(topic=letter.original.topic, partition=letter.original.partition, headers=headers)

    async def _original(self, letter: Letter) -> Record | None:
        if letter.original is None:
            return None
        place = TopicPartition(letter.original.topic, letter.original.partition)
        record = await self._record(place, letter.original.offset)
        return record if record is not None and record.timestamp == letter.original.timestamp_ms else None

    async def _record(self, place: TopicPartition, offset: int) -> Record | None:
        """None: the topic does not have it any more."""
        consumer = self._consumers.originals
        consumer.assign([place])
        with explained(self._settings, consumer, [place]):
            try:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    return await record_in(consumer, place, offset)
            except ConfigError:  # the offset is outside of the partition
                return None

    async def _read_verdicts(self, standing: Standing, chunk: Sequence[Letter]) -> None:
        """Reads all verdicts that may be later than the records of the dead letters."""
        consumer = self._consumers.committed
        places = self._partitions(self._settings.verdicts_topic)
        spans = await spans_from(self._settings, consumer, places, _oldest_ms(chunk))
        last: dict[int, Record] = {}
        async for record in read(self._settings, consumer, spans):
            last[record.partition] = record
            standing.verdict(record)
        for record in last.values():
            standing.verdict(record, last=True)

    async def _read_waiting(self, standing: Standing, chunk: Sequence[Letter]) -> None:
        """Reads all posts that have no outcome yet, and makes the tail begin behind them."""
        consumer = self._consumers.committed
        places = self._partitions(self._settings.posts_topic)
        spans = await spans_from(self._settings, consumer, places, _oldest_ms(chunk))
        for place, span in spans.items():
            judged, judged_ms = standing.judged.get(place.partition, (-1, 0))
            # The topic may have been made again since the last verdict: then another record, or none, is there.
            if judged in span and await self._is_there(place, judged, judged_ms):
                spans[place] = range(judged + 1, span.stop)
        async for record in read(self._settings, consumer, spans):
            standing.post(record)
        self._tail.begin({place: span.stop for place, span in spans.items()})
        await self._tail.read(standing)

    async def _is_there(self, place: TopicPartition, offset: int, timestamp_ms: int) -> bool:
        record = await self._record(place, offset)
        return record is not None and clamped_ms(record.timestamp) == timestamp_ms

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(self._counts[topic])]


def _oldest_ms(chunk: Sequence[Letter]) -> int:
    """A time before all records of the dead letters, by any clock."""
    times = [letter.timestamp_ms for letter in chunk]
    times += [letter.original.timestamp_ms for letter in chunk if letter.original and letter.original.timestamp_ms > 0]
    return min(times) - CLOCKS_MS


def _is_same(letter: Letter, held: Record, original: Record) -> bool:
    """Whether the record on the posts topic is the one of which the dead letter holds a part."""
    value = original.value or b""
    if letter.value is None:
        return value == (held.value or b"")
    return letter.value.size == len(value) and letter.value.sha256 == hashlib.sha256(value).hexdigest()
