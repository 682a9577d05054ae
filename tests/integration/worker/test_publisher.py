"""A transaction holds all of its messages and their offset, or nothing, also when requests are lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import InvalidTxnState, RequestTimedOutError
from prometheus_client import REGISTRY

from moderation.errors import DeliveryError
from moderation.kafka import offsets
from moderation.settings import KafkaSettings
from moderation.worker.messages import Message
from moderation.worker.opening import Opening
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Mark


async def published(
    settings: KafkaSettings, isolation_level: str = "read_committed"
) -> tuple[list[bytes | None], int | None]:
    """The committed values on the verdicts topic, and the committed offset."""
    partition = TopicPartition(settings.verdicts_topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        group_id=settings.group,
        enable_auto_commit=False,
        isolation_level=isolation_level,
    )
    values: list[bytes | None] = []
    async with consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        while await consumer.position(partition) < end:
            values += [record.value for record in (await consumer.getmany(timeout_ms=100)).get(partition, [])]
        return values, await consumer.committed(TopicPartition(settings.posts_topic, 0))


def a_publisher(settings: KafkaSettings) -> Publisher:
    async def position() -> Opening:
        return Opening((await published(settings))[1] or 0)

    return Publisher(settings, 0, position)


async def left(settings: KafkaSettings) -> tuple[list[bytes | None], int | None]:
    """What is committed in the end. Kafka confirms a commit before its marker is in the log; a fence waits for it."""
    async with a_publisher(settings):
        return await published(settings)


def a_message(settings: KafkaSettings, value: bytes) -> Message:
    return Message(settings.verdicts_topic, b"key", value, ())


def requests_lost() -> float:
    return REGISTRY.get_sample_value("moderation_producer_requests_lost_total") or 0.0


class Lossy:
    """Loses the reply to the next request of a kind: the broker has done it, and the client does not know.

    With `lie`, the client takes the reply for a refusal.
    """

    lie = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next = ""
        send = AIOKafkaClient.send

        async def lossy(client: AIOKafkaClient, node: int, request: Any, **options: Any) -> Any:
            reply = await send(client, node, request, **options)
            if type(request).__name__.startswith(self.next or "-"):
                self.next = ""
                if not self.lie:
                    raise RequestTimedOutError
                reply.error_code = InvalidTxnState.errno
            return reply

        monkeypatch.setattr(AIOKafkaClient, "send", lossy)


@pytest.mark.parametrize(
    "request_kind", ["AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"]
)
async def test_a_lost_reply_neither_loses_nor_repeats_and_the_producer_is_replaced(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, request_kind: str
) -> None:
    lossy = Lossy(monkeypatch)
    async with a_publisher(settings) as publisher:
        first = publisher._producer
        await publisher.publish([a_message(settings, b"1")], 1)
        assert publisher._producer is first
        lossy.next, lost = request_kind, requests_lost()
        await publisher.publish([a_message(settings, b"2"), a_message(settings, b"3")], 3)
        assert lossy.next == ""
        assert requests_lost() == lost + 1  # at once: a transaction that fails ends the process
        await publisher.publish([a_message(settings, b"4")], 4)
        assert publisher._producer is not first  # a late EndTxn of the old one could end a transaction of its next
    assert await left(settings) == ([b"1", b"2", b"3", b"4"], 4)


async def test_only_a_reader_of_committed_records_is_spared_what_a_killed_worker_left(settings: KafkaSettings) -> None:
    """As the callers' page says of the verdicts topic."""
    async with a_publisher(settings) as killed:
        await killed._producer.begin_transaction()
        await (await killed._send(a_message(settings, b"aborted")))
        async with a_publisher(settings) as publisher:
            await publisher.publish([a_message(settings, b"1")], 1)
    assert await left(settings) == ([b"1"], 1)
    assert (await published(settings, "read_uncommitted"))[0] == [b"aborted", b"1"]


