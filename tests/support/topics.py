"""Topics of one test, and a loop apart from the tests' loops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
