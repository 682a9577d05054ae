"""The gauges of a worker: how far it is behind, and what it has in hand. They are set twice a second.

What is not known is NaN, never 0. In a rebalance a partition keeps its gauges, and its age goes on, until the group has
assigned the partition again: a gauge that vanished would reset the alerts that wait for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, Protocol

import structlog
from aiokafka import TopicPartition

from moderation.inference.scoring import Scorer
from moderation.kafka.watermarks import Ends
from moderation.models.contract import DeviceMemory
from moderation.observability import metrics
from moderation.observability.phases import IN_HAND, Phase
from moderation.observability.probes import Liveness, Work
from moderation.worker.partition import AssignedPartition

ASK_S = 2.0  # between two requests to the brokers for the ends of the assigned partitions
UNKNOWN_S = 10.0  # without a response of the partition's leader, after which the lag is not known

log = structlog.get_logger()


class Worker(Protocol):
    """The worker that the gauges show."""

    @property
    def assignments(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned to the worker."""

    @property
    def settled(self) -> bool:
        """Whether the group has assigned these partitions and no others. False during a rebalance."""

    @property
    def post_timeout_s(self) -> float:
        """Seconds from a post's poll to its commit."""

    async def ends(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, tuple[Ends, int]]:
        """Returns the ends of partitions as far as their leaders respond, and the positions of the consumer."""


class Lag(NamedTuple):
    """How far the worker is behind on one partition. NaN: not known."""

    records: float = math.nan  # without a committed outcome, up to the high watermark
    unstable: float = math.nan  # of these, behind an open transaction of a producer
    age_s: float = math.nan  # of the oldest of these, as far as known; 0: there is none
    standstill_s: float = math.nan  # since the committed position moved, while records wait; 0: none waits


class PartitionLag:
    """What is known of one partition. `assigned` may be closed: what it has left behind still waits."""

    def __init__(self, assigned: AssignedPartition, now: float) -> None:
        self.assigned = assigned
        self._ends: Ends | None = None
        self._read = 0  # position of the consumer at that time
        self._responded = now  # when the ends were reported, by the clock
        self._committed = -1
        self._since: float | None = None  # when it was first seen that records wait at this committed position
        self._arrived: float | None = None  # when the oldest record arrived, by time.perf_counter

    def take(self, assigned: AssignedPartition) -> None:
        """Follows this life of the partition, once its committed position is known."""
        if assigned is not self.assigned and (assigned.begun or not self.assigned.begun):
            self.assigned, self._read = assigned, 0

    def end(self, ends: Ends, read: int, now: float) -> None:
        """Notes the ends that the partition's leader has reported, and the position of the consumer."""
        self._ends, self._read, self._responded = ends, max(self._read, read), now

    def is_known(self, now: float) -> bool:
        """Whether the leader has responded lately."""
        return now - self._responded <= UNKNOWN_S

    def at(self, now: float, moment: float) -> Lag:
        """Returns the lag. `now`: by the clock; `moment`: by time.perf_counter."""
        assigned, ends = self.assigned, self._ends
        if not assigned.begun or ends is None:
            return Lag()
        records = assigned.uncommitted + max(0, max(ends) - max(self._read, assigned.reached))
        moved, self._committed = assigned.committed != self._committed, assigned.committed
        if not records:
            self._since = None
        elif moved or self._since is None:
            self._since = now
        if (oldest := assigned.oldest_arrived) is not None:
            self._arrived = oldest
        elif moved or not records:
            self._arrived = None  # the oldest has not been read
        standstill = 0.0 if self._since is None else now - self._since
        age = max(standstill, 0.0 if self._arrived is None else moment - self._arrived)
        if self.is_known(now):
            return Lag(records, ends.unstable, age, standstill)
        # More may have come since. What waited still waits, because only this worker commits here.
        return Lag(age_s=age, standstill_s=standstill) if records else Lag()


class WorkerGauges:
    """Sets the gauges of one worker."""

    def __init__(self, worker: Worker, scorer: Scorer, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._scorer = scorer
        self._shown: dict[TopicPartition, PartitionLag] = {}  # partitions with gauges
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
        for partition in self._shown.keys() - assignments.keys() if worker.settled else ():
            self._forget(partition)  # another worker has it now
        for partition, assigned in assignments.items():
            self._shown.setdefault(partition, PartitionLag(assigned, now)).take(assigned)
        for partition, shown in self._shown.items():
            lag, oldest = shown.at(now, time.perf_counter()), shown.assigned.oldest
            metrics.LAG.labels(partition.partition).set(lag.records)
            metrics.UNSTABLE.labels(partition.partition).set(lag.unstable)
            metrics.LAG_AGE.labels(partition.partition).set(lag.age_s)
            metrics.STANDSTILL.labels(partition.partition).set(lag.standstill_s)
            metrics.OLDEST_POST.labels(partition.partition).set(now - oldest[1].taken if oldest else 0)
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

        The end in a fetch response is as old as the fetch: minutes, if the worker is slow. A worker without partitions
        asks, too: so it learns that the brokers are away.
        """
        logged = False
        while True:
            partitions = self._worker.assignments.keys() | self._shown.keys()
            try:
                reported = await self._worker.ends(partitions)
            except Exception as error:  # noqa: BLE001  aiokafka raises errors of any kind; the gauges show the rest
                log.debug("posts_topic_ends_refused", error=type(error).__name__)
                reported = {}
            for partition, (ends, read) in reported.items():
                if partition in self._shown:
                    self._shown[partition].end(ends, read, self._clock())
            unknown = sorted(each.partition for each, at in self._shown.items() if not at.is_known(self._clock()))
            if unknown and not logged:
                log.warning("posts_topic_ends_unknown", partitions=unknown)
            elif logged and not unknown:
                log.info("posts_topic_ends_known")
            logged = bool(unknown)
            await asyncio.sleep(ASK_S)

    def _forget(self, partition: TopicPartition) -> None:
        del self._shown[partition]
        for gauge in (metrics.LAG, metrics.UNSTABLE, metrics.LAG_AGE, metrics.STANDSTILL, metrics.OLDEST_POST):
            gauge.remove(partition.partition)

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


@contextmanager
def updated(worker: Worker, scorer: Scorer, liveness: Liveness) -> Iterator[WorkerGauges | None]:
    """Updates the gauges at every tick of `liveness`. Yields None if there is no operations port to show them.

    Run `ask` while the worker is connected.
    """
    if not liveness.served:
        yield None
        return
    gauges = WorkerGauges(worker, scorer)
    liveness.look = gauges.update
    try:
        yield gauges
    finally:
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
