"""Topics that are deleted and made again."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from moderation.kafka.topic_ids import topic_ids
from tests.support.topics import delete_topics, make_topics


async def id_of(bootstrap: str, topic: str) -> str:
    """The id that a broker gives for a topic; empty: the topic is not there."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    try:
        await client.bootstrap()
        return (await topic_ids(client, [topic])).get(topic, "")
    finally:
        await client.close()


async def make_again(bootstrap: str, *topics: str, **options: Any) -> None:
    """Deletes topics, and makes others with the same names. `options`: as of make_topics."""
    await delete_topics(bootstrap, topics)
    async with asyncio.timeout(60):
        for topic in topics:
            while True:
                try:
                    await make_topics(bootstrap, topic, **options)
                except KafkaError:  # it is not gone yet
                    continue
                break
