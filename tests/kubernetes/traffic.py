"""A steady stream of posts onto the topic, and whatever comes of it on the others."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from moderation import wire
from moderation.demo.posts import FOLDER, SAMPLES
from moderation.settings import KafkaSettings
from moderation.v1.verdict_pb2 import Verdict

Place = tuple[int, int]  # partition and offset of a post
PATIENCE_S = 240.0


class Traffic:
    """Posts that are on their topic, and the verdicts that are committed; both grow while it flows."""

    def __init__(self, settings: KafkaSettings, prefix: str, rate: float) -> None:
        self.settings = settings
        self.prefix = prefix
        self.rate = rate
        self.posts: dict[Place, str] = {}
        self.verdicts: list[Verdict] = []

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Posts come for as long as this lasts."""
        enough = asyncio.Event()
        producing = asyncio.create_task(self._produce(enough))
        try:
            yield
        finally:
            enough.set()
            await producing

    async def put(self, count: int) -> None:
        """So many posts at once, short ones."""
        async with AIOKafkaProducer(bootstrap_servers=self.settings.bootstrap, acks="all") as producer:
            for number in range(count):
                id = f"{self.prefix}-{number}"
                post = json.dumps({"id": id, "text": f"good morning {number}"}).encode()
                sent = await producer.send_and_wait(self.settings.posts_topic, post, id.encode())
                self.posts[sent.partition, sent.offset] = id

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Verdicts are read for as long as this lasts."""
        reading = asyncio.create_task(self._read())
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    @property
    def answered(self) -> set[Place]:
        return {(verdict.source.partition, verdict.source.offset) for verdict in self.verdicts}

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """Fails when no verdict has come for PATIENCE_S: a busy machine is slow, and still moves."""
        verdicts, moved = len(self.verdicts), time.monotonic()
        while not true():
            if len(self.verdicts) > verdicts:
                verdicts, moved = len(self.verdicts), time.monotonic()
            assert time.monotonic() < moved + PATIENCE_S, (
                f"no {what}, and no verdict for {PATIENCE_S:g} s: {len(self.posts)} posts, {verdicts} verdicts"
            )
            await asyncio.sleep(0.1)

    async def more(self, count: int) -> list[Verdict]:
        """The verdicts on the next so many posts that are put on the topic from now on."""
        before = set(self.posts)
        await self.until(lambda: len(set(self.posts) - before) >= count, f"{count} more posts")
        awaited = set([place for place in self.posts if place not in before][:count])
        await self.until(lambda: awaited <= self.answered, f"verdicts on {count} more posts")
        return [verdict for verdict in self.verdicts if (verdict.source.partition, verdict.source.offset) in awaited]

    async def settled(self) -> None:
        """Each post has its verdict."""
        await self.until(lambda: set(self.posts) <= self.answered, "verdict on the last posts")

    async def read_again(self) -> tuple[set[Place], Counter[Place], int]:
        """(posts, how often each is answered, dead letters), by a reader that begins at the start of the topics."""
        posts = {(record.partition, record.offset) for record in await self._all(self.settings.posts_topic)}
        verdicts = [self._verdict(record) for record in await self._all(self.settings.verdicts_topic)]
        places = Counter((verdict.source.partition, verdict.source.offset) for verdict in verdicts)
        return posts, places, len(await self._all(self.settings.dead_letters))

    async def _produce(self, enough: asyncio.Event) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.settings.bootstrap, acks="all") as producer:
            number = 0
            due = time.monotonic()
            while not enough.is_set():
                sample = SAMPLES[number % len(SAMPLES)]
                id = f"{self.prefix}-{number}"
                pictures = [base64.b64encode((FOLDER / name).read_bytes()).decode() for name in sample.pictures]
                # A new text each time: a repeated post is answered from the verdict cache, without the model.
                post = {
                    "id": id,
                    "text": f"{sample.text} {number}",
                    "images": [{"data": picture} for picture in pictures],
                }
                sent = await producer.send_and_wait(self.settings.posts_topic, json.dumps(post).encode(), id.encode())
                self.posts[sent.partition, sent.offset] = id
                number += 1
                due += 1 / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _read(self) -> None:
        async with self._consumer() as consumer:
            consumer.assign(await self._partitions(consumer, self.settings.verdicts_topic))
            async for record in consumer:
                self.verdicts.append(self._verdict(record))

    async def _all(self, topic: str) -> list[Any]:
        records: list[Any] = []
        async with self._consumer() as consumer:
            partitions = await self._partitions(consumer, topic)
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    records += batch
        return records

    async def _partitions(self, consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
        await consumer._client.set_topics([topic])
        return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.settings.bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )

    def _verdict(self, record: Any) -> Verdict:
        return wire.read_verdict(record.value, record.headers)
