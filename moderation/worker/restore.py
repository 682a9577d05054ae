"""Fills the verdict cache of a partition from the verdicts topic, which survives restarts."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation import wire
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka import clients, refusals
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings
from moderation.types import Verdict
from moderation.worker.verdict_log import STEP_BYTES, read_step

STEP = 1_000  # offsets read at a time, backwards from the end
MAX_RESTORED_BYTES = 256 << 10  # of a verdict: it is decoded on the event loop when it is looked up
RECORD_BYTES = 1_000  # of a record, without its value

log = structlog.get_logger()


async def restore(cache: VerdictCache, settings: KafkaSettings, partition: int) -> None:
    """Fills an empty cache from the verdicts partition of this number, latest verdict first, until it is full.

    The caller must have fenced earlier owners: otherwise the end may move. Reads committed verdicts only, and at most
    two offsets for each verdict that the cache holds (the end of a transaction takes an offset too).

    Raises DeliveryError, and ConfigError if a right is missing.
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
        raise refusals.failure(settings, what, error, consumer) from error
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
        for record in reversed(await read_step(consumer, verdicts, range(start, end), _is_wanted)):
            digest = _digest(record)
            post_id = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                erased.add(post_id)
            elif digest and post_id not in erased and len(record.value) <= MAX_RESTORED_BYTES:
                size = RECORD_BYTES + len(record.value)
                if not cache.restore_older(digest.decode("ascii", "replace"), post_id, partial(_read, record), size):
                    return
        end = start


def _is_wanted(record: Record) -> bool:
    """Whether it is an erasure or a reusable verdict. Other programs may have written the rest."""
    return record.value is None or _digest(record) is not None


def _digest(record: Record) -> bytes | None:
    return next((value for name, value in record.headers if name == wire.IDENTITY), None)


def _read(record: Record) -> Verdict | None:
    try:
        return wire.verdict_from_message(wire.read_verdict(record.value or b"", record.headers))
    except ValueError:
        return None
