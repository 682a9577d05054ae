"""`moderation explain` on records of Kafka: of posts, and of the dead letters that a worker wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from moderation.errors import ConfigError
from moderation.kafka.lookup import record_at
from moderation.kafka.records import Record
from moderation.types import Reason
from moderation.wire.explanations import Explanation, explain
from tests.support.harness import Harness, a_value, running


async def test_records_and_dead_letters_are_explained(harness: Harness) -> None:
    unknown = json.dumps({"id": "1", "tenant": "shop", "note": "x"}).encode()
    torn = json.dumps({"id": "2", "tenant": "shop", "text": "x", "images": [{"data": "A*AA"}]}).encode()
    kafka = harness.settings.kafka

    async def explained(topic: str, offset: int) -> tuple[Record, Explanation]:
        record = await record_at(kafka, topic, 2, offset)
        return record, explain(record.key, record.value, record.headers, harness.settings, record.problem)

    async with running(harness):
        await harness.produce((2, b"1", unknown, []), (2, b"good", a_value(1), []), (2, b"2", torn, []))
        letters: list[Any] = await harness.dead_letters(2)
    for offset, reason in enumerate((Reason.NOT_DECODABLE, None, None)):
        record, explanation = await explained(kafka.posts_topic, offset)
        assert record.offset == offset
        assert (explanation.refused.reason if explanation.refused else None) == reason
        assert explanation.letter == {}
    for letter, offset, detail in zip(letters, (0, 2), ("unknown field", "images[0].data: base64"), strict=True):
        _, explanation = await explained(kafka.dead_letters, letter.offset)
        said = explanation.letter
        assert (said["original.topic"], said["original.offset"]) == (kafka.posts_topic, str(offset))
        assert (said["error.code"], said["error.detail"]) == ("NOT_DECODABLE", detail)
        assert explanation.known.tenant == "shop"
    for topic, partition, offset, problem in (
        (kafka.posts_topic, 2, 3, "holds the offsets 0 to 2, and not 3"),
        (kafka.posts_topic, 0, 0, "holds no records"),
        (kafka.posts_topic, 99, 0, "has the partitions 0 to 5"),
        ("no-such-topic", 0, 0, "does not exist"),
        (kafka.dead_letters, 2, letters[0].offset + 1, "no record at offset"),  # the marker of its transaction
    ):
        with pytest.raises(ConfigError, match=problem):
            await record_at(kafka, topic, partition, offset)


async def test_a_record_behind_an_open_transaction_is_called_so(harness: Harness, names: Callable[[str], str]) -> None:
    kafka = harness.settings.kafka
    producer = AIOKafkaProducer(bootstrap_servers=harness.kafka, transactional_id=names("platform"))
    await harness.produce((1, b"a", a_value(0), ()))
    async with producer, producer.transaction():
        await producer.send_and_wait(kafka.posts_topic, a_value(1), b"a", partition=1)
        await harness.produce((1, b"a", a_value(2), ()))
        for offset in (1, 2):
            with pytest.raises(ConfigError, match=f"holds offset {offset} behind an open transaction.* begin at 1"):
                await record_at(kafka, kafka.posts_topic, 1, offset)
        with pytest.raises(ConfigError, match="holds the offsets 0 to 0, and not 3"):
            await record_at(kafka, kafka.posts_topic, 1, 3)
    assert (await record_at(kafka, kafka.posts_topic, 1, 2)).value == a_value(2)
