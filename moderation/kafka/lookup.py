"""Reads one record of any topic, by its position."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import clients, refusals, watermarks
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.records import Record
from moderation.kafka.topics import partitions_of
from moderation.settings import KafkaSettings

POLL_BYTES = 1 << 20  # of a poll; a larger record is polled alone


async def record_at(settings: KafkaSettings, topic: str, partition: int, offset: int) -> Record:
    """Returns the record, as a worker would read it. Leaves the offsets of all groups alone.

    Raises ConfigError where there is no such record or no right to read it, and DeliveryError where it cannot be read.
    """
    await _check_exists(settings, topic, partition)
    consumer = clients.consumer(settings)
    place = TopicPartition(topic, partition)
    try:
        await clients.connected(consumer.start, settings)
        consumer.assign([place])
        async with asyncio.timeout(settings.connect_timeout_s):
            found = await record_in(consumer, place, offset)
    except UnreadableError as error:
        raise DeliveryError(f"{topic}/{partition}/{offset} cannot be read: {error}") from error
    except (KafkaError, TimeoutError) as error:
        raise refusals.failure(settings, f"{topic}/{partition}/{offset} cannot be read", error, consumer) from error
    finally:
        await clients.stop(consumer)
    if found is None:
        raise ConfigError(
            f"{topic}/{partition} has no record at offset {offset} that workers read: the offset may belong to a "
            "transaction's marker or to an aborted transaction, or compaction has removed the record"
        )
    return found


async def _check_exists(settings: KafkaSettings, topic: str, partition: int) -> None:
    count = (await partitions_of(settings, [topic]))[topic]
    if not 0 <= partition < count:
        raise ConfigError(f"topic {topic} has the partitions 0 to {count - 1}, and not {partition}")


async def record_in(consumer: Consumer, place: TopicPartition, offset: int) -> Record | None:
    """Returns the record of an assigned partition at the offset; None: there is none.

    Raises ConfigError for an offset outside of the partition.
    """
    begin = (await consumer.beginning_offsets([place]))[place]
    end = (await consumer.end_offsets([place]))[place]
    if end <= offset and (ends := (await watermarks.ends(consumer, [place])).get(place)) and offset < ends.high:
        raise ConfigError(
            f"{place.topic}/{place.partition} holds offset {offset} behind an open transaction, whose records begin at "
            f"{ends.stable}: nobody can read further until its producer has committed or aborted it"
        )
    if not begin <= offset < end:
        held = f"the offsets {begin} to {end - 1}" if begin < end else "no records"
        raise ConfigError(f"{place.topic}/{place.partition} holds {held}, and not {offset}")
    consumer.seek(place, offset)
    while await consumer.position(place) <= offset:
        polled = await consumer.poll(place, max_records=1, max_bytes=POLL_BYTES, timeout_s=1.0)
        for record in polled.get(place, ()):
            return record if record.offset == offset else None
    return None
