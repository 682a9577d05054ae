"""Puts replayed records on the posts topic, each on the partition of its original, and never behind a later record.

What came later is looked for as late as possible. With transactions, nothing can come in between: the records are
sent, all that lies before them on the topic is read, and only then they are committed. Their timestamp is a time before
that search, so a post that comes meanwhile on another partition counts as the later one. Without transactions, a later
record that was overtaken is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from moderation import wire
from moderation.dead_letters.decisions import Decision, Rules, Skip, Why, superseded
from moderation.dead_letters.letters import Letter
from moderation.dead_letters.standing import Standing, Waiting
from moderation.errors import DeliveryError
from moderation.kafka import clients, refusals
from moderation.kafka.consumer import Consumer
from moderation.kafka.lookup import record_in
from moderation.kafka.ranges import explained, read
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings

REPAIRS = 20  # later records that are sent again, one after the other, before this gives up

Place = tuple[int, int]  # partition and offset


class Ready(NamedTuple):
    """A record to send, and its dead letter."""

    letter: Letter
    record: Record  # as it goes to the posts topic, on the partition of its original


class Tail:
    """What comes on the posts topic from some offsets on, of transactions that are open or aborted, too."""

    def __init__(self, settings: KafkaSettings, consumer: Consumer) -> None:
        self._settings = settings
        self._consumer = consumer
        self._next: dict[TopicPartition, int] = {}

    def begin(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Continues from these offsets."""
        self._next = dict(offsets)

    async def read(self, standing: Standing, ours: Iterable[Ready] = (), but: Place | None = None) -> None:
        """Reads to the present end. What has just been sent counts for nothing: `ours`, and the record at `but`."""
        with explained(self._settings, self._consumer, self._next):
            ends = await self._consumer.end_offsets(list(self._next))
        spans = {place: range(start, max(start, ends[place])) for place, start in self._next.items()}
        positions = {ready.letter.position for ready in ours}
        async for record in read(self._settings, self._consumer, spans):
            is_ours = positions and wire.replay_of(record.headers) in positions
            if not is_ours and (record.partition, record.offset) != but:
                standing.post(record)
        self._next = {place: span.stop for place, span in spans.items()}

    async def record(self, place: Place) -> Record | None:
        """Returns the record at the place."""
        partition = TopicPartition(self._settings.posts_topic, place[0])
        self._consumer.assign([partition])
        return await record_in(self._consumer, partition, place[1])


