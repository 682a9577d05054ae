"""The harness of worker tests: topics of one test, posts, verdicts, and workers in this process."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord

from moderation.inference.self_check import REFERENCE_POSTS
from moderation.models.fake import Fake
from moderation.settings import KafkaSettings, MediaSettings, ModelSettings, OpsSettings, Settings, WorkerSettings
from moderation.types import Score
from moderation.worker import role
from tests.support.topics import committed_records, make_topics

PARTITIONS = 6
WORKER = """
from moderation import lifecycle, settings
from moderation.worker import role

values = settings.load()
raise SystemExit(lifecycle.run(lambda stop: role.run(values, stop)))
"""  # a program for `python -c`
POLICY = """
id: spam
version: 1
title: Spam
question: Is this spam?
violates: [{id: S1, text: advertises}]
thresholds: {review: 0.5, remove: 0.9}
"""


@dataclass(frozen=True)
class Harness:
    """The topics of one test and the settings of the workers on them."""

    kafka: str
    settings: Settings

    def with_(self, model: str = "", **worker_settings: Any) -> Harness:
        changed: dict[str, Any] = {"worker": self.settings.worker.model_copy(update=worker_settings)}
        if model:
            changed["model"] = ModelSettings(name=model)
        return replace(self, settings=self.settings.model_copy(update=changed))

    def with_model(self, **model_settings: Any) -> Harness:
        changed = self.settings.model.model_copy(update=model_settings)
        return replace(self, settings=self.settings.model_copy(update={"model": changed}))

    def with_kafka(self, **kafka_settings: Any) -> Harness:
        changed = self.settings.kafka.model_copy(update=kafka_settings)
        return replace(self, settings=self.settings.model_copy(update={"kafka": changed}))

    def with_port(self, ops: OpsSettings) -> Harness:
        """With an operations port."""
        return replace(self, settings=self.settings.model_copy(update={"ops": ops}))

    @property
    def topics(self) -> tuple[str, str, str]:
        return self.settings.kafka.posts_topic, self.settings.kafka.verdicts_topic, self.settings.kafka.dead_letters

    @property
    def environment(self) -> dict[str, str]:
        """The same settings for a process."""
        values: Mapping[str, Any] = self.settings.model_dump(mode="json", exclude_unset=True)
        pairs = {
            f"MODERATION_{group}__{name}".upper(): str(value)
            for group, members in values.items()
            if isinstance(members, dict)
            for name, value in members.items()
        }
        return pairs | {"MODERATION_POLICIES": str(self.settings.policies)}

    async def produce(self, *records: tuple[int, bytes | None, bytes | None, Sequence[tuple[str, bytes]]]) -> None:
        """(partition, key, value, headers) of each."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka, max_request_size=8 << 20)
        async with producer:
            for partition, key, value, headers in records:
                await producer.send(self.topics[0], value, key, partition, headers=list(headers))
            await producer.flush()

    async def post(self, count: int, start: int = 0) -> None:
        """Posts number `start` and following, over all partitions; the key is one of twelve authors."""
        await self.produce(
            *(
                (number % PARTITIONS, f"author-{number % 12}".encode(), a_value(number), ())
                for number in range(start, start + count)
            )
        )

    async def read(self, topic: str, count: int, timeout: float = 60) -> list[ConsumerRecord]:
        """Returns all committed records of the topic, once there are `count` or more."""
        return await committed_records(self.kafka, topic, count, timeout, partitions=PARTITIONS)

    async def verdicts(self, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        return [json.loads(record.value) for record in await self.read(self.topics[1], count, timeout)]

    async def dead_letters(self, count: int) -> list[ConsumerRecord]:
        return await self.read(self.topics[2], count)

    async def expect_exactly(self, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Checks for one verdict for each post 0..count, in the order of each partition. Returns the verdicts."""
        verdicts = await self.verdicts(count, timeout)
        twice = [id for id, times in Counter(verdict["postId"] for verdict in verdicts).items() if times > 1]
        assert not twice
        assert {verdict["postId"] for verdict in verdicts} == {f"post-{number}" for number in range(count)}
        last: dict[int, int] = {}
        for verdict in verdicts:
            source = verdict["source"]
            partition, offset = source.get("partition", 0), int(source.get("offset", 0))
            assert offset > last.get(partition, -1)
            last[partition] = offset
        return verdicts


def a_value(number: int | str, **fields: Any) -> bytes:
    return json.dumps({"id": f"post-{number}", "text": f"this is number {number}"} | fields).encode()


class Fickle(Fake):
    """Never gives equal scores twice: if it is asked again, the verdicts contradict each other."""

    def __init__(self) -> None:
        super().__init__(step_ms=20)
        self.asked: list[str] = []

    def score(self, batch: Any) -> Any:
        references = {post.text for post in REFERENCE_POSTS}
        self.asked += [item.text for item in batch if item.text not in references]
        base = len(self.asked)
        return [
            row if item.text in references else [with_probability(score, 1 / (2 + base + number)) for score in row]
            for number, (item, row) in enumerate(zip(batch, super().score(batch), strict=True))
        ]


def with_probability(score: Score, probability: float) -> Score:
    return replace(score, probability=probability, margin=math.log(probability / (1 - probability)))


@asynccontextmanager
async def running(harness: Harness) -> AsyncIterator[asyncio.Task[None]]:
    """Runs a worker in this process. Drains it at the end, unless it has already ended."""
    stop = asyncio.Event()
    task = asyncio.create_task(role.run(harness.settings, stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task], timeout=60)
    await task


async def a_harness(kafka: str, names: Callable[[str], str], folder: Path) -> Harness:
    """Topics, a policy set and settings of one test."""
    policies = folder / "policies"
    policies.mkdir()
    (policies / "spam.yaml").write_text(POLICY)
    settings = Settings(
        policies=policies,
        kafka=KafkaSettings(
            bootstrap=kafka,
            posts_topic=names("posts"),
            verdicts_topic=names("verdicts"),
            group=names("group"),
            transaction_timeout_ms=5_000,
            session_timeout_ms=6_000,
            rebalance_timeout_ms=20_000,
        ),
        model=ModelSettings(name="fake"),
        media=MediaSettings(max_bytes=4 << 20),
        worker=WorkerSettings(encode_threads=1),
    )
    made = Harness(kafka, settings)
    await make_topics(kafka, *made.topics, partitions=PARTITIONS, max_message_bytes=str(4 << 20))
    return made


async def kill_two_workers(harness: Harness) -> None:
    """Posts 300, and kills two workers one after the other while they work on them."""
    slow = harness.with_("fake?step_ms=15", batch_tokens=48)
    await slow.post(300)
    for verdicts_before in (40, 120):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, env=os.environ | slow.environment, stderr=asyncio.subprocess.DEVNULL
        )
        await slow.verdicts(verdicts_before)
        process.send_signal(signal.SIGKILL)
        await process.wait()
