"""Which posts are judged first: against a real Kafka."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from moderation import models
from moderation.inference.self_check import REFERENCE_POSTS
from moderation.models.fake import Fake
from tests.support.harness import Harness, a_value, running

REFERENCE_TEXTS = {post.text for post in REFERENCE_POSTS}


class Recording(Fake):
    def __init__(self) -> None:
        super().__init__(step_ms=2)
        self.scored: list[str] = []

    def score(self, batch: Any) -> Any:
        self.scored += [item.text for item in batch if item.text not in REFERENCE_TEXTS]
        return super().score(batch)


async def test_posts_that_came_within_a_millisecond_are_scored_in_the_order_of_their_partition(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first of them may be scored last, and all others wait for it to be committed."""
    model = Recording()
    monkeypatch.setattr(models, "load", lambda settings: model)
    now = time.time_ns() // 1_000_000
    async with AIOKafkaProducer(bootstrap_servers=harness.kafka) as producer:
        for number in range(100):
            value = a_value(number, text=f"number {number}")
            await producer.send(harness.topics[0], value, b"key", partition=0, timestamp_ms=now)
        await producer.flush()
    async with running(harness.with_(batch_tokens=1, encode_threads=1, overtake_s=3600.0)):
        await harness.verdicts(100)
    order = [int(text.split()[1]) for text in model.scored]
    late = max(at - number for at, number in enumerate(order))
    assert late <= 2, order  # what comes while the first one is scored may be taken before those in front of it
