"""Fills the verdict cache of a partition from the verdicts topic, which survives restarts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation import wire
from moderation.errors import DeliveryError
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka import clients
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings
from moderation.types import Verdict

STEP = 1_000  # offsets read at a time, backwards from the end
STEP_BYTES = 1 << 20  # of a fetch; a larger record is fetched alone
HELD_BYTES = 64 << 20  # of a step; more than a verdict cache holds by default
MAX_RESTORED_BYTES = 256 << 10  # of a verdict: it is decoded on the event loop when it is looked up
RECORD_BYTES = 1_000  # of a record, without its value

log = structlog.get_logger()


async def restore(cache: VerdictCache, settings: KafkaSettings, partition: int) -> None:
    """Fills an empty cache from the verdicts partition of this number, latest verdict first, until it is full.

    The caller must have fenced earlier owners: otherwise the end may move. Reads committed verdicts only, and at most
    two offsets for each verdict that the cache holds (the end of a transaction takes an offset too).

    Raises DeliveryError.
    """
    verdicts = TopicPartition(settings.verdicts_topic, partition)
    started = time.monotonic()
    consumer = clients.consumer(settings, max_partition_fetch_bytes=STEP_BYTES)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await clients.connected(consumer.start, settings)
            consumer.assign([verdicts])
            await _fill(cache, consumer, verdicts)
    except (KafkaError, UnreadableError, TimeoutError) as error:
        what = f"cannot restore the verdict cache from {verdicts.topic}/{partition}"
        raise DeliveryError(f"{what}: {type(error).__name__}") from error
    finally:
        await clients.stop(consumer)
    seconds = round(time.monotonic() - started, 3)
    log.info("verdict_cache_restored", partition=partition, verdicts=len(cache), bytes=cache.bytes, seconds=seconds)


async def _fill(cache: VerdictCache, consumer: Consumer, verdicts: TopicPartition) -> None:
    end: int = (await consumer.end_offsets([verdicts]))[verdicts]  # of what is committed: the last stable offset
    begin: int = (await consumer.beginning_offsets([verdicts]))[verdicts]
    begin = max(begin, end - 2 * cache.max_entries)
    erased: set[str] = set()
    while begin < end:
        start = max(begin, end - STEP)
        for record in reversed(await _between(consumer, verdicts, range(start, end))):
            digest = _digest(record)
            post_id = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                erased.add(post_id)
            elif digest and post_id not in erased and len(record.value) <= MAX_RESTORED_BYTES:
                size = RECORD_BYTES + len(record.value)
                if not cache.restore_older(digest.decode("ascii", "replace"), post_id, partial(_read, record), size):
                    return
        end = start


async def _between(consumer: Consumer, partition: TopicPartition, offsets: range) -> deque[Record]:
    """Returns the erasures and the reusable verdicts at these offsets; the last ones, if all take more than HELD_BYTES.

    Skips records that other programs have written.
    """
    records: deque[Record] = deque()
    held = 0
    consumer.seek(partition, offsets.start)
    while await consumer.position(partition) < offsets.stop:
        polled = await consumer.poll(partition, max_records=len(offsets), max_bytes=STEP_BYTES, timeout_s=1.0)
        for record in polled.get(partition, ()):
            if record.offset in offsets and (record.value is None or _digest(record)):
                records.append(record)
                held += record.size
        while held > HELD_BYTES:
            held -= records.popleft().size
    return records


def _digest(record: Record) -> bytes | None:
    return next((value for name, value in record.headers if name == wire.IDENTITY), None)


def _read(record: Record) -> Verdict | None:
    try:
        return wire.verdict_from_message(wire.read_verdict(record.value or b"", record.headers))
    except ValueError:
        return None
