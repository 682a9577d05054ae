"""Checks of the topics at start.

A role refuses to start on unsuitable topics and prints the command that repairs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from moderation.errors import ConfigError
from moderation.kafka.clients import connected, connection_options, display_name
from moderation.settings import KafkaSettings

UNLIMITED = 1 << 31  # bytes; larger than any record
DEFAULT_PARTITIONS = 6  # of the command that creates a posts topic

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Topics:
    """What the cluster says of our topics."""

    cluster_id: str
    partitions: int  # of each topic
    max_message_bytes: int  # largest record that the first topic takes and our settings allow


async def check_topics(settings: KafkaSettings, names: Sequence[str]) -> Topics:
    """Connects and checks that the topics are there, with the same number of partitions.

    The first name is the posts topic. Raises ConfigError with the command that repairs the topics.
    """
    admin = AIOKafkaAdminClient(**connection_options(settings))

    async def ask() -> Topics:
        cluster = await admin.describe_cluster()
        # All topics are asked for: a question by name would create them where brokers do that.
        partitions = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
        missing = [name for name in names if name not in partitions]
        if missing:
            count = partitions.get(names[0], DEFAULT_PARTITIONS)
            raise _missing(settings, missing, count, min(3, len(cluster["brokers"])))
        for name in names[1:]:
            if partitions[name] != partitions[names[0]]:
                raise _unequal(settings, (names[0], partitions[names[0]]), (name, partitions[name]))
        if settings.verdicts_topic in names:
            await _check_compacted(admin, settings)
        limit = await _max_message_bytes(admin, names[0])
        return Topics(cluster["cluster_id"], partitions[names[0]], min(limit, settings.max_message_bytes))

    try:
        await connected(admin.start, settings)
        return await connected(ask, settings)  # the broker that is asked may be stopping or starting
    finally:
        await admin.close()


async def _max_message_bytes(admin: AIOKafkaAdminClient, topic: str) -> int:
    """The topic's limit. Where a broker does not let us ask, only the settings limit a record."""
    value = await _config(admin, topic, "max.message.bytes")
    return int(value) if value else UNLIMITED


async def _check_compacted(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    policy = await _config(admin, settings.verdicts_topic, "cleanup.policy")
    if policy not in ("", "compact"):
        log.warning(
            "verdicts_topic_not_compacted",
            topic=settings.verdicts_topic,
            cleanup_policy=policy,
            meaning="Kafka deletes verdicts by age, also of posts that are still looked up. Erasures may be lost.",
            command=f"kafka-configs.sh --bootstrap-server {settings.bootstrap} --alter "
            f"--topic {settings.verdicts_topic} --add-config cleanup.policy=compact",
        )


async def _config(admin: AIOKafkaAdminClient, topic: str, name: str) -> str:
    """The value of a topic's setting; empty where a broker does not let us ask."""
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: ""})])
    for code, _, _, _, entries in response.resources:
        for entry in entries if not code else ():
            return str(entry[1])
    return ""


def _missing(settings: KafkaSettings, missing: Sequence[str], partitions: int, replication: int) -> ConfigError:
    configs = {settings.verdicts_topic: "cleanup.policy=compact"}
    commands = [
        f"kafka-topics.sh --bootstrap-server {settings.bootstrap} --create --topic {name} --partitions {partitions} "
        f"--replication-factor {replication} "
        f"--config {configs.get(name, f'max.message.bytes={settings.max_message_bytes}')}"
        for name in missing
    ]
    several = len(missing) > 1
    subject = (
        f"topic{'s' if several else ''} {', '.join(missing)} do{'' if several else 'es'} not exist or cannot be read"
    )
    shorter = ""
    if settings.security_protocol == "PLAINTEXT":
        options = f"--partitions {partitions} --replication {replication}"
        shorter = f" with `moderation dev topics {options}`, or with Kafka's own tool"
    return ConfigError(
        f"{display_name(settings)}: {subject}. Create {'them' if several else 'it'}{shorter}:", commands=commands
    )


def _unequal(settings: KafkaSettings, posts: tuple[str, int], other: tuple[str, int]) -> ConfigError:
    """posts, other: a topic's name and its number of partitions."""
    (smaller, _), (larger, count) = sorted((posts, other), key=lambda topic: topic[1])
    return ConfigError(
        f"topic {other[0]} has {other[1]} partitions and topic {posts[0]} {posts[1]}; they must have the same number. "
        "Adding partitions moves keys: an erasure may miss an older verdict, and edits may overtake each other. "
        f"To give {smaller} as many as {larger}:",
        commands=[
            f"kafka-topics.sh --bootstrap-server {settings.bootstrap} --alter --topic {smaller} --partitions {count}"
        ],
    )
