"""What brokers refuse to a worker is named as what it is, and says what to do, on a real broker that refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from moderation import lifecycle
from moderation.errors import ModerationError
from tests.support.commands import Role
from tests.support.harness import PARTITIONS, Harness, a_value, running
from tests.support.share_groups import join_share_group
from tests.support.topics import delete_topics


@asynccontextmanager
async def ended() -> AsyncIterator[list[ModerationError]]:
    """What ends the worker that runs in the block is in the list afterwards."""
    found: list[ModerationError] = []
    with pytest.raises((ModerationError, BaseExceptionGroup)) as crash:
        yield found
    error = lifecycle.moderation_error(crash.value)
    assert error is not None
    print(f"\nexit code {error.exit_code}: {error}")  # what an operator sees, with -rP
    assert "reset-offsets" not in str(error)
    found.append(error)


async def set_topic(kafka: str, topic: str, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        values = {name.replace("_", "."): value for name, value in configs.items()}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, values)])
    finally:
        await admin.close()


async def test_a_group_of_another_kind_is_named_with_what_to_do(harness: Harness) -> None:
    group = harness.settings.kafka.group
    options: dict[str, Any] = {"group_id": group, "partition_assignment_strategy": [RangePartitionAssignor]}
    other = AIOKafkaConsumer(harness.topics[0], bootstrap_servers=harness.kafka, **options)
    async with other, ended() as errors, running(harness) as worker:
        await asyncio.wait([worker], timeout=30)
    (error,) = errors
    assert error.exit_code == 2
    assert f"group {group} is used by consumers or tools of another kind" in str(error)
    assert "MODERATION_KAFKA__GROUP" in str(error)


async def test_a_share_group_is_named_with_what_to_do(harness: Harness) -> None:
    group = harness.settings.kafka.group
    await join_share_group(harness.kafka, group, harness.topics[0])
    async with ended() as errors, running(harness) as worker:
        await asyncio.wait([worker], timeout=30)
    (error,) = errors
    assert error.exit_code == 2
    assert f"group {group} is used by consumers or tools of another kind" in str(error)


async def test_a_deadline_names_the_topic_whose_refusals_went_on_until_then(harness: Harness) -> None:
    """aiokafka tries again until the transaction's deadline, and then only the deadline is raised."""
    verdicts = harness.topics[1]
    with Role("worker", environment=harness.environment) as worker:
        await harness.post(PARTITIONS)
        await harness.verdicts(PARTITIONS)
        await delete_topics(harness.kafka, [verdicts])
        await harness.produce((0, b"a", a_value(1), []))
        assert worker.wait() == 4
    message = worker.wait_for("process_crashed")["message"]
    assert f"UnknownTopicOrPartitionError: topic {verdicts} does not exist any more" in message


async def test_a_record_that_a_topic_does_not_take_is_named_with_the_topic(harness: Harness) -> None:
    await set_topic(harness.kafka, harness.topics[2], cleanup_policy="compact")
    async with ended() as errors, running(harness) as worker:
        await harness.produce((0, None, b"{", []))
        await asyncio.wait([worker], timeout=30)
    (error,) = errors
    assert error.exit_code == 2
    assert f"InvalidRecord: topic {harness.topics[2]} refuses a record: a compacted topic" in str(error)


@pytest.mark.parametrize(("setting", "value"), [("transaction_timeout_ms", 900_001), ("session_timeout_ms", 1_800_001)])
async def test_a_time_that_brokers_do_not_allow_names_its_setting(harness: Harness, setting: str, value: int) -> None:
    async with ended() as errors, running(harness.with_kafka(**{setting: value})) as worker:
        await asyncio.wait([worker], timeout=30)
    (error,) = errors
    assert error.exit_code == 2
    assert f"MODERATION_KAFKA__{setting.upper()} is " in str(error)


async def test_another_service_that_uses_a_transactional_id_is_named(harness: Harness) -> None:
    settings = harness.settings.kafka
    async with ended() as errors, running(harness) as worker:
        await harness.post(PARTITIONS)
        await harness.verdicts(PARTITIONS)
        id = f"{settings.group}-{settings.posts_topic}-0"
        async with AIOKafkaProducer(bootstrap_servers=harness.kafka, transactional_id=id):
            await harness.produce((0, b"a", a_value(1), []))
            await asyncio.wait([worker], timeout=30)
    (error,) = errors
    assert error.exit_code == 4
    assert f"another producer uses the transactional id {id}" in str(error)
