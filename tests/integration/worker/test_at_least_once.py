"""Without transactions no post is lost, and what is answered twice is answered the same: against a real Kafka."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, RequestTimedOutError

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import clients
from moderation.worker.at_least_once import AtLeastOnce
from moderation.worker.messages import Message
from moderation.worker.suspects import Opening
from tests.integration.worker.test_role import PROCESS
from tests.support.harness import Fickle, Field, running


@pytest.fixture
def weak(field: Field) -> Field:
    return field.on(delivery="at_least_once")


async def test_in_calm_each_post_gets_one_verdict_in_order_and_no_transaction_is_asked_for(
    weak: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()
    send = AIOKafkaClient.send

    async def watched(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
        asked.add(type(request).__name__.partition("Request")[0])
        return await send(client, node, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", watched)
    async with running(weak):
        await weak.post(200)
        await weak.expect_exactly(200)
    assert {"Produce", "OffsetCommit"} <= asked
    assert not [name for name in asked if "Txn" in name or "InitProducer" in name]


async def test_a_restart_goes_on_where_the_last_worker_stopped(weak: Field) -> None:
    await weak.post(60)
    async with running(weak.with_("fake?step_ms=30", batch_tokens=32)):
        await weak.verdicts(20)
    await weak.post(40, start=60)
    async with running(weak):
        await weak.expect_exactly(100)


async def test_partitions_move_to_a_second_worker_and_back_in_calm_without_repetition(weak: Field) -> None:
    slow = weak.with_("fake?step_ms=20", batch_tokens=64)
    async with running(slow):
        await slow.post(100)
        await slow.verdicts(10)
        async with running(slow):
            await slow.post(100, start=100)
            await slow.verdicts(120)
        await slow.post(50, start=200)
        await slow.expect_exactly(250)


async def test_a_crash_between_publishing_and_committing_repeats_the_same_verdict(
    weak: Field, fickle: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = AIOKafkaConsumer.commit

    async def fail(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        if any(position for position, _ in offsets.values()):
            raise KafkaError
        await commit(consumer, offsets)  # that a post is in hand

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaConsumer, "commit", fail)
        with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
            async with running(weak) as task:
                await weak.post(1)
                await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeliveryError, match="publishing or committing")
    async with running(weak):
        first, again = await weak.verdicts(2)
    assert (first["origin"], again["origin"]) == ("ORIGIN_MODEL", "ORIGIN_CACHE")
    assert again["findings"] == first["findings"]
    assert again["source"] == first["source"]
    assert fickle.asked == ["this is number 0"]


async def test_workers_that_are_killed_lose_nothing_and_contradict_nothing(weak: Field) -> None:
    slow = weak.with_("fake?step_ms=15", batch_tokens=48)
    await slow.post(300)
    for enough in (40, 120):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, env=os.environ | slow.environment, stderr=asyncio.subprocess.DEVNULL
        )
        await slow.verdicts(enough)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with running(weak):
        found = await until_all(weak, 300)
    decided: dict[str, set[str]] = {}
    for one in found:
        decided.setdefault(one["postId"], set()).add(one["decidedAt"])
    assert {len(times) for times in decided.values()} == {1}


async def until_all(field: Field, posts: int) -> list[dict[str, Any]]:
    """All verdicts, once there is one of each post."""
    found = await field.verdicts(posts, timeout=90)
    while len({one["postId"] for one in found}) < posts:
        found = await field.verdicts(len(found) + 1, timeout=90)
    return found


# The publisher alone


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of the group that has all partitions."""

    def __init__(self, field: Field) -> None:
        self._settings = field.settings.kafka
        self.consumer = clients.consumer(self._settings, group_id=self._settings.group)
        self.assigned = asyncio.Event()
        self.partition = TopicPartition(self._settings.posts_topic, 0)

    async def on_partitions_revoked(self, revoked: object) -> None:
        pass

    async def on_partitions_assigned(self, assigned: object) -> None:
        self.assigned.set()

    def publisher(self) -> AtLeastOnce:
        async def commit(position: int, metadata: str) -> None:
            await self.consumer.commit({self.partition: (position, metadata)})

        async def position() -> Opening:
            return Opening(await self.committed() or 0)

        return AtLeastOnce(self._settings, 0, position, commit)

    async def committed(self) -> int | None:
        position: int | None = await self.consumer.committed(self.partition)
        return position


@pytest.fixture
async def member(weak: Field) -> AsyncIterator[Member]:
    member = Member(weak)
    await member.consumer.start()
    member.consumer.subscribe([weak.topics[0]], listener=member)
    async with asyncio.timeout(20):
        await member.assigned.wait()
    yield member
    await clients.stop(member.consumer)


async def test_a_member_of_a_past_generation_commits_nothing(weak: Field, member: Member) -> None:
    async with member.publisher() as publisher:
        await publisher.publish([Message(weak.topics[1], b"1", b"1", ())], 1)
        member.assigned.clear()
        member.consumer._coordinator.generation -= 1  # as in one that slept through a rebalance
        with pytest.raises(DeliveryError, match="CommitFailedError"):
            await publisher.publish([Message(weak.topics[1], b"2", b"2", ())], 2)
    async with asyncio.timeout(20):
        await member.assigned.wait()  # back in the group
    assert await member.committed() == 1


async def test_a_record_too_large_is_cut_and_nothing_behind_it_overtakes_it(weak: Field, member: Member) -> None:
    topic, large = weak.topics[1], b"x" * (5 << 20)

    def cut() -> Message:
        return Message(topic, b"cut", b"", ())

    several = [Message(topic, value[:3], value, (), cut) for value in (b"1", b"2", large, b"3", large, b"4", b"5")]
    async with member.publisher() as publisher:
        await publisher.publish(several, 7)
        assert await member.committed() == 7
        with pytest.raises(ConfigError, match="refuses a record"):
            await publisher.publish([Message(topic, b"6", large, ())], 8)
    keys = [record.key for record in await weak.read(topic, 7)]
    assert keys == [b"1", b"2", b"cut", b"3", b"cut", b"4", b"5"]
    assert await member.committed() == 7


async def test_a_lost_reply_repeats_and_loses_nothing(
    weak: Field, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ["Produce"]
    send = AIOKafkaClient.send

    async def lossy(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
        reply = await send(client, node, request, **options)
        if lost and type(request).__name__.startswith(lost[0]):
            lost.clear()
            raise RequestTimedOutError
        return reply

    async with member.publisher() as publisher:
        await publisher.publish([Message(weak.topics[1], b"0", b"0", ())], 1)
        monkeypatch.setattr(AIOKafkaClient, "send", lossy)
        await publisher.publish([Message(weak.topics[1], key, key, ()) for key in (b"1", b"2")], 3)
    keys = [record.key for record in await weak.read(weak.topics[1], 5)]
    assert keys == [b"0", b"1", b"2", b"1", b"2"]
    assert await member.committed() == 3
