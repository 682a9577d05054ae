"""Without transactions, no post is lost and repeated verdicts are equal. What also holds with transactions is tested in
test_role.py and test_suspects.py, for both. Against a real Kafka.
"""

from __future__ import annotations

import asyncio
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
from moderation.worker.opening import Opening
from tests.support.harness import Fickle, Harness, kill_two_workers, running


@pytest.fixture
def at_least_once(harness: Harness) -> Harness:
    return harness.with_kafka(delivery="at_least_once")


async def test_without_faults_each_post_gets_one_verdict_in_order_and_no_transaction_is_requested(
    at_least_once: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = set()
    send = AIOKafkaClient.send

    async def watched(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
        requests.add(type(request).__name__.partition("Request")[0])
        return await send(client, node, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", watched)
    async with running(at_least_once):
        await at_least_once.post(200)
        await at_least_once.expect_exactly(200)
    assert {"Produce", "OffsetCommit"} <= requests
    assert not [name for name in requests if "Txn" in name or "InitProducer" in name]


async def test_a_crash_between_publishing_and_committing_repeats_the_same_verdict(
    at_least_once: Harness, fickle: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = AIOKafkaConsumer.commit

    async def fail(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        if any(position for position, _ in offsets.values()):
            raise KafkaError
        await commit(consumer, offsets)  # the mark that posts are in hand

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaConsumer, "commit", fail)
        with pytest.raises(BaseExceptionGroup) as crash:  # noqa: PT012
            async with running(at_least_once) as task:
                await at_least_once.post(1)
                await asyncio.wait([task], timeout=30)
    assert crash.group_contains(DeliveryError, match=r"committing .* has failed: KafkaError")
    async with running(at_least_once):
        first, again = await at_least_once.verdicts(2)
    assert (first["origin"], again["origin"]) == ("ORIGIN_MODEL", "ORIGIN_CACHE")
    assert again["findings"] == first["findings"]
    assert again["source"] == first["source"]
    assert fickle.asked == ["this is number 0"]


async def test_workers_that_are_killed_lose_no_post_and_contradict_no_verdict(at_least_once: Harness) -> None:
    await kill_two_workers(at_least_once)
    async with running(at_least_once):
        verdicts = await until_all(at_least_once, 300)
    decided: dict[str, set[str]] = {}
    for verdict in verdicts:
        decided.setdefault(verdict["postId"], set()).add(verdict["decidedAt"])
    assert {len(times) for times in decided.values()} == {1}


async def until_all(harness: Harness, posts: int) -> list[dict[str, Any]]:
    """Returns all verdicts, once each post has one."""
    verdicts = await harness.verdicts(posts, timeout=90)
    while len({verdict["postId"] for verdict in verdicts}) < posts:
        verdicts = await harness.verdicts(len(verdicts) + 1, timeout=90)
    return verdicts


# The publisher alone


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of the group that owns all partitions."""

    def __init__(self, harness: Harness) -> None:
        self._settings = harness.settings.kafka
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
async def member(at_least_once: Harness) -> AsyncIterator[Member]:
    member = Member(at_least_once)
    await member.consumer.start()
    member.consumer.subscribe([at_least_once.topics[0]], listener=member)
    async with asyncio.timeout(20):
        await member.assigned.wait()
    yield member
    await clients.stop(member.consumer)


async def test_a_member_of_a_past_generation_commits_nothing(at_least_once: Harness, member: Member) -> None:
    async with member.publisher() as publisher:
        await publisher.publish([Message(at_least_once.topics[1], b"1", b"1", ())], 1)
        member.assigned.clear()
        member.consumer._coordinator.generation -= 1  # as in one that slept through a rebalance
        with pytest.raises(DeliveryError, match="CommitFailedError"):
            await publisher.publish([Message(at_least_once.topics[1], b"2", b"2", ())], 2)
    async with asyncio.timeout(20):
        await member.assigned.wait()  # back in the group
    assert await member.committed() == 1


async def test_a_record_too_large_is_cut_and_no_later_one_overtakes_it(at_least_once: Harness, member: Member) -> None:
    topic, large = at_least_once.topics[1], b"x" * (5 << 20)

    def cut() -> Message:
        return Message(topic, b"cut", b"", ())

    several = [Message(topic, value[:3], value, (), cut) for value in (b"1", b"2", large, b"3", large, b"4", b"5")]
    async with member.publisher() as publisher:
        await publisher.publish(several, 7)
        assert await member.committed() == 7
        with pytest.raises(ConfigError, match="refuses a record"):
            await publisher.publish([Message(topic, b"6", large, ())], 8)
    keys = [record.key for record in await at_least_once.read(topic, 7)]
    assert keys == [b"1", b"2", b"cut", b"3", b"cut", b"4", b"5"]
    assert await member.committed() == 7


async def test_a_lost_reply_repeats_and_loses_nothing(
    at_least_once: Harness, member: Member, monkeypatch: pytest.MonkeyPatch
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
        await publisher.publish([Message(at_least_once.topics[1], b"0", b"0", ())], 1)
        monkeypatch.setattr(AIOKafkaClient, "send", lossy)
        await publisher.publish([Message(at_least_once.topics[1], key, key, ()) for key in (b"1", b"2")], 3)
    keys = [record.key for record in await at_least_once.read(at_least_once.topics[1], 5)]
    assert keys == [b"0", b"1", b"2", b"1", b"2"]
    assert await member.committed() == 3
