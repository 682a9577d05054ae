"""The gauges of a worker: how far it is behind, and what it has in hand. They are set twice a second."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
from aiokafka import TopicPartition

from moderation.inference.scoring import Scorer
from moderation.models.contract import DeviceMemory
from moderation.observability import metrics
from moderation.observability.phases import IN_HAND, Phase
from moderation.observability.probes import Liveness, Work
from moderation.worker.partition import AssignedPartition

ASK_S = 5.0  # between two requests to the brokers for the ends of the assigned partitions

log = structlog.get_logger()


class Worker(Protocol):
    """The worker that the gauges show."""

    @property
    def assignments(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned to the worker."""

    @property
    def post_timeout_s(self) -> float:
        """Seconds from a post's poll to its commit."""

    async def ends(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """Returns for each partition its end and the position of the consumer. Raises what aiokafka raises."""


class WorkerGauges:
    """Sets the gauges of one worker."""

    def __init__(self, worker: Worker, scorer: Scorer, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._scorer = scorer
        self._ends: dict[TopicPartition, tuple[int, int]] = {}  # end, and position at that time
        self._idle: dict[TopicPartition, float] = {}  # since when no record is in hand, while the topic holds some
        self._shown: set[TopicPartition] = set()  # partitions with a gauge
        self._pictures = (0, 0)

    def update(self) -> Work:
        """Sets all gauges. Returns what liveness depends on."""
        worker, scorer, now = self._worker, self._scorer, self._clock()
        assignments = worker.assignments
        metrics.PARTITIONS.set(len(assignments))
        metrics.IN_FLIGHT.set(sum(map(len, assignments.values())))
        metrics.IN_FLIGHT_BYTES.set(sum(assigned.bytes for assigned in assignments.values()))
        metrics.CACHED_VERDICTS.set(sum(len(assigned.cache) for assigned in assignments.values()))
        metrics.CACHED_BYTES.set(sum(assigned.cache.bytes for assigned in assignments.values()))
        metrics.QUEUED.set(scorer.waiting)
        metrics.QUEUE_AGE.set(scorer.waited)
        self._update_pictures()
        for partition in self._shown - assignments.keys():
            self._forget(partition)
        for partition, assigned in assignments.items():
            if assigned.open:
                records, seconds = self._lag(partition, assigned, now)
                metrics.LAG.labels(partition.partition).set(records)
                metrics.LAG_AGE.labels(partition.partition).set(seconds)
                metrics.OLDEST_POST.labels(partition.partition).set(
                    now - post[1].taken if (post := assigned.oldest) else 0
                )
                self._shown.add(partition)
        return Work(self._update_phases(), worker.post_timeout_s)

    def _update_phases(self) -> float | None:
        """Counts posts by phase. Returns when the oldest was taken, or None if there is none."""
        phases = sum((assigned.phases for assigned in self._worker.assignments.values()), Counter[Phase]())
        for phase in IN_HAND:
            metrics.IN_PHASE.labels(phase).set(phases[phase])
        return min(
            (oldest[1].taken for assigned in self._worker.assignments.values() if (oldest := assigned.oldest)),
            default=None,
        )

    async def ask(self) -> None:
        """Asks the brokers for the ends of the assigned partitions, until cancelled.

        The end in a fetch response is as old as the fetch: minutes, if the worker is slow.
        """
        while True:
            partitions = [partition for partition, assigned in self._worker.assignments.items() if assigned.open]
            try:
                if partitions:
                    self._ends |= await self._worker.ends(partitions)
            except Exception as error:  # noqa: BLE001  aiokafka raises errors of any kind
                self._ends = {}  # unknown; records in hand still count
                log.debug("posts_topic_ends_unknown", error=type(error).__name__)
            await asyncio.sleep(ASK_S)

    def _lag(self, partition: TopicPartition, assigned: AssignedPartition, now: float) -> tuple[int, float]:
        """Returns the records without a committed outcome, and the age of the oldest in seconds."""
        end, read = self._ends.get(partition, (0, 0))
        beyond = max(0, end - max(read, assigned.reached))
        if (oldest := assigned.oldest_ms) is not None:
            self._idle.pop(partition, None)
            age = max(0.0, time.time() - oldest / 1000) if oldest > 0 else 0.0  # 0: the record has no timestamp
            return len(assigned) + beyond, age
        if not beyond:
            self._idle.pop(partition, None)
            return 0, 0.0
        return beyond, now - self._idle.setdefault(partition, now)  # a lower bound: the records are not read yet

    def _forget(self, partition: TopicPartition) -> None:
        """Removes the gauges of a partition that another worker has now."""
        self._shown.discard(partition)
        self._ends.pop(partition, None)
        self._idle.pop(partition, None)
        metrics.LAG.remove(partition.partition)
        metrics.LAG_AGE.remove(partition.partition)
        metrics.OLDEST_POST.remove(partition.partition)

    def _update_pictures(self) -> None:
        needed, kept = self._scorer.pictures
        metrics.FEATURES_NEEDED.inc(needed - self._pictures[0])
        metrics.FEATURES_REUSED.inc(kept - self._pictures[1])
        self._pictures = needed, kept

    def clear(self) -> None:
        """Clears all gauges: the worker has ended."""
        for partition in list(self._shown):
            self._forget(partition)
        for gauge in (metrics.PARTITIONS, metrics.IN_FLIGHT, metrics.IN_FLIGHT_BYTES, metrics.QUEUED):
            gauge.set(0)
        for gauge in (metrics.QUEUE_AGE, metrics.CACHED_VERDICTS, metrics.CACHED_BYTES):
            gauge.set(0)
        metrics.IN_PHASE.clear()


@asynccontextmanager
async def updated(worker: Worker, scorer: Scorer, liveness: Liveness) -> AsyncIterator[None]:
    """Updates the gauges at every tick of `liveness`, if the operations port is open."""
    if not liveness.served:
        yield
        return
    gauges = WorkerGauges(worker, scorer)
    liveness.look = gauges.update
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(gauges.ask())
        try:
            yield
        finally:
            asking.cancel()
            liveness.look = Work
            gauges.clear()


@asynccontextmanager
async def device_memory(ask: Callable[[], DeviceMemory | None]) -> AsyncIterator[None]:
    """Shows the memory of the device. It is read when Prometheus asks, on that thread: a device may hang."""
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
