"""What a worker says of its lag, on a schedule that a test decides."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.inference.batcher import Batcher
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka.watermarks import Ends
from moderation.models.contract import DeviceMemory
from moderation.models.fake import Fake
from moderation.settings import KafkaSettings, WorkerSettings
from moderation.worker import gauges
from moderation.worker.erasures import Erasures
from moderation.worker.gauges import WorkerGauges
from moderation.worker.messages import Result
from moderation.worker.offset_metadata import Log
from moderation.worker.opening import Opening
from moderation.worker.partition import AssignedPartition
from moderation.worker.suspects import Mark

PARTITION = TopicPartition("posts", 41)


class Topic:
    """Accepts what a partition publishes once `let` is set."""

    def __init__(self) -> None:
        self.position, self.opening, self.log = 5, Opening(5), Log()
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

    async def until_committed(self) -> None:
        self._worker_changed.clear()
        async with asyncio.timeout(10):
            await self._worker_changed.wait()


class Worker:
    """A worker with one partition, and brokers that report its end."""

    def __init__(self, assigned: AssignedPartition) -> None:
        self.assignments: dict[TopicPartition, AssignedPartition] = {PARTITION: assigned}
        self.settled = True
        self.post_timeout_s = 900.0
        self.end: tuple[Ends, int] | None = None  # None: no broker responds
        self.asked = asyncio.Event()

    async def ends(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, tuple[Ends, int]]:
        self.partitions = set(partitions)
        self.asked.set()
        return {PARTITION: self.end} if self.end else {}


@pytest.fixture
async def assigned() -> AsyncIterator[tuple[Watched, Topic]]:
    topic: Any = Topic()
    assigned = Watched(topic, VerdictCache(10, 1 << 20), Erasures(KafkaSettings(), 3), asyncio.Event(), 10)
    begun = asyncio.Event()

    async def restore() -> None:
        pass

    life = asyncio.create_task(assigned.run(restore, lambda _: begun.set()))
    await begun.wait()
    yield assigned, topic
    topic.let.set()
    assigned.cut()
    await life


def shown(*names: str) -> tuple[float, ...]:
    """The gauges of the partition; -1 for one that is not there, -2 for NaN."""
    values = [REGISTRY.get_sample_value(f"moderation_worker_{name}", {"partition": "41"}) for name in names]
    return tuple(-1 if value is None else -2 if math.isnan(value) else value for value in values)


def lag() -> tuple[float, ...]:
    return shown("lag_records", "lag_seconds")


async def asked(watch: WorkerGauges, worker: Worker) -> None:
    """The brokers were asked once."""
    watch.update()
    worker.asked.clear()
    asking = asyncio.create_task(watch.ask())
    await worker.asked.wait()
    asking.cancel()
    await asyncio.wait([asking])


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched(assigned: tuple[Watched, Topic]) -> Iterator[tuple[WorkerGauges, Worker, Clock]]:
    worker, clock = Worker(assigned[0]), Clock()
    gauges = WorkerGauges(worker, Batcher(Fake(), WorkerSettings()), clock)
    yield gauges, worker, clock
    gauges.clear()


async def test_lag_is_what_has_no_committed_answer(
    assigned: tuple[Watched, Topic], watched: tuple[WorkerGauges, Worker, Clock]
) -> None:
    partition, topic = assigned
    watch, worker, clock = watched
    watch.update()
    assert lag() == (-2, -2), "no broker has reported where the partition ends"
    worker.end = Ends(5, 5), 5
    await asked(watch, worker)
    watch.update()
    assert lag() == (0, 0)

    worker.end = Ends(9, 9), 5  # four records that are not read yet
    await asked(watch, worker)
    watch.update()
    clock.now += 5
    watch.update()
    assert lag() == (4, 5)  # and no timestamp: at least as long as they are known of

    partition.take(5, 100, time.perf_counter() - 300)
    partition.take(6, 100, time.perf_counter() - 200)
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
    await partition.until_committed()
    watch.update()
    records, seconds = lag()
    assert records == 3
    assert seconds == pytest.approx(200, abs=5)

    partition.settle(6, Result((), None, time.perf_counter()))
    await partition.until_committed()
    worker.end = Ends(9, 9), 9  # what stood beyond were the marks of transactions
    await asked(watch, worker)
    watch.update()
    assert lag() == shown("unstable_records", "standstill_seconds") == (0, 0)


async def test_records_behind_an_open_transaction_are_lag_and_time_counts(
    watched: tuple[WorkerGauges, Worker, Clock],
) -> None:
    watch, worker, clock = watched
    worker.end = Ends(5, 873), 5
    for passed in (0, 5, 10):
        clock.now += passed
        await asked(watch, worker)
        watch.update()
    assert shown("lag_records", "unstable_records", "lag_seconds", "standstill_seconds") == (868, 868, 15, 15)
    worker.end = Ends(873, 873), 873  # it was aborted
    await asked(watch, worker)
    watch.update()
    assert shown("lag_records", "unstable_records", "lag_seconds", "standstill_seconds") == (0, 0, 0, 0)


async def test_a_position_that_moves_is_no_standstill(
    assigned: tuple[Watched, Topic], watched: tuple[WorkerGauges, Worker, Clock]
) -> None:
    """A producer that always has a transaction open: some records wait whenever the brokers are asked."""
    (partition, topic), (watch, worker, clock) = assigned, watched
    topic.let.set()
    for offset in range(5, 8):
        worker.end = Ends(offset, 20), offset
        await asked(watch, worker)
        watch.update()
        clock.now += 8
        watch.update()
        assert shown("standstill_seconds") == (8,)
        partition.take(offset, 100, time.perf_counter())
        partition.settle(offset, Result((), None, time.perf_counter()))
        await partition.until_committed()


async def test_an_unknown_end_is_never_shown_as_no_lag(
    assigned: tuple[Watched, Topic], watched: tuple[WorkerGauges, Worker, Clock]
) -> None:
    (partition, _), (watch, worker, clock) = assigned, watched
    worker.end = Ends(5, 5), 5
    await asked(watch, worker)
    worker.end = None
    clock.now += gauges.UNKNOWN_S
    watch.update()
    assert lag() == (0, 0)
    clock.now += 1
    with capture_logs() as logged:
        await asked(watch, worker)
        watch.update()
        assert shown("lag_records", "unstable_records", "lag_seconds", "standstill_seconds") == (-2,) * 4
        partition.take(5, 100, time.perf_counter())
        watch.update()
        clock.now += 30
        watch.update()
        assert shown("lag_records", "lag_seconds", "standstill_seconds") == (-2, 30, 30), "what waits, still waits"
    assert logged == [{"event": "posts_topic_ends_unknown", "log_level": "warning", "partitions": [41]}]


async def test_a_rebalance_keeps_what_is_known_until_the_group_has_assigned_the_partition(
    assigned: tuple[Watched, Topic], watched: tuple[WorkerGauges, Worker, Clock]
) -> None:
    (partition, _), (watch, worker, clock) = assigned, watched
    partition.take(5, 100, time.perf_counter() - 700)
    partition.take(6, 100, time.perf_counter())
    worker.end = Ends(9, 9), 7
    await asked(watch, worker)
    watch.update()
    worker.assignments, worker.settled = {}, False
    partition.cut()  # drained in vain: its next owner judges them
    clock.now += 5
    worker.end = Ends(12, 12), 0
    await asked(watch, worker)
    watch.update()
    records, seconds, standstill = shown("lag_records", "lag_seconds", "standstill_seconds")
    assert (records, standstill) == (7, 5)
    assert seconds == pytest.approx(700, abs=5)

    opening: Any = Topic()
    again = Watched(opening, VerdictCache(10, 1 << 20), Erasures(KafkaSettings(), 3), asyncio.Event(), 10)
    worker.assignments, worker.settled = {PARTITION: again}, True  # to the same worker: it opens
    clock.now += 3
    watch.update()
    assert shown("lag_records", "standstill_seconds") == (7, 8)

    worker.assignments = {}
    watch.update()
    assert lag() == (-1, -1)  # another worker has the partition now


async def test_a_worker_without_partitions_asks_the_brokers(watched: tuple[WorkerGauges, Worker, Clock]) -> None:
    watch, worker, _ = watched
    worker.assignments = {}
    await asked(watch, worker)
    assert worker.partitions == set()


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
