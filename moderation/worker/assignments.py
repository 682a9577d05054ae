"""The partitions that are assigned to a worker: each is opened, drained and closed here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka import refusals, watermarks
from moderation.kafka.broker_clock import BrokerClock
from moderation.kafka.consumer import Consumer, UnreadableError
from moderation.kafka.topics import partitions_command
from moderation.kafka.watermarks import Ends
from moderation.observability import metrics
from moderation.settings import Settings
from moderation.worker import opening, restore
from moderation.worker.at_least_once import AtLeastOnce
from moderation.worker.erasures import Erasures
from moderation.worker.opening import Opening
from moderation.worker.partition import AssignedPartition
from moderation.worker.publisher import Publisher

ASK_AGAIN_S = 0.2  # after brokers that could not say where a partition begins and ends
GROW_S = 2.0  # between two looks for a partition that a topic lacks
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
        *,
        clock: BrokerClock,
    ) -> None:
        """begin_task: starts a task in the group. An error of this task ends the worker, after a last commit.

        `changed` is set when a partition was opened, has committed or was given back. `clock`: publishers measure it.
        """
        self._clock = clock
        self._group = tasks
        self._settings = settings
        self._consumer = consumer
        self._begin_task = begin_task
        self._changed = changed
        self._partitions: dict[TopicPartition, AssignedPartition] = {}
        self._tasks: dict[AssignedPartition, asyncio.Task[None]] = {}  # each ends when its partition is drained
        self._closing: set[asyncio.Task[None]] = set()
        self._settled = False
        self._refused = False
        self._topic_partitions = 0
        self._releases = 0  # calls of `release`
        self._writable = 0  # how many partitions the topics that outcomes are written to have, at least

    @property
    def partitions(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned now."""
        return self._partitions

    @property
    def settled(self) -> bool:
        """Whether these are all partitions that the group has assigned. False in a rebalance and during a reopening."""
        return self._settled and not self._closing

    @property
    def topic_partitions(self) -> int:
        """How many partitions the posts topic has. The client learns of new ones within seconds."""
        known = self._consumer.partitions_for_topic(self._settings.kafka.posts_topic) or ()
        self._topic_partitions = max(self._topic_partitions, len(known))  # metadata may lack the topic for a moment
        return self._topic_partitions

    def refuse(self) -> None:
        """Opens no further partition: the process ends."""
        self._refused = True

    def drop(self) -> None:
        """The worker has crashed. What the partitions hold is left to other workers."""
        self._partitions = {}

    def open(self, partitions: Iterable[TopicPartition]) -> None:
        """Begins to open each partition. A partition is paused until it is open."""
        metrics.REBALANCES.inc()
        self._settled = True
        self._consumer.pause(*partitions)
        for partition in partitions if not self._refused else ():
            self._open(partition)

    def reopen(self, partition: TopicPartition) -> None:
        """Drains a partition and opens it again: the log is not the one that was read, or not where it was read.

        Does nothing if the partition is closing.
        """
        if (assigned := self._partitions.pop(partition, None)) is not None:
            self._consumer.pause(partition)
            self._own(self._reopen(partition, assigned))

    async def _reopen(self, partition: TopicPartition, assigned: AssignedPartition) -> None:
        releases = self._releases
        patience = self._settings.kafka.rebalance_timeout_ms / 2000
        await self._close(partition, assigned, self._tasks[assigned], (patience, patience))
        if releases == self._releases and not self._refused:  # otherwise it is another worker's, or comes by `open`
            self._open(partition)

    def _open(self, partition: TopicPartition) -> None:
        cache = VerdictCache(self._settings.worker.verdict_cache_posts, self._settings.worker.verdict_cache_bytes)
        limit = self._settings.worker.max_partition_in_flight
        erasures = Erasures(self._settings.kafka, partition.partition)
        assigned = AssignedPartition(self._publisher(partition), cache, erasures, self._changed, limit)
        self._partitions[partition] = assigned
        self._tasks[assigned] = self._begin_task(self._run(partition, assigned, cache))

    async def _run(self, partition: TopicPartition, assigned: AssignedPartition, cache: VerdictCache) -> None:
        await self._grown(partition)
        fill = partial(restore.restore, cache, self._settings.kafka, partition.partition)
        await assigned.run(fill, partial(self._begin, partition, assigned))

    async def _grown(self, partition: TopicPartition) -> None:
        """Waits until the topics that outcomes are written to have this partition, too. Says what is missing."""
        topics = self._settings.kafka.verdicts_topic, self._settings.kafka.dead_letters
        said = False
        while partition.partition >= self._writable:
            try:
                cluster = await self._consumer._client.fetch_all_metadata()
            except KafkaError:  # no broker is reached
                await asyncio.sleep(GROW_S)
                continue
            counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
            self._writable = min(counts.values())
            if partition.partition < self._writable:
                return
            if not said:
                log.error("partition_without_verdicts", partition=partition.partition, commands=self._growing(counts))
                said = True
            await asyncio.sleep(GROW_S)

    def _growing(self, counts: Mapping[str, int]) -> list[str]:
        """The commands that give topics as many partitions as the posts topic has. counts: by topic."""
        wanted = self.topic_partitions
        return [partitions_command(self._settings.kafka, topic, wanted) for topic in counts if counts[topic] < wanted]

    async def release(self, patience: float, *, hopeless: bool = False) -> None:
        """Drains and closes all partitions. Returns when all are closed, also those of an earlier release.

        patience: seconds for posts in hand, and again for the last transaction. hopeless: posts in hand wait for a
        model server that is away, so they are given up at once, and their next owner judges them.
        """
        self._releases += 1
        self._settled = False
        drain = 0.0 if hopeless else patience
        for partition, assigned in self._partitions.items():
            self._own(self._close(partition, assigned, self._tasks[assigned], (drain, patience)))
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

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[Ends, int]]:
        """Returns the ends of partitions as far as their leaders respond, and the positions of the consumer.

        The position is 0 where the consumer has none.
        """
        ends = await watermarks.ends(self._consumer, partitions)
        # Positions are read after the ends: a position moves over transaction markers too, which are not records.
        return {partition: (found, await self._read_position(partition)) for partition, found in ends.items()}

    async def _read_position(self, partition: TopicPartition) -> int:
        assigned = self._partitions.get(partition)
        if assigned is None or not assigned.open or partition not in self._consumer.assignment():
            return 0
        position: int = await self._consumer.position(partition)
        return position

    def _publisher(self, partition: TopicPartition) -> Publisher:
        find = partial(self._position, partition)
        if self._settings.kafka.delivery == "exactly_once":
            return Publisher(self._settings.kafka, partition.partition, find, self._clock)

        async def commit(position: int, metadata: str) -> None:
            try:
                await self._consumer.commit({partition: (position, metadata)})
            except KafkaError as error:
                what = f"committing {partition.topic}/{partition.partition} up to offset {position} has failed"
                raise refusals.failure(self._settings.kafka, what, error, self._consumer) from error

        return AtLeastOnce(self._settings.kafka, partition.partition, find, commit, self._clock)

    async def _position(self, partition: TopicPartition) -> Opening:
        """Returns the first offset without an outcome. Called after this worker's producer has fenced earlier ones."""
        try:
            async with asyncio.timeout(self._settings.kafka.connect_timeout_s):
                while True:
                    try:
                        return await opening.find(self._consumer, self._settings.kafka, partition)
                    except KafkaError as error:
                        if not error.retriable:
                            raise
                    await self._consumer._client.force_metadata_update()  # the leader may be another one now
                    await asyncio.sleep(ASK_AGAIN_S)
        except (KafkaError, UnreadableError, TimeoutError) as error:
            what = f"no position in {partition.topic}/{partition.partition}"
            raise refusals.failure(self._settings.kafka, what, error, self._consumer) from error

    def _begin(self, partition: TopicPartition, assigned: AssignedPartition, opened: Opening) -> None:
        position = opened.position
        opened.tell(partition)
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

    def _own(self, closing: Coroutine[Any, Any, None]) -> None:
        """Starts a task that closes a partition. `release` waits for it."""
        task = self._group.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

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

    def __init__(
        self,
        assignments: Assignments,
        patience: float,
        hopeless: Callable[[], bool],
        joined: Callable[[], None],
    ) -> None:
        """patience, hopeless: see Assignments.release. joined: called for each assignment, also an empty one."""
        self._joined = joined
        self._assignments = assignments
        self._patience = patience
        self._hopeless = hopeless

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Holds the rebalance back until all partitions are drained."""
        await self._assignments.release(self._patience, hopeless=self._hopeless())

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Returns at once: there are no heartbeats while this method runs."""
        self._assignments.open(assigned)
        self._joined()
