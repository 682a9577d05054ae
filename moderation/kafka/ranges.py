"""Reads ranges of offsets of a topic's partitions, without a group: in pieces, and for as long as brokers answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation.errors import DeliveryError
from moderation.kafka import clients, refusals
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings

POLL_RECORDS = 1_000
POLL_BYTES = 4 << 20  # of a poll; a larger record is polled alone
FETCH_BYTES = 256 << 10  # of a partition in a fetch; a larger record is fetched alone
POLL_S = 0.05  # a poll that passes a transaction's marker alone waits for so long, while transactions of ours are open
FETCH_WAIT_MS = 50  # a new position is fetched from after the last fetch has waited at the old one

Isolation = Literal["read_committed", "read_uncommitted"]
Spans = Mapping[TopicPartition, range]


@asynccontextmanager
async def open_consumer(settings: KafkaSettings, isolation: Isolation = "read_committed") -> AsyncIterator[Consumer]:
    """Yields a consumer that has connected and is in no group."""
    options = {"max_partition_fetch_bytes": FETCH_BYTES, "fetch_max_wait_ms": FETCH_WAIT_MS}
    consumer = clients.consumer(settings, isolation_level=isolation, **options)
    try:
        await clients.connected(consumer.start, settings)
        yield consumer
    finally:
        await clients.stop(consumer)


async def spans_from(
    settings: KafkaSettings, consumer: Consumer, partitions: Sequence[TopicPartition], since_ms: int | None = None
) -> dict[TopicPartition, range]:
    """Returns the offsets of each partition, from the first record of `since_ms` or later on. None: all.

    They end where the consumer's isolation ends. Raises as `read` does.
    """
    with explained(settings, consumer, partitions):
        return await _spans(consumer, partitions, since_ms)


async def _spans(
    consumer: Consumer, partitions: Sequence[TopicPartition], since_ms: int | None
) -> dict[TopicPartition, range]:
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    if since_ms is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, max(0, since_ms)))
        for partition in partitions:
            at = found.get(partition)
            begins[partition] = at.offset if at is not None and at.offset >= 0 else ends[partition]
    return {partition: range(begins[partition], ends[partition]) for partition in partitions}


async def read(settings: KafkaSettings, consumer: Consumer, spans: Spans) -> AsyncIterator[Record]:
    """Yields the records at these offsets, in the order of each partition. Holds some POLL_BYTES of them.

    Raises ConfigError for a missing right, and DeliveryError for what cannot be read or when nothing comes for
    connect_timeout_s.
    """
    with explained(settings, consumer, spans):
        async for record in _read(consumer, spans, settings.connect_timeout_s):
            yield record


@contextmanager
def explained(settings: KafkaSettings, consumer: Consumer, partitions: Iterable[TopicPartition]) -> Iterator[None]:
    """Raises ConfigError or DeliveryError where Kafka refuses or fails."""
    what = f"{', '.join(sorted({partition.topic for partition in partitions}))} cannot be read"
    try:
        yield
    except UnreadableError as error:
        raise DeliveryError(str(error)) from error
    except (KafkaError, TimeoutError) as error:
        raise refusals.failure(settings, what, error, consumer) from error


async def _read(consumer: Consumer, spans: Spans, stall_s: float) -> AsyncIterator[Record]:
    behind = {partition for partition, span in spans.items() if span}
    if not behind:
        return
    consumer.assign(sorted(behind))
    for partition in behind:
        consumer.seek(partition, spans[partition].start)
    positions = {partition: spans[partition].start for partition in behind}
    moved = time.monotonic()
    while behind:
        polled = await consumer.poll(*behind, max_records=POLL_RECORDS, max_bytes=POLL_BYTES, timeout_s=POLL_S)
        for partition, records in polled.items():
            for record in records:
                if record.offset in spans[partition]:
                    yield record
        now = {partition: await consumer.position(partition) for partition in behind}
        if any(now[partition] > positions[partition] for partition in behind):
            positions, moved = positions | now, time.monotonic()
        elif time.monotonic() - moved > stall_s:
            waiting = min(behind)
            raise DeliveryError(
                f"no broker sent records of {waiting.topic}/{waiting.partition} from offset {now[waiting]} on, "
                f"for {stall_s:g} s"
            )
        behind = {partition for partition in behind if now[partition] < spans[partition].stop}
