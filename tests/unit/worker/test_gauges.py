"""What a worker says of its lag, on a schedule that a test decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from prometheus_client import REGISTRY

from moderation.inference.batcher import Batcher
from moderation.inference.verdict_cache import VerdictCache
from moderation.models.contract import DeviceMemory
from moderation.models.fake import Fake
from moderation.settings import WorkerSettings
from moderation.worker import gauges
from moderation.worker.gauges import WorkerGauges
from moderation.worker.partition import AssignedPartition, Result
from moderation.worker.suspects import Mark

PARTITION = TopicPartition("posts", 41)


class Topic:
    """Accepts what a partition publishes once `let` is set."""

    def __init__(self) -> None:
        self.position, self.mark = 5, Mark()
        self.let = asyncio.Event()

    async def __aenter__(self) -> Topic:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def publish(self, messages: Sequence[Any], position: int, mark: Mark) -> None:
        await self.let.wait()
        self.position = position


class Watched(AssignedPartition):
    """A partition whose commits a test can await."""

    async def committed(self) -> None:
        self._worker_changed.clear()
        async with asyncio.timeout(10):
            await self._worker_changed.wait()


class Worker:
    """A worker with one partition, and brokers that report its end."""

    def __init__(self, assigned: AssignedPartition) -> None:
        self.assignments: dict[TopicPartition, AssignedPartition] = {PARTITION: assigned}
        self.post_timeout_s = 900.0
        self.end = (0, 0)
        self.asked = asyncio.Event()

    async def ends(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        assert list(partitions) == [PARTITION]
        self.asked.set()
        if self.end[0] < 0:
            raise KafkaConnectionError
        return {PARTITION: self.end}


@pytest.fixture
async def assigned() -> AsyncIterator[tuple[Watched, Topic]]:
    topic: Any = Topic()
    assigned = Watched(topic, VerdictCache(10, 1 << 20), asyncio.Event(), 10)
    begun = asyncio.Event()

    async def restore() -> None:
        pass

    life = asyncio.create_task(assigned.run(restore, lambda _: begun.set()))
    await begun.wait()
    yield assigned, topic
    topic.let.set()
    assigned.cut()
    await life


def lag() -> tuple[float | None, float | None]:
    labels = {"partition": "41"}
    names = ("moderation_worker_lag_records", "moderation_worker_lag_seconds")
    records, seconds = (REGISTRY.get_sample_value(name, labels) for name in names)
    return records, seconds


async def asked(watch: WorkerGauges, worker: Worker) -> None:
    """The brokers were asked once."""
    worker.asked.clear()
    asking = asyncio.create_task(watch.ask())
    await worker.asked.wait()
    asking.cancel()
    await asyncio.wait([asking])


async def test_lag_is_what_has_no_committed_answer(assigned: tuple[Watched, Topic]) -> None:
    partition, topic = assigned
    worker = Worker(partition)
    now = 1_000.0
    watch = WorkerGauges(worker, Batcher(Fake(), WorkerSettings()), lambda: now)
    watch.update()
    assert lag() == (0, 0)

    worker.end = (9, 5)  # four records that are not read yet
    await asked(watch, worker)
    watch.update()
    now += 30
    watch.update()
    assert lag() == (4, 30)  # and no timestamp: at least as long as they are known of

    partition.take(5, 100, int((time.time() - 300) * 1000))
    partition.take(6, 100, int((time.time() - 200) * 1000))
    watch.update()
    records, seconds = lag()
    assert records == 4
    assert seconds == pytest.approx(300, abs=5)

    partition.settle(5, Result((), None, time.perf_counter()))  # ready, and not committed: a broker keeps it waiting
    oldest = watch.update().oldest
    assert oldest is not None
    assert time.monotonic() - oldest < 10, "it counts until it is committed"
    assert REGISTRY.get_sample_value("moderation_worker_posts_in_phase", {"phase": "commit"}) == 1
    assert REGISTRY.get_sample_value("moderation_worker_posts_in_phase", {"phase": "isolation"}) == 1
    assert lag()[0] == 4

    topic.let.set()
    await partition.committed()
    watch.update()
    records, seconds = lag()
    assert records == 3
    assert seconds == pytest.approx(200, abs=5)

    partition.settle(6, Result((), None, time.perf_counter()))
    await partition.committed()
    worker.end = (9, 9)  # what stood beyond were the marks of transactions
    await asked(watch, worker)
    watch.update()
    assert lag() == (0, 0)

    worker.end = (-1, 0)
    await asked(watch, worker)  # the brokers are away: what is in hand still counts
    watch.update()
    assert lag() == (0, 0)

    worker.assignments = {}
    watch.update()
    assert lag() == (None, None)  # another worker has the partition now


async def test_device_memory_is_asked_for_when_prometheus_asks() -> None:
    class OnDevice(Fake):
        held = 3
        pictures = (10, 4)

        def device_memory(self) -> DeviceMemory:
            return DeviceMemory("cuda:0", 2, self.held, 8)

    def memory_gauge(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"moderation_gpu_memory_{name}_bytes", {"device": "cuda:0"})

    model = OnDevice()
    async with gauges.device_memory(model.device_memory):
        assert [memory_gauge(name) for name in ("allocated", "reserved", "total")] == [2, 3, 8]
        model.held = 5
        assert memory_gauge("reserved") == 5
    assert memory_gauge("total") is None
    async with gauges.device_memory(Batcher(Fake(), WorkerSettings()).device_memory):
        assert memory_gauge("total") is None
