"""What a worker's gauges say, looked at twice a second: how far behind it is, and what it has in hand."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
from aiokafka import TopicPartition

from moderation.inference.batcher import Batcher
from moderation.models.contract import Measured
from moderation.observability import metrics
from moderation.observability.phases import IN_HAND, Phase
from moderation.observability.probes import Liveness, Work
from moderation.worker.partition import AssignedPartition

ASK_S = 5.0  # between two questions to the brokers for the ends of our partitions


log = structlog.get_logger()


class Worker(Protocol):
    """What is looked at."""

    @property
    def assignments(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned to it."""

    @property
    def post_timeout_s(self) -> float:
        """From a post's poll to its commit."""

    async def ends(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """For each, where it ends and how far it is read. Raises what aiokafka does."""


class WorkerGauges:
    """Keeps the gauges of one worker."""

    def __init__(
        self, worker: Worker, batcher: Batcher, model: object, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._clock = clock
        self._batcher = batcher
        self._model = model if isinstance(model, Measured) else None
        self._ends: dict[TopicPartition, tuple[int, int]] = {}  # as the brokers have said: the end, what was read then
        self._idle: dict[TopicPartition, float] = {}  # since when there are records that are not taken on, and no other
        self._told: set[TopicPartition] = set()
        self._pictures = (0, 0)

    def look(self) -> Work:
        """Sets all gauges."""
        worker, batcher, now = self._worker, self._batcher, self._clock()
        assignments = worker.assignments
        metrics.PARTITIONS.set(len(assignments))
        metrics.IN_FLIGHT.set(sum(map(len, assignments.values())))
        metrics.IN_FLIGHT_BYTES.set(sum(assigned.bytes for assigned in assignments.values()))
        metrics.CACHED_VERDICTS.set(sum(len(assigned.cache) for assigned in assignments.values()))
        metrics.CACHED_BYTES.set(sum(assigned.cache.bytes for assigned in assignments.values()))
        metrics.QUEUED.set(batcher.waiting)
        metrics.QUEUE_AGE.set(batcher.waited)
        self._look_at_pictures()
        for partition in self._told - assignments.keys():
            self._forget(partition)
        for partition, assigned in assignments.items():
            if assigned.open:
                records, seconds = self._lag(partition, assigned, now)
                metrics.LAG.labels(partition.partition).set(records)
                metrics.LAG_AGE.labels(partition.partition).set(seconds)
                metrics.OLDEST_POST.labels(partition.partition).set(
                    now - post[1].taken if (post := assigned.oldest) else 0
                )
                self._told.add(partition)
        return Work(self._look_at_posts(), worker.post_timeout_s)

    def _look_at_posts(self) -> float | None:
        """Counts them by phase. When the oldest was taken; None: there is none."""
        phases = sum((assigned.phases for assigned in self._worker.assignments.values()), Counter[Phase]())
        for phase in IN_HAND:
            metrics.IN_PHASE.labels(phase).set(phases[phase])
        return min(
            (oldest[1].taken for assigned in self._worker.assignments.values() if (oldest := assigned.oldest)),
            default=None,
        )

    async def ask(self) -> None:
        """Asks the brokers where our partitions end, until cancelled.

        What a fetch says of it is as old as the fetch: of a partition that we are slow with, minutes.
        """
        while True:
            partitions = [partition for partition, assigned in self._worker.assignments.items() if assigned.open]
            try:
                if partitions:
                    self._ends |= await self._worker.ends(partitions)
            except Exception as error:  # noqa: BLE001  aiokafka raises what it likes
                self._ends = {}  # nobody says; what the worker has in hand still counts
                log.debug("ends_unknown", error=type(error).__name__)
            await asyncio.sleep(ASK_S)

    def _lag(self, partition: TopicPartition, assigned: AssignedPartition, now: float) -> tuple[int, float]:
        """Records without a committed answer, and the age of the oldest."""
        end, read = self._ends.get(partition, (0, 0))
        beyond = max(0, end - max(read, assigned.reached))
        if (oldest := assigned.oldest_ms) is not None:
            self._idle.pop(partition, None)
            return len(assigned) + beyond, max(
                0.0, time.time() - oldest / 1000
            ) if oldest > 0 else 0.0  # 0: nobody said
        if not beyond:
            self._idle.pop(partition, None)
            return 0, 0.0
        return beyond, now - self._idle.setdefault(partition, now)  # at least: nobody has read them

    def _forget(self, partition: TopicPartition) -> None:
        """Another worker tells of it now."""
        self._told.discard(partition)
        self._ends.pop(partition, None)
        self._idle.pop(partition, None)
        metrics.LAG.remove(partition.partition)
        metrics.LAG_AGE.remove(partition.partition)
        metrics.OLDEST_POST.remove(partition.partition)

    def _look_at_pictures(self) -> None:
        if self._model is not None:
            asked, found = self._model.pictures
            metrics.FEATURES_NEEDED.inc(asked - self._pictures[0])
            metrics.FEATURES_REUSED.inc(found - self._pictures[1])
            self._pictures = asked, found

    def forget(self) -> None:
        """The worker is gone."""
        for partition in list(self._told):
            self._forget(partition)
        for gauge in (metrics.PARTITIONS, metrics.IN_FLIGHT, metrics.IN_FLIGHT_BYTES, metrics.QUEUED):
            gauge.set(0)
        for gauge in (metrics.QUEUE_AGE, metrics.CACHED_VERDICTS, metrics.CACHED_BYTES):
            gauge.set(0)
        metrics.IN_PHASE.clear()


@asynccontextmanager
async def watched(worker: Worker, batcher: Batcher, model: object, liveness: Liveness) -> AsyncIterator[None]:
    """Looks at the worker at every beat of the pulse, if anybody wants to know."""
    if not liveness.served:
        yield
        return
    vitals = WorkerGauges(worker, batcher, model)
    liveness.look = vitals.look
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(vitals.ask())
        try:
            yield
        finally:
            asking.cancel()
            liveness.look = Work
            vitals.forget()


@asynccontextmanager
async def device_memory(model: object) -> AsyncIterator[None]:
    """Its gauges ask when Prometheus does, on that thread: a device that hangs does not hold up the event loop."""
    ask = model.memory if isinstance(model, Measured) else lambda: None
    if (first := ask()) is None:
        yield
        return
    metrics.GPU_ALLOCATED.labels(first.device).set_function(lambda: now.allocated if (now := ask()) else 0)
    metrics.GPU_RESERVED.labels(first.device).set_function(lambda: now.reserved if (now := ask()) else 0)
    metrics.GPU_TOTAL.labels(first.device).set(first.total)
    try:
        yield
    finally:
        for gauge in (metrics.GPU_ALLOCATED, metrics.GPU_RESERVED, metrics.GPU_TOTAL):
            gauge.clear()
