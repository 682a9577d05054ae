"""A worker is ready once its group has settled: a rollout that goes on earlier leaves partitions without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from tests.support.harness import PARTITIONS, Harness, running
from tests.support.operations_port import Port
from tests.support.topics import make_topics

UNSETTLED_S = 2.0  # in which a worker that did not wait for its group would be ready


class Holding(ConsumerRebalanceListener):  # type: ignore[misc]
    """Holds a rebalance back, as a worker with posts in hand does."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.release = asyncio.Event()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            self.held.set()
            await self.release.wait()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Nothing to do."""


async def test_a_worker_is_ready_once_its_group_has_settled(harness: Harness) -> None:
    port, holding = Port(), Holding()
    kafka = harness.settings.kafka
    async with AIOKafkaConsumer(
        bootstrap_servers=harness.kafka,
        group_id=kafka.group,
        enable_auto_commit=False,
        session_timeout_ms=kafka.session_timeout_ms,
        max_poll_interval_ms=60_000,
        rebalance_timeout_ms=60_000,
        partition_assignment_strategy=[StickyPartitionAssignor],  # the workers'
    ) as other:
        other.subscribe([kafka.posts_topic], listener=holding)
        async with asyncio.timeout(30):
            while len(other.assignment()) < PARTITIONS:  # noqa: ASYNC110  aiokafka has no event for it
                await asyncio.sleep(0.05)
        async with running(harness.with_port(port.settings)):
            await asyncio.wait_for(holding.held.wait(), 30)
            await asyncio.sleep(UNSETTLED_S)
            assert (await port.get("/startupz"))[0] == 200
            assert (await port.get("/readyz"))[0] == 503
            holding.release.set()
            await port.well("/readyz")
            await port.until(lambda value: value == PARTITIONS / 2, "moderation_worker_partitions")


async def test_a_worker_for_which_no_partition_is_left_is_ready_too(
    harness: Harness, names: Callable[[str], str]
) -> None:
    """More workers than partitions, as while a cluster scales."""
    single = harness.with_kafka(posts_topic=names("posts-1"), verdicts_topic=names("verdicts-1"))
    await make_topics(harness.kafka, *single.topics, partitions=1)
    first, second = Port(), Port()
    async with running(single.with_port(first.settings)):
        await first.well("/readyz")
        async with running(single.with_port(second.settings)):
            await second.well("/readyz")
            assert (await first.get("/readyz"))[0] == 200
