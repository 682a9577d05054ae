"""What a partition's verdicts end with, back into memory: the topic is where a worker remembers across restarts."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from moderation import kafka, wire
from moderation.errors import DeliveryError
from moderation.memory import Memory
from moderation.settings import KafkaSettings
from moderation.types import Verdict

STEP = 1_000  # offsets read at a time, from the end backwards
STEP_BYTES = 1 << 20  # of a fetch, or one record where that is larger
RECORD_BYTES = 1_000  # that a record takes beside its value

log = structlog.get_logger()


async def recall(memory: Memory, settings: KafkaSettings, partition: int) -> None:
    """Fills an empty memory from the verdicts partition of this number, latest first, until it is full.

    For a caller that has fenced whoever wrote there before: else the end may move. Reads committed verdicts only, and
    two offsets for each post that there is room for (a transaction's end takes one). Raises DeliveryError.
    """
    verdicts = TopicPartition(settings.verdicts_topic, partition)
    started = time.monotonic()
    consumer = kafka.consumer(settings, max_partition_fetch_bytes=STEP_BYTES)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await kafka.connected(consumer.start, settings)
            consumer.assign([verdicts])
            await _fill(memory, consumer, verdicts)
    except (
        KafkaError,
        TimeoutError,
        UnicodeDecodeError,
    ) as error:  # the last: of a header's name, from within aiokafka
        what = f"cannot read back what was decided, from {verdicts.topic}/{partition}"
        raise DeliveryError(f"{what}: {type(error).__name__}") from error
    finally:
        await kafka.stop(consumer)
    seconds = round(time.monotonic() - started, 3)
    log.info("verdicts_recalled", partition=partition, verdicts=len(memory), bytes=memory.bytes, seconds=seconds)


async def _fill(memory: Memory, consumer: AIOKafkaConsumer, verdicts: TopicPartition) -> None:
    end: int = (await consumer.end_offsets([verdicts]))[verdicts]  # of what is committed: the last stable offset
    begin: int = (await consumer.beginning_offsets([verdicts]))[verdicts]
    begin = max(begin, end - 2 * memory.most)
    erased: set[str] = set()
    while begin < end:
        start = max(begin, end - STEP)
        for record in reversed(await _between(consumer, verdicts, start, end)):
            digest = next((value for name, value in record.headers if name == wire.IDENTITY), None)
            post_id = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                erased.add(post_id)
            elif digest and post_id not in erased:
                size = RECORD_BYTES + len(record.value)
                if not memory.recall(digest.decode("ascii", "replace"), post_id, partial(_read, record), size):
                    return
        end = start


async def _between(consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int) -> list[ConsumerRecord]:
    """Its records from `start` up to `end`, without it."""
    found: list[ConsumerRecord] = []
    try:
        consumer.seek(partition, start)
        while await consumer.position(partition) < end:
            for records in (await consumer.getmany(timeout_ms=1_000, max_records=end - start)).values():
                found += [record for record in records if record.offset < end]
    except UnicodeDecodeError:  # of a foreign record's header: aiokafka cannot read what is behind it in its batch
        if end - start == 1:
            log.warning("record_unreadable", topic=partition.topic, partition=partition.partition, offset=start)
            return []
        middle = (start + end) // 2
        return [
            *await _between(consumer, partition, start, middle),
            *await _between(consumer, partition, middle, end),
        ]
    return found


def _read(record: ConsumerRecord) -> Verdict | None:
    try:
        return wire.verdict_type(wire.read_verdict(record.value, record.headers))
    except ValueError:
        return None
