"""`moderation dev topics` creates what a deployment needs, and the check of topics warns of one that loses verdicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from moderation.dev.topics import create_missing_topics
from moderation.errors import ConfigError
from moderation.kafka.topics import check_topics
from moderation.settings import KafkaSettings
from tests.support.topics import make_topics


async def test_topics_of_a_deployment_are_created_once(kafka: str, names: Callable[[str], str]) -> None:
    settings = KafkaSettings(bootstrap=kafka, posts_topic=names("posts"), verdicts_topic=names("verdicts"))
    every = [settings.posts_topic, settings.verdicts_topic, settings.dead_letters]
    assert await create_missing_topics(settings, partitions=3, replication=1) == dict.fromkeys(every, True)
    assert await create_missing_topics(settings, partitions=3, replication=1) == dict.fromkeys(every, False)
    with pytest.raises(ConfigError, match=f"{settings.posts_topic} has 3 partitions.* not 12; no topic was created"):
        await create_missing_topics(settings, partitions=12, replication=1)
    assert await create_missing_topics(settings, partitions=2, replication=1) == dict.fromkeys(every, False)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        topics = await admin.describe_topics(every)
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in every]
        responses = [answer for resource in asked for answer in await admin.describe_configs([resource])]
    finally:
        await admin.close()
    assert [len(topic["partitions"]) for topic in topics] == [3, 3, 3]
    configs = [{entry[0]: entry[1] for entry in response.resources[0][4]} for response in responses]
    assert [each["cleanup.policy"] for each in configs] == ["delete", "compact", "delete"]
    assert [each["message.timestamp.type"] for each in configs] == ["LogAppendTime", "CreateTime", "CreateTime"]
    other = settings.model_copy(update={"verdicts_topic": names("others")})
    await make_topics(kafka, other.verdicts_topic, partitions=2)
    with pytest.raises(ConfigError, match="has 2 partitions"):
        await create_missing_topics(other, partitions=3, replication=1)


@pytest.mark.parametrize(("policy", "warns"), [("compact", False), ("delete", True), ("compact,delete", True)])
async def test_a_verdicts_topic_that_deletes_records_is_warned_about(
    kafka: str, names: Callable[[str], str], policy: str, warns: bool
) -> None:
    settings = KafkaSettings(bootstrap=kafka, posts_topic=names("posts"), verdicts_topic=names("verdicts"))
    await make_topics(kafka, settings.posts_topic)
    await make_topics(kafka, settings.verdicts_topic, cleanup_policy=policy)
    with structlog.testing.capture_logs() as logs:
        await check_topics(settings, [settings.posts_topic, settings.verdicts_topic])
    warnings = [event for event in logs if event["event"] == "verdicts_topic_not_compacted"]
    assert [event["cleanup_policy"] for event in warnings] == ([policy] if warns else [])
