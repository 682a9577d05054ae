"""Creates topics on a broker of a developer's machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from moderation.errors import ConfigError
from moderation.kafka import clients
from moderation.kafka.topics import check_topics, configs_of, partition_counts
from moderation.settings import KafkaSettings

READY_S = 90.0


@contextlib.asynccontextmanager
async def admin_client(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yields an admin client that is connected."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def create_topics(
    bootstrap: str,
    *names: str,
    partitions: int = 1,
    replication: int = 1,
    configs: Mapping[str, str] | None = None,
) -> None:
    """Creates the topics that do not exist yet. Returns when the topics can be used. Raises KafkaError."""
    topics = [NewTopic(name, partitions, replication, topic_configs=dict(configs or {})) for name in names]
    async with admin_client(bootstrap) as admin:
        response = await admin.create_topics(topics)
        for name, code, message in response.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise for_code(code)(f"topic {name}: {message}")
        # The controller has the topics before the brokers do. A group that subscribes too early waits minutes.
        async with asyncio.timeout(READY_S):
            while True:
                seen = await admin.describe_topics(list(names))
                if not any(topic["error_code"] or any(p["error_code"] for p in topic["partitions"]) for topic in seen):
                    return
                await asyncio.sleep(0.02)


async def create_service_topics(settings: KafkaSettings, *, partitions: int, replication: int = 1) -> None:
    """Creates the topics of a deployment that do not exist yet. Raises KafkaError."""
    for name in (settings.posts_topic, settings.verdicts_topic, settings.dead_letters):
        configs = configs_of(settings, name)
        await create_topics(settings.bootstrap, name, partitions=partitions, replication=replication, configs=configs)


async def create_missing_topics(settings: KafkaSettings, *, partitions: int, replication: int) -> dict[str, bool]:
    """Runs `moderation dev topics`: waits for the broker as a role does, then creates the topics.

    Returns each topic's name, and whether it was created. Raises ConfigError, also when a topic that was there has
    fewer partitions, or another number than one that is missing would get. Then none is created.
    """
    if settings.security_protocol != "PLAINTEXT":
        raise ConfigError(
            "MODERATION_KAFKA__SECURITY_PROTOCOL: `dev topics` works with PLAINTEXT brokers only; on other clusters "
            "their owner creates the topics"
        )
    names = [settings.posts_topic, settings.verdicts_topic, settings.dead_letters]
    before = await clients.connected(lambda: _partitions(settings.bootstrap, names), settings)
    too_few, others = min(before.values(), default=partitions) < partitions, set(before.values()) - {partitions}
    if too_few or (others and len(before) < len(names)):
        there = ", ".join(f"{name} has {count} partitions" for name, count in before.items())
        raise ConfigError(
            f"{settings.bootstrap}: {there}, not {partitions}; no topic was created. Topics keep their partitions: ask "
            "for as many as they all have, or read of more in deploy/README.md"
        )
    await clients.connected(
        lambda: create_service_topics(settings, partitions=partitions, replication=replication), settings
    )
    await check_topics(settings, names)
    return {name: name not in before for name in names}


async def _partitions(bootstrap: str, names: list[str]) -> dict[str, int]:
    """The number of partitions of each of these topics that exists."""
    async with admin_client(bootstrap) as admin:
        counts = await partition_counts(admin)
    return {name: counts[name] for name in names if name in counts}
