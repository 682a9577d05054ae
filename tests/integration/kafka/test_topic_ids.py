"""Ids of topics, as a real broker gives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient

from moderation.kafka.topic_ids import is_topic_id, topic_ids

ROUNDS_S = 0.05


@pytest.fixture
async def client(kafka: str) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    yield client
    await client.close()


async def until_known(client: AIOKafkaClient, name: str, *, known: bool = True) -> str:
    """The id of the topic once it is known, or no longer is."""
    async with asyncio.timeout(20):
        while bool(ids := await topic_ids(client, [name])) != known:  # noqa: ASYNC110  the broker's state
            await asyncio.sleep(ROUNDS_S)
    return ids.get(name, "")


async def test_a_topic_that_is_made_again_has_another_id(
    kafka: str, client: AIOKafkaClient, names: Callable[[str], str]
) -> None:
    name = names("posts")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        assert await topic_ids(client, [name]) == {}  # and the question does not make the topic
        assert await topic_ids(client, [name]) == {}
        await admin.create_topics([NewTopic(name, 2, 1)])
        first = await until_known(client, name)
        assert await topic_ids(client, [name, f"{name}-none"], client.get_random_node()) == {name: first}
        assert is_topic_id(first)
        await admin.delete_topics([name])
        await until_known(client, name, known=False)
        await admin.create_topics([NewTopic(name, 2, 1)])
        second = await until_known(client, name)
    finally:
        await admin.close()
    assert second != first


def test_an_id_is_22_characters_of_base64url() -> None:
    assert is_topic_id("AAAAAAAAAAAAAAAAAAAAAA")
    assert is_topic_id("x-_9AAAAAAAAAAAAAAAAAg")
    for text in ("", "A" * 21, "A" * 23, "A" * 21 + "B", "A" * 21 + "=", "A" * 20 + "+A", str(UUID(int=1))):
        assert not is_topic_id(text)
