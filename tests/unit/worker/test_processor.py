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

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation import wire
from moderation.inference import deadline_pool
from moderation.inference.batcher import Batcher
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka.records import HEADERS, Record
from moderation.media.reader import Media
from moderation.models.fake import Fake
from moderation.moderator import Moderator
from moderation.observability.phases import Phase
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.settings import KafkaSettings, Settings, WorkerSettings
from moderation.types import Problem
from moderation.v1.post_pb2 import Post
from moderation.worker.erasures import Erasures
from moderation.worker.messages import Message
from moderation.worker.offset_metadata import Log
from moderation.worker.opening import Opening
from moderation.worker.partition import AssignedPartition
from moderation.worker.role import Worker
from moderation.worker.suspects import Mark
from tests.support.batching import StutteringModel
from tests.support.builders import a_file, a_policy, an_image
from tests.support.wire_values import PROTOBUF

PARTITION = TopicPartition("posts", 3)
POSTS = 1_500


class Topic:
    """Accepts what a partition publishes, a moment later."""

    def __init__(self) -> None:
        self.position, self.opening, self.log = 0, Opening(0), Log()
        self.sent: list[Message] = []

    async def __aenter__(self) -> Topic:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def publish(self, messages: Sequence[Message], position: int, mark: Mark) -> None:
        await asyncio.sleep(0.001)
        self.sent += messages
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

    def take(
        self,
        offset: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        problem: Problem | None = None,
    ) -> None:
        record = Record("posts", 3, offset, 1_700_000_000_000, b"key", value, headers, problem)
        now = time.perf_counter()
        assert self.assigned.take(offset, record.size, now)
        arrival = self.assigned.arrival(now, now)
        self.assigned.own(self.tasks.create_task(self.worker._processor.process(self.assigned, record, arrival)))

    def places(self) -> dict[str, tuple[int, int]]:
        """For each place: how many posts say that they are there, and how many are."""
        said: Counter[Phase] = self.assigned.phases
        offsets = self.assigned._offsets
        assert offsets is not None
        isolation = self.worker._processor.isolation
        media = len(self.media.decoders) + len(self.media._fetched._waiting)
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
async def a_bench(model: Fake, kafka: KafkaSettings | None = None) -> AsyncIterator[Bench]:
    settings = Settings(kafka=kafka or KafkaSettings(), worker=WorkerSettings(encode_threads=2, max_in_flight=64))
    topic: Any = Topic()
    assigned = AssignedPartition(
        topic, VerdictCache(1_000, 1 << 20), Erasures(KafkaSettings(), 3), asyncio.Event(), POSTS
    )
    begun = asyncio.Event()

    async def restore() -> None:
        pass

    async with Media(settings.media) as media, Batcher(model, settings.worker) as batcher:
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


REFUSED = [
    (b'{"id":"1","tenant":"shop","language":"de","surface":"chat","note":1}', (), "NOT_DECODABLE", "unknown field"),
    (b'{"id":"1","tenant":"shop","text":5}', (), "NOT_DECODABLE", "text: not a string"),
    (b'{"tenant":"shop"}', (), "INVALID_POST", "id: missing"),
    (b'{"id":"1","tenant":"shop","text":"x"}', [("h\\xe9", b"")], "NOT_DECODABLE", "headers: not UTF-8"),
    (b'{"id":"1","tenant":"shop"}', [("content-type", b"x")], "UNKNOWN_CONTENT_TYPE", "content-type: another format"),
    (Post(id="1", tenant="shop").SerializeToString() + b"\xa2\x06\x01x", PROTOBUF, "INVALID_POST", "unknown field"),
]


@pytest.mark.parametrize(("value", "headers", "code", "detail"), REFUSED)
async def test_what_is_known_of_a_refused_post_goes_into_its_verdict_and_dead_letter(
    value: bytes, headers: Sequence[tuple[str, bytes]], code: str, detail: str
) -> None:
    problem = HEADERS["headers.escaped"] if detail.startswith("headers") else None
    async with asyncio.timeout(20), a_bench(Fake()) as bench:
        with capture_logs() as events:
            bench.take(0, value, headers, problem)
            while len(bench.assigned):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    verdict, letter = bench.topic.sent
    message = wire.read_verdict(verdict.value or b"", verdict.headers)
    assert (message.tenant, message.reason, message.post_id) == ("shop", code, "key" if "id" in detail else "1")
    (said,) = message.problems
    assert ": ".join(filter(None, [said.path, said.detail])) == detail
    marks = dict(letter.headers)
    assert (marks["dlq.error.code"], marks["dlq.error.detail"]) == (code.encode(), detail.encode())
    (event,) = (event for event in events if event["event"] == "post_dead_lettered")
    assert (event["reason"], event["path"], event["detail"]) == (code, said.path, said.detail)


async def test_dead_letters_have_an_age_and_erasures_have_none() -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("moderation_post_seconds_count") or 0.0

    before = counted()
    async with asyncio.timeout(20), a_bench(Fake()) as bench:
        for offset, value in enumerate([b'{"id":"1","text":"judged"}', b"{", None]):
            bench.take(offset, value)
        while len(bench.assigned):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert bench.topic.position == 3
    assert counted() == before + 2


@pytest.mark.parametrize("schema_registry", [False, True])
async def test_a_setting_makes_workers_read_the_prefix_of_a_schema_registry(schema_registry: bool) -> None:
    kafka = KafkaSettings(schema_registry=schema_registry)
    message = Post(id="1", tenant="shop").SerializeToString()
    values = [b'\0\0\0\0\7{"id":"1","tenant":"shop"}', b"\0\0\0\0\7\0" + message]
    async with asyncio.timeout(20), a_bench(Fake(), kafka) as bench:
        for offset, value in enumerate(values):
            bench.take(offset, value)
        while len(bench.assigned):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    published = [message for message in bench.topic.sent if message.topic == kafka.verdicts_topic]
    verdicts = [wire.read_verdict(message.value or b"", message.headers) for message in published]
    assert [(verdict.post_id, verdict.tenant) for verdict in verdicts] == [("1", "shop")] * 2
    problems = [[problem.detail for problem in verdict.problems] for verdict in verdicts]
    assert problems == [[] if schema_registry else ["schema registry prefix"]] * 2
