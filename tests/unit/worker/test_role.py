"""What a worker logs of a post. All else is tested against a real Kafka."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka.records import Record
from moderation.observability.probes import Liveness
from moderation.settings import KafkaSettings, LogSettings, Settings
from moderation.types import Arrival
from moderation.worker.erasures import Erasures
from moderation.worker.opening import Opening
from moderation.worker.partition import AssignedPartition
from moderation.worker.publisher import Publisher
from moderation.worker.role import Worker
from tests.support.builders import a_policy
from tests.support.moderators import a_moderator


async def nowhere() -> Opening:
    return Opening(0)


def a_record(offset: int, value: bytes | None, key: bytes = b"key") -> Record:
    return Record("posts", 3, offset, 1_700_000_000_000, key, value, ())


async def events_of(level: Any, *records: Record) -> list[dict[str, Any]]:
    settings = Settings(log=LogSettings(level=level))
    async with a_moderator(a_policy("lakes")) as moderator:
        processor = Worker(moderator, settings, Liveness(settings.ops))._processor
        assigned = AssignedPartition(
            Publisher(settings.kafka, 3, nowhere),
            VerdictCache(10, 1 << 20),
            Erasures(KafkaSettings(), 3),
            asyncio.Event(),
            10,
        )
        with capture_logs() as events:
            for record in records:
                await processor.process(assigned, record, Arrival(0.0, 0.0, 0.0))
    return [dict(event) for event in events]


def a_value(id: str, text: str) -> bytes:
    return json.dumps({"id": id, "text": text}).encode()


async def test_at_debug_every_post_is_named_with_its_outcome() -> None:
    events = await events_of(
        "debug",
        a_record(7, a_value("post-7", "secret violates:lakes")),
        a_record(8, a_value("post-7", "secret violates:lakes")),
        a_record(9, b"secret {", b"post-9"),
        a_record(10, None, b"post-7"),  # an erasure has no verdict
    )
    named = [event for event in events if event.pop("event") == "post_moderated"]
    assert {event.pop("log_level") for event in named} == {"debug"}
    assert [tuple(event.values()) for event in named] == [
        ("post-7", 3, 7, "REMOVE", "FINAL", "MODEL"),
        ("post-7", 3, 8, "REMOVE", "FINAL", "CACHE"),
        ("post-9", 3, 9, "REVIEW", "UNDETERMINED", "NONE"),
    ]
    assert {tuple(event) for event in named} == {("post_id", "partition", "offset", "outcome", "status", "origin")}
    assert "secret" not in str(events)


@pytest.mark.parametrize("level", ["info", "warning"])
async def test_above_debug_no_post_is_named(level: str) -> None:
    events = await events_of(level, a_record(7, a_value("post-7", "violates:lakes")))
    assert [event["event"] for event in events] == ["step_done"], "logged by the batcher"
