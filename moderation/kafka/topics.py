"""Checks of the topics at start.

A role refuses to start on unsuitable topics and prints the command that repairs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.metadata import MetadataRequest

from moderation.errors import ConfigError
from moderation.kafka import refusals, tools
from moderation.kafka.clients import connected, connection_options, display_name
from moderation.settings import KafkaSettings

UNLIMITED = 1 << 31  # bytes; larger than any record
KEEP_S = 24 * 3600.0  # that posts wait at least: workers may be away for a night
RETENTION_MS = 7 * 24 * 3600 * 1000  # Kafka's default
DEFAULT_PARTITIONS = 6  # of the command that creates a posts topic

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Topics:
    """What the cluster says of our topics."""

    cluster_id: str
    partitions: int  # of each topic
    max_message_bytes: int  # largest record that the first topic takes and our settings allow


async def partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """The number of partitions of every topic. A question by name would create the topic where brokers do that."""
    return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}


async def partitions_of(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, int]:
    """Returns how many partitions each topic has. Raises ConfigError for one that is not there or cannot be seen."""
    admin = AIOKafkaAdminClient(**connection_options(settings))
    try:
        await connected(admin.start, settings)
        counts = await partition_counts(admin)
        if missing := [topic for topic in topics if topic not in counts]:
            await _check_visible(admin, settings, missing)
            raise ConfigError(f"{display_name(settings)}: topic {missing[0]} does not exist")
    finally:
        await admin.close()
    return {topic: counts[topic] for topic in topics}


async def check_topics(settings: KafkaSettings, names: Sequence[str], *, keep_s: float = 0.0) -> Topics:
    """Connects and checks that the topics are there, with the same number of partitions.

    The first name is the posts topic. keep_s: how long it must keep records that wait for a worker; 0: nothing is read
    from it. Raises ConfigError with the command that repairs the topics or gives the right to see them, and
    DeliveryError if no broker is reached.
    """
    admin = AIOKafkaAdminClient(**connection_options(settings))

    async def ask() -> Topics:
        cluster = await admin.describe_cluster()
        partitions = await partition_counts(admin)
        missing = [name for name in names if name not in partitions]
        if missing:
            await _check_visible(admin, settings, missing)
            count = partitions.get(names[0], DEFAULT_PARTITIONS)
            raise _missing(settings, missing, count, min(3, len(cluster["brokers"])))
        for name in names[1:]:
            if partitions[name] != partitions[names[0]]:
                raise _unequal(settings, (names[0], partitions[names[0]]), (name, partitions[name]))
        if settings.verdicts_topic in names:
            await _check_compacted(admin, settings)
        if keep_s:
            await _check_keeps(admin, settings, keep_s)
        limit = await _max_message_bytes(admin, names[0])
        return Topics(cluster["cluster_id"], partitions[names[0]], min(limit, settings.max_message_bytes))

    try:
        await connected(admin.start, settings)
        return await connected(ask, settings)  # the broker that is asked may be stopping or starting
    finally:
        await admin.close()


async def _check_visible(admin: AIOKafkaAdminClient, settings: KafkaSettings, names: Sequence[str]) -> None:
    """Raises ConfigError for a topic that is hidden from this role: a list of all topics leaves it out silently."""
    response = await admin._send_request(MetadataRequest(list(names), allow_auto_topic_creation=False))
    for topic in response.to_object()["topics"]:
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            what = f"{display_name(settings)}: topic {topic['topic']} cannot be seen"
            raise refusals.missing_right(settings, what, "Describe", "topic", topic["topic"])


def configs_of(settings: KafkaSettings, name: str) -> dict[str, str]:
    """The settings that our topics are created with. A topic that exists keeps its own."""
    size = {"max.message.bytes": str(settings.max_message_bytes)}
    if name == settings.verdicts_topic:
        return size | {"cleanup.policy": "compact"}  # the latest verdict of each post is kept
    if name == settings.posts_topic:
        return size | {"message.timestamp.type": "LogAppendTime"}  # order and ages depend on no producer's clock
    return size


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
            command=tools.command(
                settings,
                "kafka-configs.sh",
                f"--alter --topic {settings.verdicts_topic} --add-config cleanup.policy=compact",
            ),
        )


async def _check_keeps(admin: AIOKafkaAdminClient, settings: KafkaSettings, keep_s: float) -> None:
    """Warns of settings of the posts topic with which Kafka may remove posts before they are judged."""
    names = "cleanup.policy", "retention.ms", "unclean.leader.election.enable"
    values = {name: await _config(admin, settings.posts_topic, name) for name in names}
    retention = int(values["retention.ms"] or -1)
    keep_ms = int(1000 * max(keep_s, KEEP_S))
    right: dict[str, tuple[str, str]] = {}
    if "compact" in values["cleanup.policy"]:
        meaning = "Kafka removes a post before it is judged if another record with its key follows, such as an edit."
        right["cleanup.policy"] = "delete", meaning
    if "delete" in values["cleanup.policy"] and 0 <= retention < keep_ms:
        meaning = f"Kafka removes posts that wait longer than {retention // 1000} s for a worker or a model server."
        right["retention.ms"] = str(max(RETENTION_MS, keep_ms)), meaning
    if values["unclean.leader.election.enable"] == "true":
        right["unclean.leader.election.enable"] = "false", "A broker without all posts may become the leader."
    for name, (value, meaning) in right.items():
        log.warning(
            "posts_topic_loses_records",
            topic=settings.posts_topic,
            setting=name,
            value=values[name],
            meaning=meaning,
            command=tools.command(
                settings, "kafka-configs.sh", f"--alter --topic {settings.posts_topic} --add-config {name}={value}"
            ),
        )


async def _config(admin: AIOKafkaAdminClient, topic: str, name: str) -> str:
    """The value of a topic's setting; empty where a broker does not let us ask."""
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: ""})])
    for code, _, _, _, entries in response.resources:
        for entry in entries if not code else ():
            return str(entry[1])
    return ""


def _missing(settings: KafkaSettings, missing: Sequence[str], partitions: int, replication: int) -> ConfigError:
    commands = [
        tools.command(
            settings,
            "kafka-topics.sh",
            f"--create --topic {name} --partitions {partitions} --replication-factor {replication} "
            + " ".join(f"--config {key}={value}" for key, value in configs_of(settings, name).items()),
        )
        for name in missing
    ]
    several = len(missing) > 1
    subject = f"topic{'s' if several else ''} {', '.join(missing)} do{'' if several else 'es'} not exist"
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
        commands=[partitions_command(settings, smaller, count)],
    )


def partitions_command(settings: KafkaSettings, topic: str, count: int) -> str:
    """The command that gives a topic so many partitions."""
    return tools.command(settings, "kafka-topics.sh", f"--alter --topic {topic} --partitions {count}")
