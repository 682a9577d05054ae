"""Records that Kafka removes before they are judged are said; gaps without records are not. Against a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.dev.kafka import LocalKafka
from moderation.kafka import clients
from moderation.kafka.topic_ids import topic_ids
from moderation.worker import offset_metadata
from moderation.worker.offset_metadata import Log
from moderation.worker.suspects import Mark
from tests.support.harness import PARTITIONS, Harness, a_harness, a_value, running
from tests.support.topics import make_topics

Events = Sequence[MutableMapping[str, Any]]


@asynccontextmanager
async def administering(harness: Harness) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def put(harness: Harness, numbers: range, partition: int = 0) -> None:
    await harness.produce(*((partition, b"key", a_value(number), ()) for number in numbers))


async def remove(harness: Harness, before: int, partition: int = 0) -> None:
    """Removes the records before this offset, as retention does."""
    async with administering(harness) as admin:
        await admin.delete_records({TopicPartition(harness.topics[0], partition): RecordsToDelete(before)})


async def recreate(harness: Harness, partitions: int = PARTITIONS) -> None:
    """Deletes the posts topic and makes it again."""
    topic = harness.topics[0]
    async with administering(harness) as admin:
        await admin.delete_topics([topic])
        async with asyncio.timeout(30):
            while topic in await admin.list_topics():  # noqa: ASYNC110  the broker's state
                await asyncio.sleep(0.05)
            while True:
                try:
                    await admin.create_topics([NewTopic(topic, partitions, 1)])
                    break
                except KafkaError:  # its folder is being removed
                    await asyncio.sleep(0.2)
    await make_topics(harness.kafka, topic, partitions=partitions)


async def topic_id(harness: Harness) -> str:
    consumer = clients.consumer(harness.settings.kafka)
    await consumer.start()
    try:
        return (await topic_ids(consumer._client, [harness.topics[0]]))[harness.topics[0]]
    finally:
        await clients.stop(consumer)


async def leave(harness: Harness, position: int, metadata: str = "", partition: int = 0) -> None:
    """Commits, as kafka-consumer-groups.sh does."""
    place = TopicPartition(harness.topics[0], partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=harness.kafka, group_id=harness.settings.kafka.group, enable_auto_commit=False
    )
    async with consumer:
        consumer.assign([place])
        await consumer.commit({place: (position, metadata)})


async def committed(harness: Harness, partition: int = 0) -> tuple[int, str]:
    async with administering(harness) as admin:
        offsets = await admin.list_consumer_group_offsets(harness.settings.kafka.group)
    stored = offsets.get(TopicPartition(harness.topics[0], partition))
    return (stored.offset, stored.metadata) if stored else (-1, "")


async def reaches(harness: Harness, position: int, partition: int = 0) -> None:
    """Waits until the group has committed this position."""
    async with asyncio.timeout(20):
        while (await committed(harness, partition))[0] != position:  # noqa: ASYNC110  the broker's state
            await asyncio.sleep(0.05)


async def judged(harness: Harness, count: int) -> list[tuple[str, int]]:
    """Id of the post, and offset of its record, of each verdict, once there are so many. Waits for no more."""
    verdicts = await harness.verdicts(count)
    return [(verdict["postId"], int(verdict["source"].get("offset", 0))) for verdict in verdicts]


def named(events: Events, *names: str) -> list[tuple[Any, ...]]:
    fields = ("cause", "committed", "position", "records")
    return [tuple(event.get(field) for field in fields) for event in events if event["event"] in names]


def losses(events: Events) -> list[tuple[Any, ...]]:
    """Cause, offset from which on records are lost, offset at which the worker goes on, and number of records."""
    return named(events, "records_lost")


def counted(cause: str, partition: int = 0) -> float:
    labels = {"topic": "posts", "partition": str(partition), "cause": cause}
    return REGISTRY.get_sample_value("moderation_records_lost_total", labels) or 0


async def test_what_retention_removed_while_workers_were_away_is_said_once_and_the_rest_is_judged(
    each_delivery: Harness,
) -> None:
    before = counted("retention")
    async with running(each_delivery):
        await put(each_delivery, range(4))
        await each_delivery.verdicts(4)
    await put(each_delivery, range(4, 10))
    await remove(each_delivery, 7)
    with capture_logs() as events:
        async with running(each_delivery):
            assert await judged(each_delivery, 7) == [(f"post-{number}", number) for number in (*range(4), 7, 8, 9)]
        async with running(each_delivery):  # and not again
            await put(each_delivery, range(10, 11))
            await each_delivery.verdicts(8)
    assert losses(events) == [("retention", 4, 7, 3)]
    assert counted("retention") == before + 3
    when = REGISTRY.get_sample_value("moderation_records_lost_timestamp_seconds", {"topic": "posts", "partition": "0"})
    assert when


async def test_a_loss_is_said_once_even_where_nothing_is_left_to_judge(harness: Harness) -> None:
    await leave(harness, 0, offset_metadata.write(0, Mark(), Log()))
    await put(harness, range(5))
    await remove(harness, 5)
    with capture_logs() as events:
        for _ in range(2):
            async with running(harness):
                await reaches(harness, 5)
    assert losses(events) == [("retention", 0, 5, 5)]


async def test_what_is_removed_in_front_of_a_running_worker_is_said(harness: Harness) -> None:
    """aiokafka would move to the start of the log, and say nothing."""
    slow = harness.with_("fake?step_ms=200", max_in_flight=2).with_kafka(max_message_bytes=2048)
    values = (a_value(number, text=f"{number}" * 900) for number in range(40))
    with capture_logs() as events:
        async with running(slow):
            await harness.produce(*((0, b"key", value, ()) for value in values))
            await harness.verdicts(1)
            await remove(slow, 38)
            async with asyncio.timeout(30):
                while (verdicts := await judged(slow, 1))[-1][1] < 39:  # noqa: ASYNC110  the broker's state
                    await asyncio.sleep(0.1)
    offsets = [offset for _, offset in verdicts]
    ((cause, first, position, records),) = losses(events)
    assert (cause, position, records) == ("retention", 38, 38 - first)
    assert offsets == [*range(first), 38, 39]


async def test_gaps_of_transactions_are_no_loss_even_when_retention_has_removed_them(each_delivery: Harness) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=each_delivery.kafka, transactional_id=each_delivery.topics[0])
    with capture_logs() as events:
        async with producer, running(each_delivery):
            async with producer.transaction():
                await producer.send_and_wait(each_delivery.topics[0], a_value(0), partition=0)
            await producer.begin_transaction()
            await producer.send_and_wait(each_delivery.topics[0], a_value("never"), partition=0)
            await producer.abort_transaction()
            async with producer.transaction():
                await producer.send_and_wait(each_delivery.topics[0], a_value(1), partition=0)
            # 0 record, 1 marker, 2 aborted, 3 marker, 4 record, 5 marker
            await each_delivery.expect_exactly(2)
            await reaches(each_delivery, 6)
        await remove(each_delivery, 6)
        await put(each_delivery, range(2, 3))
        async with running(each_delivery):
            await each_delivery.expect_exactly(3)
    assert named(events, "records_lost", "committed_offset_moved", "committed_offset_missing") == []


async def test_gaps_of_compaction_are_no_loss(harness: Harness) -> None:
    async with administering(harness) as admin:
        topic = f"{harness.topics[0]}-compacted"
        configs = {
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.0",
            "max.compaction.lag.ms": "100",
        }
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=configs)])
    harness = harness.with_kafka(posts_topic=topic, dead_letter_topic=harness.topics[2])
    await put(harness, range(1))
    with capture_logs() as events:
        async with running(harness):
            await judged(harness, 1)
        for number in range(1, 6):
            await put(harness, range(number, number + 1))
            await asyncio.sleep(0.15)  # a segment of its own
        async with asyncio.timeout(60):
            while len(await read_all(harness)) > 2:
                await put(harness, range(6, 7))
                await asyncio.sleep(1)
        left = await read_all(harness)
        async with running(harness):
            verdicts = await judged(harness, 1 + len(left))
    assert verdicts[0] == ("post-0", 0)
    assert [offset for _, offset in verdicts[1:]][: len(left)] == left
    assert named(events, "records_lost", "committed_offset_moved", "committed_offset_missing") == []
    assert [event["command"] for event in events if event["event"] == "posts_topic_loses_records"]


async def read_all(harness: Harness) -> list[int]:
    return [record.offset for record in await harness.read(harness.topics[0], 1)]


async def test_a_topic_made_again_while_workers_are_away_is_read_from_its_start(each_delivery: Harness) -> None:
    """The old position would skip the records in front of it."""
    async with running(each_delivery):
        await put(each_delivery, range(5))
        await each_delivery.verdicts(5)
    left = await committed(each_delivery)
    await recreate(each_delivery)
    await leave(each_delivery, *left)  # Kafka forgets the offset with the topic, unless it comes late
    await put(each_delivery, range(10, 18))
    with capture_logs() as events:
        async with running(each_delivery):
            verdicts = await judged(each_delivery, 13)
    assert verdicts[5:] == [(f"post-{10 + number}", number) for number in range(8)]
    assert losses(events) == [("recreated", 5, 0, None)]


async def test_a_topic_made_again_under_a_running_worker_is_read_from_its_start_within_seconds(
    harness: Harness,
) -> None:
    with capture_logs() as events:
        async with running(harness):
            await put(harness, range(5))
            await harness.verdicts(5)
            await recreate(harness)
            await put(harness, range(10, 18))
            async with asyncio.timeout(25):
                verdicts = await judged(harness, 13)
    assert verdicts[5:] == [(f"post-{10 + number}", number) for number in range(8)]
    told = named(events, "records_lost", "committed_offset_missing")
    assert told


async def test_an_offset_that_kafka_has_forgotten_is_said(harness: Harness) -> None:
    async with running(harness):
        await put(harness, range(6))
        await harness.verdicts(6)
    forgotten = harness.with_kafka(group=f"{harness.settings.kafka.group}-2", dead_letter_topic=harness.topics[2])
    await put(harness, range(6, 12))
    await remove(harness, 8)
    with capture_logs() as events:
        async with running(forgotten):
            assert [offset for _, offset in (await judged(harness, 10))[6:]] == [8, 9, 10, 11]
    missing = [event for event in events if event["event"] == "committed_offset_missing"]
    assert [(event["partition"], event["position"], event["judged"]) for event in missing] == [(0, 8, 6)]
    assert losses(events) == [("retention", 6, 8, 2)]


async def test_a_new_group_on_an_old_topic_has_lost_nothing(harness: Harness) -> None:
    await put(harness, range(6))
    await remove(harness, 4)
    with capture_logs() as events:
        async with running(harness):
            await judged(harness, 2)
    assert named(events, "records_lost", "committed_offset_moved", "committed_offset_missing") == []


@pytest.mark.parametrize(("to", "loss"), [(9, [("skipped", 6, 9, 3)]), (2, []), (6, None)])
async def test_an_offset_that_another_program_has_moved_is_said(
    harness: Harness, to: int, loss: list[tuple[Any, ...]] | None
) -> None:
    async with running(harness):
        await put(harness, range(6))
        await harness.verdicts(6)
    await put(harness, range(6, 12))
    await leave(harness, to)
    with capture_logs() as events:
        async with running(harness):
            verdicts = await judged(harness, 6 + 12 - to)
        async with running(harness):
            pass
    assert [offset for _, offset in verdicts[6:]] == list(range(to, 12))
    moved = [event for event in events if event["event"] == "committed_offset_moved"]
    assert [(event["position"], event["judged"]) for event in moved] == ([] if loss is None else [(to, 6)])
    assert losses(events) == (loss or [])


async def test_a_log_that_was_cut_is_read_on_from_the_cut(harness: Harness) -> None:
    """An election of a leader without all records. The offset was committed when the log was longer."""
    await put(harness, range(6))
    await leave(harness, 9, offset_metadata.write(9, Mark(), Log(await topic_id(harness), 0)))
    with capture_logs() as events:
        async with running(harness):
            await reaches(harness, 6)
            await put(harness, range(20, 22))
            assert await judged(harness, 2) == [("post-20", 6), ("post-21", 7)]
    assert losses(events) == [("truncated", 9, 6, None)]


@pytest.mark.usefixtures("local_kafka")
async def test_a_log_that_was_cut_and_has_grown_again_is_read_on_from_the_cut(tmp_path: Path) -> None:
    """A new leader has written over what was read. Its epoch shows where it began."""
    async with LocalKafka() as local:
        harness = await a_harness(local.bootstrap, lambda kind: f"{kind}-cut", tmp_path)
        await put(harness, range(6))
        local.kill(1)
        await local.revive(1)
        consumer = clients.consumer(harness.settings.kafka)
        await clients.connected(consumer.start, harness.settings.kafka)
        await clients.stop(consumer)
        await put(harness, range(6, 12))
        await leave(harness, 9, offset_metadata.write(9, Mark(), Log(await topic_id(harness), 0)))
        with capture_logs() as events:
            async with running(harness):
                assert [offset for _, offset in await judged(harness, 6)] == [6, 7, 8, 9, 10, 11]
            async with running(harness):
                await put(harness, range(12, 13))
                await judged(harness, 7)
    assert losses(events) == [("truncated", 9, 6, None)]


async def test_an_id_that_a_broker_does_not_say_is_not_forgotten(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that starts may not know the topic yet. Later openings need the id."""

    async def no_ids(*_: object) -> dict[str, str]:
        return {}

    id = await topic_id(harness)
    await put(harness, range(2))
    await leave(harness, 1, offset_metadata.write(1, Mark(), Log(id, 0)))
    monkeypatch.setattr("moderation.worker.opening.topic_ids", no_ids)
    with capture_logs() as events:
        async with running(harness):
            assert await judged(harness, 1) == [("post-1", 1)]
    assert f" topic={id} " in (await committed(harness))[1]
    assert losses(events) == []