class Sender:
    """Sends batches of records. Each batch has a producer of its own, which fences that of another replay."""

    def __init__(self, settings: KafkaSettings, rules: Rules, tail: Tail) -> None:
        self._settings = settings
        self._rules = rules
        self._tail = tail
        self._transactional = settings.delivery == "exactly_once"

    async def send(self, batch: Sequence[Ready], standing: Standing) -> list[Decision]:
        """Returns what became of each. Raises DeliveryError if it is not known whether the records were sent."""
        decisions: list[Decision] = []
        while True:
            at_ms = _now_ms()
            await self._tail.read(standing)
            skips = [(ready, superseded(ready.letter, standing, self._rules)) for ready in batch]
            decisions += [Decision(ready.letter, skip) for ready, skip in skips if skip is not None]
            batch = [ready for ready, skip in skips if skip is None]
            if not batch:
                return decisions
            try:
                sent = await self._attempt(batch, standing, at_ms)
            except MessageSizeTooLargeError:
                if len(batch) == 1:
                    return [*decisions, Decision(batch[0].letter, Skip(Why.TOO_LARGE))]
                for ready in batch:
                    decisions += await self.send([ready], standing)
                return decisions
            if sent is not None:
                return decisions + sent

    async def _attempt(self, batch: Sequence[Ready], standing: Standing, at_ms: int) -> list[Decision] | None:
        """None: nothing was sent, because something came in between."""
        settings = self._settings
        if self._transactional:
            id = f"{settings.group}-{settings.posts_topic}-replay"
            producer = clients.producer(settings, transactional_id=id)
        else:
            producer = clients.producer(settings, enable_idempotence=False, acks="all")
        try:
            await clients.connected(producer.start, settings)
            async with asyncio.timeout(settings.transaction_timeout_ms / 1000):
                if self._transactional:
                    return await self._transact(producer, batch, standing, at_ms)
                before = [standing.waiting(ready.letter.post_id).get(ready.record.partition) for ready in batch]
                places = await _put(producer, [ready.record for ready in batch], at_ms)
                passed = [waiting.offset if waiting else -1 for waiting in before]
                return await self._repair(producer, list(zip(batch, passed, strict=True)), standing, places)
        except MessageSizeTooLargeError:
            raise
        except (KafkaError, TimeoutError) as error:
            what = f"{settings.posts_topic} did not confirm {len(batch)} replayed records (the same command goes on)"
            raise refusals.failure(settings, what, error, producer) from error
        finally:
            await clients.stop(producer)

    async def _transact(
        self, producer: Any, batch: Sequence[Ready], standing: Standing, at_ms: int
    ) -> list[Decision] | None:
        await producer.begin_transaction()
        try:
            places = await _put(producer, [ready.record for ready in batch], at_ms)
            await self._tail.read(standing, batch)
            if any(superseded(ready.letter, standing, self._rules) for ready in batch):
                await producer.abort_transaction()
                return None
        except BaseException:  # also Ctrl-C: until an open transaction times out, workers read nothing behind it
            with suppress(Exception):
                async with asyncio.timeout(clients.STOP_S):
                    await producer.abort_transaction()
                    await self._tail.read(standing, batch)  # some were sent, perhaps
            raise
        await producer.commit_transaction()
        return self._replayed(batch, places, standing)

    def _replayed(self, batch: Sequence[Ready], places: Sequence[Place], standing: Standing) -> list[Decision]:
        decisions = []
        for ready, (partition, offset) in zip(batch, places, strict=True):
            standing.note(ready.letter.post_id, partition, Waiting(offset, _now_ms(), False, ready.letter.position))
            decisions.append(Decision(ready.letter, None, f"{self._settings.posts_topic}/{partition}/{offset}"))
        return decisions

    async def _repair(
        self, producer: Any, batch: Sequence[tuple[Ready, int]], standing: Standing, places: Sequence[Place]
    ) -> list[Decision]:
        """Sends again what the records have overtaken, which makes it the latest.

        batch: with each, the offset up to which nothing is later.
        """
        decisions = []
        await self._tail.read(standing, [ready for ready, _ in batch])
        for (ready, passed), (partition, offset) in zip(batch, places, strict=True):
            first, last, overtaken = passed, offset, ""
            for _ in range(REPAIRS):
                newest = standing.waiting(ready.letter.post_id).get(partition)
                if newest is None or not first < newest.offset < last:
                    break
                later = await self._tail.record((partition, newest.offset))
                if later is None:  # compaction has removed it
                    break
                overtaken = overtaken or f"{self._settings.posts_topic}/{partition}/{newest.offset}"
                first = newest.offset
                # With its own time: an erasure must not erase what came later on other partitions.
                ((_, last),) = await _put(producer, [later], later.timestamp if later.timestamp > 0 else None)
                await self._tail.read(standing, but=(partition, last))
            else:
                raise DeliveryError(f"{ready.letter.post_id} came too often to be kept in order: send it again")
            if overtaken:
                standing.note(ready.letter.post_id, partition, Waiting(last, _now_ms(), False, ""))
                decisions.append(Decision(ready.letter, Skip(Why.OVERTAKEN, overtaken)))
            else:
                decisions += self._replayed([ready], [(partition, offset)], standing)
        return decisions


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _put(producer: Any, records: Sequence[Record], at_ms: int | None) -> list[Place]:
    """Sends the records, and returns where they are. at_ms: their timestamp; None: now."""
    sent: list[asyncio.Future[Any]] = []
    try:
        for record in records:
            headers = list(record.headers)
            future = await producer.send(
                record.topic, record.value, record.key, record.partition, timestamp_ms=at_ms, headers=headers
            )
            sent.append(future)
        # Each future is awaited: aiokafka would commit a transaction in which a send has failed.
        made = await asyncio.gather(*sent)
    finally:
        for future in sent:
            if not future.cancel() and not future.cancelled():
                future.exception()  # retrieved, also when another send raised
    return [(each.partition, each.offset) for each in made]