async def test_a_publisher_whose_partition_was_taken_publishes_nothing_more(settings: KafkaSettings) -> None:
    async with a_publisher(settings) as old:
        await old.publish([a_message(settings, b"1")], 1)
        async with a_publisher(settings) as new:
            with pytest.raises(DeliveryError):
                await old.publish([a_message(settings, b"zombie")], 2)
            await new.publish([a_message(settings, b"2")], 2)
    assert await left(settings) == ([b"1", b"2"], 2)


@pytest.mark.parametrize("trigger", ["lost reply", "too large"])
async def test_nor_does_it_by_way_of_a_new_producer(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, trigger: str
) -> None:
    """Replacing its producer fences the new owner: then it must notice that the position is no longer its own."""
    lossy = Lossy(monkeypatch)
    async with a_publisher(settings) as old:
        if trigger == "lost reply":
            lossy.next = "EndTxn"
        await old.publish([a_message(settings, b"1")], 1)
        async with a_publisher(settings) as new:
            await new.publish([a_message(settings, b"2")], 2)
            value = b"x" * (settings.max_message_bytes + 1) if trigger == "too large" else b"zombie"
            zombie = replace(a_message(settings, value), cut=lambda: a_message(settings, b"zombie, cut"))
            with pytest.raises(DeliveryError):
                await old.publish([zombie], 2)
    assert await left(settings) == ([b"1", b"2"], 2)


async def test_before_the_process_ends_no_producer_is_replaced_to_publish_what_is_ready(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = Lossy(monkeypatch)
    async with a_publisher(settings) as old:
        lossy.next = "EndTxn"
        await old.publish([a_message(settings, b"1")], 1)
        async with a_publisher(settings) as new:
            old.replaces = False
            with pytest.raises(DeliveryError, match="may still be under way"):
                await old.publish([a_message(settings, b"late")], 2)
            await new.publish([a_message(settings, b"2")], 2)
    assert await left(settings) == ([b"1", b"2"], 2)


async def test_a_mark_whose_commit_is_doubtful_is_committed_again(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next opening would count an attempt that never began, and in the end give up a sound post."""
    lossy = Lossy(monkeypatch)
    lossy.lie = True
    async with a_publisher(settings) as publisher:
        lossy.next = "EndTxn"
        await publisher.publish([], 0, Mark(True, 1, 2, 0, 1))
        assert lossy.next == ""
        lossy.next = "EndTxn"
        with pytest.raises(DeliveryError, match="has failed"):
            await publisher.publish([a_message(settings, b"1")], 1)
    assert await left(settings) == ([b"1"], 1)


async def test_a_position_without_messages_whose_commit_is_doubtful_is_committed_again(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies behind offsets without records. That it has moved does not show another worker."""
    lossy = Lossy(monkeypatch)
    lossy.lie = True
    async with a_publisher(settings) as publisher:
        await publisher.publish([a_message(settings, b"1")], 1)
        lossy.next = "EndTxn"
        await publisher.publish([], 4)
        assert lossy.next == ""
        assert (await published(settings))[1] == 4
        await publisher.publish([a_message(settings, b"2")], 5)
    assert await left(settings) == ([b"1", b"2"], 5)


async def test_a_mark_is_stored_with_the_position_and_read_by_the_next_publisher(settings: KafkaSettings) -> None:
    mark = Mark(open=True, openings=2, until=9, offset=3, attempts=1)
    async with a_publisher(settings) as first:
        await first.publish([a_message(settings, b"1")], 3, mark)
        await first.publish([], 3, mark)
    await left(settings)
    async with AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, group_id=settings.group) as consumer:
        stored = await offsets.committed(consumer, TopicPartition(settings.posts_topic, 0))
    assert stored is not None
    assert (stored.offset, Mark.read(stored.metadata, stored.offset)) == (3, mark)
    assert await left(settings) == ([b"1"], 3)


async def test_what_a_dead_worker_left_half_done_is_undone_by_the_next(settings: KafkaSettings) -> None:
    async with a_publisher(settings) as dead:
        await dead._producer.begin_transaction()
        await (await dead._send(a_message(settings, b"half")))
        async with a_publisher(settings) as new:
            await new.publish([a_message(settings, b"whole")], 1)
    assert await left(settings) == ([b"whole"], 1)
