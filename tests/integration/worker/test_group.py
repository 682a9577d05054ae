"""Members of the workers' group that are no workers are named, with what they hold. The workers go on. A real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.kafka import group_members
from moderation.worker import group_watch
from tests.support.consumer_groups import new_member
from tests.support.harness import PARTITIONS, Harness, running
from tests.support.logged import events

Logged = Sequence[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_watch, "LOOK_S", 0.2)


def a_consumer(harness: Harness, client_id: str) -> AIOKafkaConsumer:
    """With the assignor of the workers."""
    options: dict[str, Any] = {"client_id": client_id, "partition_assignment_strategy": [StickyPartitionAssignor]}
    return AIOKafkaConsumer(
        harness.topics[0],
        bootstrap_servers=harness.kafka,
        group_id=harness.settings.kafka.group,
        enable_auto_commit=False,
        **options,
    )


def foreign() -> float:
    return REGISTRY.get_sample_value("moderation_group_foreign_members") or 0.0


async def until_named(logged: Logged, client_id: str) -> None:
    """Waits until the member is named with partitions that it holds, and counted."""
    async with asyncio.timeout(30):
        while not any(  # noqa: ASYNC110  the broker's state
            event["client_id"] == client_id and 0 < event["partitions"] < PARTITIONS
            for event in events(logged, "group_shared")
        ):
            await asyncio.sleep(0.05)
    assert foreign() == 1


async def until_alone() -> None:
    async with asyncio.timeout(30):
        while foreign() != 0:  # noqa: ASYNC110  the broker's state
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", ["same assignor", "new protocol", "worker with another verdicts topic"])
async def test_a_member_that_is_no_worker_is_named_until_it_leaves_and_the_worker_goes_on(
    harness: Harness, kind: str
) -> None:
    client_id = group_members.client_id("elsewhere") if kind.startswith("worker") else "billing"
    other: AbstractAsyncContextManager[Any]
    if kind == "new protocol":
        other = new_member(harness.kafka, harness.settings.kafka.group, harness.topics[0], client_id)
    else:
        other = a_consumer(harness, client_id)
    with capture_logs() as logged:
        async with running(harness) as worker:
            await harness.post(PARTITIONS)
            await harness.verdicts(PARTITIONS)
            async with other:
                await until_named(logged, client_id)
                assert not worker.done()
            await until_alone()
            await harness.post(PARTITIONS, start=PARTITIONS)
            await harness.expect_exactly(2 * PARTITIONS)
    named = events(logged, "group_shared")
    assert {event["client_id"] for event in named} == {client_id}
    assert all(event["host"] == "127.0.0.1" and event["log_level"] == "error" for event in named)
    assert len(named) <= PARTITIONS  # and not at each look


async def test_a_second_worker_is_no_foreigner(harness: Harness) -> None:
    with capture_logs() as logged:
        async with running(harness), running(harness):
            await harness.post(60)
            await harness.expect_exactly(60)
            await until_alone()
            await asyncio.sleep(1)  # some looks
    assert not events(logged, "group_shared")
    assert foreign() == 0
