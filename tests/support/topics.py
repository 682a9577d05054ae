"""Topics of one test, what is committed on them, and a loop apart from the tests' loops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from moderation.dev.topics import create_topics

T = TypeVar("T")


def run_apart(work: Coroutine[object, object, T]) -> T:
    """Runs it on a loop in a thread of its own: a sync fixture stays out of the way of the tests' loops."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def delete_topics(kafka: str, names: Sequence[str]) -> None:
    """Those that have one of the names in their own; says nothing where the broker is gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    try:
        await admin.start()
        if topics := [topic for topic in await admin.list_topics() if any(name in topic for name in names)]:
            await admin.delete_topics(topics)
    except KafkaConnectionError:
        return
    finally:
        await admin.close()


async def make_topics(kafka: str, *topics: str, partitions: int = 1, **configs: str) -> None:
    """Returns when they can be used. Topic settings in Python's spelling: `cleanup_policy="compact"`."""
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    await create_topics(kafka, *topics, partitions=partitions, configs=settings)


async def committed_records(
    kafka: str, topic: str, count: int = 0, timeout: float = 240, *, partitions: int = 0
) -> list[ConsumerRecord]:
    """All committed records of the topic, in the order of each partition, once there are `count` or more.

    `partitions`: the first so many; 0: all. `timeout`: seconds. Raises TimeoutError with how many records there are.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 << 20,
    )
    records: list[ConsumerRecord] = []
    async with consumer:
        if not partitions:
            await consumer._client.set_topics([topic])
        numbers = range(partitions) if partitions else sorted(consumer.partitions_for_topic(topic) or ())
        every = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(every)
        await consumer.seek_to_beginning(*every)

        async def fetch() -> None:
            for fetched in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(fetched)

        try:
            async with asyncio.timeout(timeout):
                while len(records) < count:
                    await fetch()
        except TimeoutError:
            raise TimeoutError(f"{len(records)} of {count} records on {topic} in {timeout} s") from None
        ends = await consumer.end_offsets(every)
        while any([await consumer.position(partition) < ends[partition] for partition in every]):
            await fetch()
    return records
