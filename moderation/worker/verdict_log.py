"""Reads a verdicts partition backwards, in steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aiokafka import TopicPartition

from moderation.kafka.consumer import Consumer
from moderation.kafka.records import Record

STEP_BYTES = 1 << 20  # of a fetch; a larger record is fetched alone
HELD_BYTES = 64 << 20  # of a step; more than a verdict cache holds by default


async def read_step(
    consumer: Consumer, partition: TopicPartition, offsets: range, is_wanted: Callable[[Record], bool]
) -> deque[Record]:
    """Returns the wanted records at these offsets, in order; the last ones, if all take more than HELD_BYTES."""
    records: deque[Record] = deque()
    held = 0
    consumer.seek(partition, offsets.start)
    while await consumer.position(partition) < offsets.stop:
        polled = await consumer.poll(partition, max_records=len(offsets), max_bytes=STEP_BYTES, timeout_s=1.0)
        for record in polled.get(partition, ()):
            if record.offset in offsets and is_wanted(record):
                records.append(record)
                held += record.size
        while held > HELD_BYTES:
            held -= records.popleft().size
    return records
