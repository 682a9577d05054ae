"""The partitions that are assigned to a worker: each is opened, drained and closed here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from moderation.errors import DeliveryError
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka import offsets
from moderation.kafka.consumer import Consumer
from moderation.observability import metrics
from moderation.settings import Settings
from moderation.worker import restore
from moderation.worker.at_least_once import AtLeastOnce
from moderation.worker.partition import AssignedPartition
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Mark, Opening

COMMIT_FIRST_S = 5.0  # for what is ready, before an error ends the process

BeginTask = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

log = structlog.get_logger()


class Assignments:
    """Opens and closes the partitions of one member of the consumer group."""

    def __init__(
        self,
        settings: Settings,
        consumer: Consumer,
        tasks: asyncio.TaskGroup,
        begin_task: BeginTask,
        changed: asyncio.Event,
    ) -> None:
        """begin_task: starts a task in the group. An error of this task ends the worker, after a last commit.

        `changed` is set when a partition was opened, has committed or was given back.
        """
        self._group = tasks
        self._settings = settings
        self._consumer = consumer
        self._begin_task = begin_task
        self._changed = changed
        self._partitions: dict[TopicPartition, AssignedPartition] = {}
        self._tasks: dict[AssignedPartition, asyncio.Task[None]] = {}  # each ends when its partition is drained
        self._closing: set[asyncio.Task[None]] = set()
        self._refused = False

    @property
    def partitions(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned now."""
        return self._partitions

    def refuse(self) -> None:
        """Opens no further partition: the process ends."""
        self._refused = True

    def drop(self) -> None:
        """The worker has crashed. What the partitions hold is left to other workers."""
        self._partitions = {}

    def open(self, partitions: Iterable[TopicPartition]) -> None:
        """Begins to open each partition. A partition is paused until it is open."""
        metrics.REBALANCES.inc()
        self._consumer.pause(*partitions)
        for partition in partitions if not self._refused else ():
            cache = VerdictCache(self._settings.worker.verdict_cache_posts, self._settings.worker.verdict_cache_bytes)
            limit = self._settings.worker.max_partition_in_flight
            assigned = AssignedPartition(self._publisher(partition), cache, self._changed, limit)
            self._partitions[partition] = assigned
            fill = partial(restore.restore, cache, self._settings.kafka, partition.partition)
            self._tasks[assigned] = self._begin_task(assigned.run(fill, partial(self._begin, partition, assigned)))

    async def release(self, patience: float, *, hopeless: bool = False) -> None:
        """Drains and closes all partitions. Returns when all are closed, also those of an earlier release.

        patience: seconds for posts in hand, and again for the last transaction. hopeless: posts in hand wait for a
        model server that is away, so they are given up at once, and their next owner judges them.
        """
        drain = 0.0 if hopeless else patience
        for partition, assigned in self._partitions.items():
            closing = self._group.create_task(
                self._close(partition, assigned, self._tasks[assigned], (drain, patience))
            )
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._partitions = {}
        self._changed.set()
        if self._closing:
            await asyncio.wait(self._closing)

    async def commit_first(self, crashed: Callable[[AssignedPartition], bool]) -> None:
        """Each partition commits what is ready, within COMMIT_FIRST_S. A partition whose publisher failed has ended.

        crashed: whether posts of this partition may have caused the end of the process.
        """
        tasks = dict(self._tasks)
        for assigned, task in tasks.items():
            if not assigned.begun:
                task.cancel()
            assigned.end(crashed=crashed(assigned))
        if tasks:
            _, late = await asyncio.wait(tasks.values(), timeout=COMMIT_FIRST_S)
            log.info("committed_before_exit", partitions=len(tasks), late=len(late))

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Returns for each partition its end and the position of the consumer. Raises what aiokafka raises."""
        ends = await self._consumer.end_offsets(list(partitions))
        # Positions are read after the ends: a position moves over transaction markers too, which are not records.
        return {partition: (end, await self._consumer.position(partition)) for partition, end in ends.items()}

    def _publisher(self, partition: TopicPartition) -> Publisher:
        find = partial(self._position, partition)
        if self._settings.kafka.delivery == "exactly_once":
            return Publisher(self._settings.kafka, partition.partition, find)

        async def commit(position: int, metadata: str) -> None:
            await self._consumer.commit({partition: (position, metadata)})

        return AtLeastOnce(self._settings.kafka, partition.partition, find, commit)

    async def _position(self, partition: TopicPartition) -> Opening:
        """Returns the first offset without an outcome. Called after this worker's producer has fenced earlier ones."""
        try:
            async with asyncio.timeout(self._settings.kafka.connect_timeout_s):
                committed = await offsets.committed(self._consumer, partition)
                if committed is None:
                    return Opening((await self._consumer.beginning_offsets([partition]))[partition])
                mark = Mark.read(committed.metadata, committed.offset)
                if mark.open:
                    mark = mark.suspected(committed.offset, (await self._consumer.end_offsets([partition]))[partition])
        except (KafkaError, TimeoutError) as error:
            what = f"no position in {partition.topic}/{partition.partition}"
            raise DeliveryError(f"{what}: {type(error).__name__}") from error
        return Opening(committed.offset, mark)

    def _begin(self, partition: TopicPartition, assigned: AssignedPartition, position: int) -> None:
        self._consumer.seek(partition, position)
        self._consumer.resume(partition)
        log.info("partition_assigned", partition=partition.partition, position=position)
        mark = assigned.suspects.initial
        if mark.openings:
            log.warning(
                "partition_opened_with_suspects",
                partition=partition.partition,
                position=position,
                openings=mark.openings,
                until=mark.until,
            )

    async def _close(
        self,
        partition: TopicPartition,
        assigned: AssignedPartition,
        task: asyncio.Task[None],
        patience: tuple[float, float],
    ) -> None:
        """patience: seconds for posts in hand, and then for the last transaction."""
        if not assigned.begun:
            task.cancel()
        assigned.drain()
        await asyncio.wait([task], timeout=patience[0])
        left = len(assigned)
        assigned.cut()
        await asyncio.wait([task], timeout=patience[1])
        task.cancel()  # the next owner fences this producer and continues from the committed offset
        await asyncio.wait([task])
        del self._tasks[assigned]
        log.info("partition_revoked", partition=partition.partition, unfinished=left)


class Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called by aiokafka, which swallows exceptions: so all that can fail runs in tasks of the worker."""

    def __init__(self, assignments: Assignments, patience: float, hopeless: Callable[[], bool]) -> None:
        """patience, hopeless: see Assignments.release."""
        self._assignments = assignments
        self._patience = patience
        self._hopeless = hopeless

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Holds the rebalance back until all partitions are drained."""
        await self._assignments.release(self._patience, hopeless=self._hopeless())

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Returns at once: there are no heartbeats while this method runs."""
        self._assignments.open(assigned)