@pytest.mark.parametrize("metadata", ["", "moderation/1 position=9 openings=0 until=0 offset=0 attempts=0"])
async def test_an_offset_behind_the_end_without_an_id_begins_at_the_start(harness: Harness, metadata: str) -> None:
    await put(harness, range(6))
    await leave(harness, 9, metadata)
    with capture_logs() as events:
        async with running(harness):
            await judged(harness, 6)
    assert losses(events) == [("recreated", 9, 0, None)]


async def test_partitions_that_are_added_are_read_within_seconds_also_before_verdicts_has_them(
    harness: Harness,
) -> None:
    with capture_logs() as events:
        async with running(harness) as worker:
            await put(harness, range(1))
            await harness.verdicts(1)
            async with administering(harness) as admin:
                await admin.create_partitions({harness.topics[0]: NewPartitions(PARTITIONS + 1)})
                async with asyncio.timeout(25):
                    while not [event for event in events if event["event"] == "partition_without_verdicts"]:  # noqa: ASYNC110  the broker's state
                        await asyncio.sleep(0.05)
                await put(harness, range(1, 2), PARTITIONS)
                await put(harness, range(2, 3))
                await harness.verdicts(2)  # the others go on
                for topic in harness.topics[1:]:
                    await admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})
            async with asyncio.timeout(25):
                await reaches(harness, 1, PARTITIONS)
            assert not worker.done()
    (event,) = [event for event in events if event["event"] == "partition_without_verdicts"]
    assert event["partition"] == PARTITIONS
    assert [
        f"--topic {topic} --partitions {PARTITIONS + 1}" in command
        for topic, command in zip(harness.topics[1:], event["commands"], strict=True)
    ] == [True, True]
