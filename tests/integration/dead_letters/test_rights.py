"""What the manifests give a worker is enough for `moderation dlq`, and a missing right is named."""

from __future__ import annotations

import json
import time

import pytest

from moderation.dead_letters.decisions import Decision, Why
from moderation.dead_letters.replay import Order, replay
from moderation.dev.kafka import LocalKafka
from moderation.dev.ports import free_ports
from moderation.dev.topics import create_service_topics
from moderation.errors import ConfigError
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings
from moderation.types import Problem, Reason, Source
from moderation.worker.messages import dead_letter, verdict_message
from tests.support.builders import a_verdict
from tests.support.commands import produce
from tests.support.rights import denied, granted, guarded_properties, set_rules, users

WORKER = "moderation-worker"


async def test_a_worker_may_replay_and_a_missing_right_is_named(
    local_kafka: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr("moderation.dev.kafka.properties", guarded_properties(port, users()))
    settings = KafkaSettings(
        bootstrap=f"127.0.0.1:{port}",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=WORKER,
        sasl_password=WORKER,
    )

    async def replayed() -> list[Decision]:
        return [decision async for decision in replay(settings, Order(write=True))]

    async with LocalKafka() as kafka:
        await create_service_topics(KafkaSettings(bootstrap=kafka.bootstrap), partitions=1)
        await set_rules(kafka.bootstrap, granted(WORKER))
        await put_dead_letter(kafka.bootstrap, settings, "post-1")
        (decision,) = await replayed()
        assert decision.at == f"{settings.posts_topic}/0/0"
        # The posts topic was made again: offset 5 is of its earlier life, and what waits has lower offsets.
        await put_dead_letter(kafka.bootstrap, settings, "post-2", 5)
        await produce(kafka.bootstrap, settings.posts_topic, [(b"post-2", b'{"id": "post-2"}', ())])
        assert [each.skip and each.skip.why for each in await replayed()] == [Why.REPLAYED, Why.LATER]
        await put_dead_letter(kafka.bootstrap, settings, "post-3", 6)
        for topic, operation in ((settings.posts_topic, "Write"), (settings.dead_letters, "Read")):
            await set_rules(kafka.bootstrap, [denied(WORKER, "topic", topic, operation)])
            with pytest.raises(ConfigError, match=rf"lacks the right {operation} on topic {topic}\b"):
                await replayed()


async def put_dead_letter(bootstrap: str, settings: KafkaSettings, id: str, offset: int = 0) -> None:
    """A dead letter, and the verdict beside it, of a record that the posts topic has lost."""
    source = Source(settings.posts_topic, 0, offset, int(time.time() * 1000))
    value = json.dumps({"id": id}).encode()
    record = Record(settings.posts_topic, 0, offset, source.timestamp_ms, id.encode(), value, ())
    for message in (
        verdict_message(a_verdict(id, source=source), (), settings),
        dead_letter(source, record, Problem(Reason.UNAVAILABLE), settings, post_id=id),
    ):
        assert message.key is not None
        headers = [(name, value or b"") for name, value in message.headers]
        await produce(bootstrap, message.topic, [(message.key, message.value, headers)])
