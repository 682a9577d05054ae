"""What is asked of the cluster at start, of a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from structlog.testing import capture_logs

from moderation.dev.topics import create_topics
from moderation.errors import ConfigError
from moderation.kafka.topics import Topics, check_topics
from moderation.settings import KafkaSettings
from tests.support.topics import make_topics

Names = Callable[[str], str]


async def test_topics_that_fit(kafka: str, names: Names) -> None:
    posts, verdicts = names("posts"), names("verdicts")
    await make_topics(kafka, posts, partitions=3, max_message_bytes="5000")
    await make_topics(kafka, verdicts, partitions=3)
    topics = await check_topics(KafkaSettings(bootstrap=kafka), [posts, verdicts])
    assert topics.cluster_id
    assert (topics.partitions, topics.max_message_bytes) == (3, 5000)
    other = await check_topics(KafkaSettings(bootstrap=kafka, max_message_bytes=2000), [posts, verdicts])
    assert other == Topics(topics.cluster_id, 3, 2000)


async def test_a_broker_that_is_lost_while_it_is_asked_is_no_mistake_of_the_operators(
    kafka: str, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = names("posts")
    await make_topics(kafka, posts, partitions=3)
    describe, lost = AIOKafkaAdminClient.describe_topics, [NodeNotReadyError(), KafkaConnectionError()]

    async def lossy(admin: AIOKafkaAdminClient, *arguments: Any) -> Any:
        if lost:
            raise lost.pop()
        return await describe(admin, *arguments)

    monkeypatch.setattr(AIOKafkaAdminClient, "describe_topics", lossy)
    assert (await check_topics(KafkaSettings(bootstrap=kafka), [posts])).partitions == 3


@pytest.mark.parametrize(
    ("configs", "keep_s", "settings"),
    [
        ({}, 900.0, {}),
        ({"retention.ms": "-1"}, 1e6, {}),
        ({"retention.ms": "86400000"}, 86_400.0, {}),
        ({"retention.ms": "3600000"}, 900.0, {"retention.ms": "604800000"}),
        ({"retention.ms": "604800000"}, 1e6, {"retention.ms": "1000000000"}),
        ({"cleanup.policy": "compact", "retention.ms": "1000"}, 900.0, {"cleanup.policy": "delete"}),
        (
            {"cleanup.policy": "compact,delete", "retention.ms": "1000"},
            900.0,
            {"cleanup.policy": "delete", "retention.ms": "604800000"},
        ),
        ({"unclean.leader.election.enable": "true"}, 900.0, {"unclean.leader.election.enable": "false"}),
    ],
)
async def test_settings_with_which_posts_are_lost_come_with_the_command_that_changes_them(
    kafka: str, names: Names, configs: dict[str, str], keep_s: float, settings: dict[str, str]
) -> None:
    posts = names("posts")
    await create_topics(kafka, posts, partitions=1, configs=configs)
    with capture_logs() as events:
        await check_topics(KafkaSettings(bootstrap=kafka, posts_topic=posts), [posts], keep_s=keep_s)
        await check_topics(KafkaSettings(bootstrap=kafka, posts_topic=posts), [posts])  # nothing is read from it
    assert {event["setting"]: event["command"] for event in events} == {
        name: f"kafka-configs.sh --bootstrap-server {kafka} --alter --topic {posts} --add-config {name}={value}"
        for name, value in settings.items()
    }


async def test_missing_topics_come_with_the_commands_that_create_them(kafka: str, names: Names) -> None:
    posts, verdicts, dead = names("posts"), names("verdicts"), names("dead")
    await make_topics(kafka, posts, partitions=3)
    settings = KafkaSettings(bootstrap=kafka, verdicts_topic=verdicts, dead_letter_topic=dead)
    with pytest.raises(ConfigError) as caught:
        await check_topics(settings, [posts, verdicts, dead])
    lines = str(caught.value).splitlines()
    create = f"  kafka-topics.sh --bootstrap-server {kafka} --create"
    assert lines[1].startswith(f"{create} --topic {verdicts} --partitions 3 --replication-factor 1")
    assert lines[1].endswith("--config cleanup.policy=compact")
    assert lines[2].startswith(f"{create} --topic {dead} --partitions 3")
    assert lines[2].endswith("--config max.message.bytes=20971520")
    assert "`moderation dev topics --partitions 3 --replication 1`" in lines[0]
    assert [f"  {command}" for command in caught.value.commands] == lines[1:]


@pytest.mark.parametrize(("of_posts", "of_verdicts"), [(3, 2), (2, 3)])
async def test_partition_counts_must_match(kafka: str, names: Names, of_posts: int, of_verdicts: int) -> None:
    posts, verdicts = names("posts"), names("verdicts")
    await make_topics(kafka, posts, partitions=of_posts)
    await make_topics(kafka, verdicts, partitions=of_verdicts)
    with pytest.raises(ConfigError) as caught:
        await check_topics(KafkaSettings(bootstrap=kafka), [posts, verdicts])
    few = verdicts if of_verdicts < of_posts else posts
    assert f"--alter --topic {few} --partitions 3" in str(caught.value)
