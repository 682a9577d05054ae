"""Each post in hand is in exactly one place, and the phase that it reports is where it is.

A post that a hand-over has lost is in no place: the counts never agree again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from moderation.inference import deadline_pool
from moderation.inference.batcher import Batcher
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka.records import Record
from moderation.media.reader import Media
from moderation.models.fake import Fake
from moderation.moderator import Moderator
from moderation.observability.phases import Phase
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.settings import Settings, WorkerSettings
from moderation.worker.partition import AssignedPartition
from moderation.worker.role import Worker
from moderation.worker.suspects import Mark
from tests.support.batching import StutteringModel
from tests.support.builders import a_file, a_policy, an_image

PARTITION = TopicPartition("posts", 3)
POSTS = 1_500


class Topic:
    """Accepts what a partition publishes, a moment later."""

    def __init__(self) -> None:
        self.position, self.messages, self.mark = 0, 0, Mark()

    async def __aenter__(self) -> Topic:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def publish(self, messages: Sequence[Any], position: int, mark: Mark) -> None:
        await asyncio.sleep(0.001)
        self.messages += len(messages)
        self.position = position


@dataclass
class Bench:
    """One worker with one partition, without Kafka."""

    worker: Worker
    assigned: AssignedPartition
    topic: Topic
    media: Media
    batcher: Batcher
    tasks: asyncio.TaskGroup

    def take(self, offset: int, value: bytes) -> None:
        record = Record("posts", 3, offset, 1_700_000_000_000, b"key", value, ())
        assert self.assigned.take(offset, len(value), record.timestamp)
        arrival = self.assigned.arrival(record.timestamp, time.perf_counter(), time.time())
        self.assigned.own(self.tasks.create_task(self.worker._processor.process(self.assigned, record, arrival)))

    def places(self) -> dict[str, tuple[int, int]]:
        """For each place: how many posts say that they are there, and how many are."""
        said: Counter[Phase] = self.assigned.phases
        offsets = self.assigned._offsets
        assert offsets is not None
        isolation = self.worker._processor.isolation
        media = len(self.media.pool) + len(self.media._decoded._waiting) + len(self.media._fetched._waiting)
        with_images = said[Phase.FETCH] + said[Phase.DECODE]
        admission = sum(not waiter.done() for waiter in self.batcher._admission._waiters or ())
        return {
            "all": (sum(said.values()), len(offsets)),
            "isolation": (said[Phase.ISOLATION], len(isolation._together) + len(isolation._alone)),
            "duplicate without its computation": (
                int(said[Phase.DUPLICATE] > 0 and not self.assigned.cache._computations),
                0,
            ),
            "media": (with_images, media),
            "admission": (said[Phase.ADMISSION], admission),
            "encode": (said[Phase.ENCODE], len(self.batcher._encoders.pool)),
            "batcher": (said[Phase.BATCH_WAIT] + said[Phase.MODEL] + said[Phase.HELD], len(self.batcher._jobs)),
            "commit": (said[Phase.COMMIT], sum(result is not None for result in offsets._results.values())),
        }

    async def agree(self) -> None:
        """Returns at a moment at which all counts agree: a task that is to go on has not said so yet."""
        async with asyncio.timeout(20):
            while any(said != there for said, there in self.places().values()):  # noqa: ASYNC110
                await asyncio.sleep(0)


@asynccontextmanager
async def a_bench(model: Fake) -> AsyncIterator[Bench]:
    settings = Settings(worker=WorkerSettings(encode_threads=2, max_in_flight=64))
    topic: Any = Topic()
    assigned = AssignedPartition(topic, VerdictCache(1_000, 1 << 20), asyncio.Event(), POSTS)
    media = Media(settings.media)
    begun = asyncio.Event()

    async def restore() -> None:
        pass

    async with Batcher(model, settings.worker) as batcher:
        moderator = Moderator(PolicySet.of([a_policy()]), media, batcher)
        worker = Worker(moderator, settings, Liveness(settings.ops))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(assigned.run(restore, lambda _: begun.set()))
            await begun.wait()
            yield Bench(worker, assigned, topic, media, batcher, tasks)
            assigned.drain()


def values(some: random.Random) -> list[bytes]:
    """Posts of all kinds: small and long ones, duplicates, with pictures, broken, and such that a step fails on."""
    picture = base64.b64encode(a_file(an_image(16, 16))).decode()

    def post(number: int) -> dict[str, Any]:
        kind = some.randrange(20)
        if kind == 0:
            return {"id": f"post-{number}", "text": "with a picture", "images": [{"data": picture}]}
        if kind == 1:
            return {"id": f"post-{number}", "text": "with a broken one", "images": [{"data": "AAAA"}]}
        if kind == 2:
            return {"id": "duplicate", "text": f"the same again {number // 40}"}
        if kind == 3:
            return {"id": f"post-{number}", "text": "long " * 2_000}
        if kind == 4:
            return {"id": f"post-{number}", "text": "poison"}
        return {"id": f"post-{number}", "text": f"this is number {number}"}

    return [b"{" if some.randrange(50) == 0 else json.dumps(post(number)).encode() for number in range(POSTS)]


async def test_each_post_in_hand_is_where_it_says(monkeypatch: Any) -> None:
    monkeypatch.setattr(deadline_pool, "SLOW_S", 0.0005)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    some = random.Random(seed)
    model = StutteringModel(every=20, seconds=0.001)
    model.raise_on = "poison"
    seen: Counter[str] = Counter()
    async with asyncio.timeout(120), a_bench(model) as bench:
        for offset, value in enumerate(values(some)):
            while len(bench.assigned) >= 128:  # noqa: ASYNC110
                await asyncio.sleep(0.0005)
            bench.take(offset, value)
            if some.random() < 0.1:
                await bench.agree()
                seen.update({name: there for name, (_, there) in bench.places().items()})
        await bench.agree()
        while len(bench.assigned):  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
    assert bench.topic.position == POSTS
    assert all(seen[name] for name in ("encode", "batcher", "commit", "media", "admission")), seen
