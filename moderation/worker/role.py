"""From the posts topic to the verdicts topic. What happens to each record, exactly once:

    a verdict; or, where the post cannot be judged, a dead letter and a verdict of status UNDETERMINED

in the transaction that commits its offset, in the order of its partition. Anything else ends the process: the broker
then gives its partitions to another worker, which fences ours and goes on from what is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

import moderation
from moderation import models
from moderation.errors import ConfigError, DeliveryError
from moderation.inference.batcher import Batcher
from moderation.inference.verdict_cache import VerdictCache
from moderation.kafka import clients, offsets
from moderation.kafka.consumer import UnreadableError
from moderation.kafka.records import Record
from moderation.kafka.topics import check_topics
from moderation.lifecycle import uncancelled, unless_stopped
from moderation.media.reader import Media
from moderation.moderator import Moderator
from moderation.observability import metrics, probes
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.settings import Settings
from moderation.worker import gauges, restore
from moderation.worker.partition import AssignedPartition
from moderation.worker.processor import Processor
from moderation.worker.publisher import AtLeastOnce, Publisher
from moderation.worker.shares import Held, Shares
from moderation.worker.suspects import Mark, Opening
from moderation.worker.watchdog import Watchdog

POLL_MS = 50  # longest wait for records
REST_S = 10.0  # between two polls when nothing may be taken
COMMIT_FIRST_S = 5.0  # for what is ready, before an error ends the process

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """The worker role, from reading policies to leaving the group when `stop` is set. Raises ModerationError."""
    async with probes.opened(settings.ops, "worker") as liveness:
        await _run(settings, stop, liveness)


async def _run(settings: Settings, stop: asyncio.Event, liveness: Liveness) -> None:
    policies = PolicySet.load(settings.policies)
    media = Media(settings.media)
    topics = settings.kafka.posts_topic, settings.kafka.verdicts_topic, settings.kafka.dead_letters
    if not await unless_stopped(stop, check_topics(settings.kafka, topics)):
        return
    log.info("model_loading", model=settings.model.name)
    classifier = await unless_stopped(stop, asyncio.to_thread(models.load, settings.model))
    if classifier is None:
        return
    model = classifier.info
    log.info("model_loaded", model=model.name, revision=model.revision, digest=model.digest)
    metrics.MODEL.labels(model.name, model.revision, model.digest).set(1)
    metrics.POLICIES.labels(policies.digest).set(1)
    if model.caution:
        log.warning("demo_model_loaded", model=model.name, caution=model.caution)
    async with Batcher(classifier, settings.worker) as batcher, gauges.device_memory(batcher.model):
        asked = [policy.question_for_model for policy in policies.policies if policy.asked]
        await unless_stopped(stop, batcher.warm_up(asked))
        if not stop.is_set():
            log.info("policies_loaded", policies=len(asked), digest=policies.digest, version=moderation.__version__)
            worker = Worker(Moderator(policies, media, batcher, model), settings, liveness)
            liveness.started = True
            async with gauges.watched(worker, batcher, batcher.model, liveness):
                await worker.run(stop)


class Worker:
    """A member of the consumer group."""

    def __init__(self, moderator: Moderator, settings: Settings, liveness: Liveness) -> None:
        self._liveness = liveness
        self._settings = settings
        self._assignments: dict[TopicPartition, AssignedPartition] = {}
        self._lives: dict[AssignedPartition, asyncio.Task[None]] = {}  # ends when a lane is drained; until it is closed
        self._closing: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()  # a lane was opened, committed or given back
        self._watchdog = Watchdog(lambda: self._assignments, settings.worker.post_timeout_s)
        self._stopping = False
        self._processor = Processor(moderator, settings, self.fail)
        self._failed = asyncio.Event()
        self._error: Exception | None = None  # that ends the process
        self._culprit: AssignedPartition | None = None  # whose post ran alone then
        self._turn = 0  # which partition is asked first, and
        self._first: TopicPartition | None = None  # which one in its place

    @property
    def assignments(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned to it."""
        return self._assignments

    @property
    def post_timeout_s(self) -> float:
        """From a post's poll to its commit."""
        return self._settings.worker.post_timeout_s

    async def run(self, stop: asyncio.Event) -> None:
        """Judges posts until `stop` is set, then finishes what is begun, commits it and leaves the group."""
        self._consumer = clients.consumer(self._settings.kafka, group_id=self._settings.kafka.group)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await unless_stopped(stop, clients.connected(self._consumer.start, self._settings.kafka))
                if stop.is_set():
                    return
                # After the start, which would wait for partitions: there may be none for us.
                self._consumer.subscribe([self._settings.kafka.posts_topic], listener=_Rebalance(self))
                log.info("worker_ready", topic=self._settings.kafka.posts_topic, group=self._settings.kafka.group)
                polling = self._begin_task(self._poll())
                watching = self._begin_task(self._watchdog.run())
                self._liveness.ready = True
                await unless_stopped(self._failed, stop.wait())
                self._stopping, self._liveness.ready = True, False
                polling.cancel()
                await asyncio.wait([polling])
                await unless_stopped(self._failed, self._release(self._settings.worker.drain_timeout_s))
                if self._error:
                    await self._commit_first(self._error)
                    raise self._error
                watching.cancel()
        finally:
            self._stopping, self._liveness.ready = True, False
            self._assignments = {}  # crashed: what they hold is left to others
            self._processor.close()
            await clients.stop(self._consumer)

    def fail(self, error: Exception, culprit: AssignedPartition | None = None) -> None:
        """Ends the process with this error, once what is ready is committed. `culprit`: whose post ran alone."""
        if self._error is None:
            self._error, self._culprit = error, culprit
            self._processor.isolation.close()  # no post begins any more
            self._failed.set()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await uncancelled(work)
        except Exception as error:  # noqa: BLE001  raised again by `run`
            self.fail(error)

    async def _commit_first(self, error: Exception) -> None:
        """Every lane commits what is ready, for COMMIT_FIRST_S at most. One whose publisher has failed has ended."""
        by_kafka = isinstance(error, DeliveryError | ConfigError)
        lives = dict(self._lives)
        for assigned, life in lives.items():
            if not assigned.begun:
                life.cancel()
            assigned.end(crashed=not by_kafka and self._culprit in (None, assigned))
        if lives:
            _, late = await asyncio.wait(lives.values(), timeout=COMMIT_FIRST_S)
            log.info("committed_before_exit", partitions=len(lives), late=len(late))

    async def _poll(self) -> None:
        """Hands records to their lanes, within the bounds of each lane and of all together."""
        polled = time.monotonic()
        while True:
            self._moved.clear()
            try:
                waiting = self._serve()
                if waiting or not self._assignments or time.monotonic() - polled > REST_S:
                    # Now and then in any case, or the group would take us for dead.
                    polled = time.monotonic()
                    await self._arrival(waiting)
                else:
                    await self._rest()
            except UnreadableError as error:
                raise self._unreadable(error) from error
            except KafkaError as error:
                cause = type(error).__name__
                raise DeliveryError(f"{self._settings.kafka.posts_topic} cannot be read: {cause}") from error

    def _serve(self) -> list[TopicPartition]:
        """Asks each partition in turn for its share of what is free. Returns those that have nothing more by now."""
        limits = self._settings.worker
        assignments = {partition: assigned for partition, assigned in self._assignments.items() if assigned.open}
        shares = Shares(
            {partition: Held(len(assigned), assigned.bytes) for partition, assigned in assignments.items()},
            Held(limits.max_in_flight, limits.max_in_flight_bytes),
            limits.max_partition_in_flight,
        )
        polled = time.perf_counter(), time.time()  # one moment decides the age of all posts of a poll
        waiting: list[TopicPartition] = []
        first: TopicPartition | None = None  # to be asked first the next time
        for partition in self._in_turn(assignments):
            free = shares.of(partition)
            if free.posts <= 0:
                first = first or partition
                continue
            records = self._consumer.ready(partition, free.posts, free.bytes, alone=shares.alone(partition))
            self._hand_out(assignments[partition], records, polled)
            shares.take(partition, Held(len(records), sum(record.size for record in records)))
            if len(records) < free.posts:
                if self._consumer.first_size(partition):  # it needs more bytes than are free
                    first = first or partition
                    shares.keep()
                else:
                    waiting.append(partition)
        self._first = first
        return waiting

    def _in_turn(self, assignments: Mapping[TopicPartition, AssignedPartition]) -> list[TopicPartition]:
        """The one that went away empty-handed comes first, else each in its turn."""
        every = sorted(assignments)
        self._turn += 1
        at = every.index(self._first) if self._first in assignments else self._turn % max(1, len(every))
        return [*every[at:], *every[:at]]

    def _hand_out(self, assigned: AssignedPartition, records: Iterable[Record], polled: tuple[float, float]) -> None:
        for record in records:
            if not assigned.take(record.offset, record.size, record.timestamp):
                break  # the lane takes posts while it is open
            arrival = assigned.arrival(record.timestamp, *polled)
            assigned.own(self._begin_task(self._processor.process(assigned, record, arrival)))

    async def _arrival(self, partitions: Sequence[TopicPartition]) -> None:
        """Waits for records of these partitions, or for a change; in a rebalance, until that is over."""
        moved = asyncio.ensure_future(self._moved.wait())
        try:
            await self._consumer.wait(partitions, POLL_MS / 1000, moved)
        finally:
            moved.cancel()

    async def _rest(self) -> None:
        """Nothing may be taken: waits for a change."""
        try:
            async with asyncio.timeout(REST_S):
                await self._moved.wait()
        except TimeoutError:
            return

    def _unreadable(self, error: UnreadableError) -> DeliveryError:
        """Where it is, and what an operator can do: nothing that we skip by ourselves would have its verdict."""
        settings, partition = self._settings.kafka, error.partition
        return DeliveryError(
            f"{error}: the batch is broken. To go on without it, and without a verdict for what is in it from there "
            "on, stop all workers and run\n  kafka-consumer-groups.sh "
            f"--bootstrap-server {settings.bootstrap} --group {settings.group} --topic "
            f"{partition.topic}:{partition.partition} --reset-offsets --to-offset {error.after} --execute"
        )

    # The life of an assignment

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Opens a lane for each; until it is open its partition is paused."""
        metrics.REBALANCES.inc()
        self._consumer.pause(*partitions)
        for partition in partitions if not (self._stopping or self._error) else ():
            cache = VerdictCache(self._settings.worker.verdict_cache_posts, self._settings.worker.verdict_cache_bytes)
            limit = self._settings.worker.max_partition_in_flight
            assigned = AssignedPartition(self._publisher(partition), cache, self._moved, limit)
            self._assignments[partition] = assigned
            fill = partial(restore.recall, cache, self._settings.kafka, partition.partition)
            self._lives[assigned] = self._begin_task(assigned.run(fill, partial(self._begin, partition, assigned)))

    def _publisher(self, partition: TopicPartition) -> Publisher:
        find = partial(self._position, partition)
        if self._settings.kafka.delivery == "exactly_once":
            return Publisher(self._settings.kafka, partition.partition, find)

        async def commit(position: int, metadata: str) -> None:
            await self._consumer.commit({partition: (position, metadata)})

        return AtLeastOnce(self._settings.kafka, partition.partition, find, commit)

    async def _position(self, partition: TopicPartition) -> Opening:
        """The first offset that is not answered, once our producer has fenced its predecessors."""
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
        found = assigned.suspects.found
        if found.openings:
            log.warning(
                "partition_opened_with_suspects",
                partition=partition.partition,
                position=position,
                openings=found.openings,
                until=found.until,
            )

    async def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """For each, where it ends for us, and how far it is read. Raises what aiokafka does."""
        ends = await self._consumer.end_offsets(partitions)
        # Read after the end was: over the marks of transactions too, which are records to nobody.
        return {one: (end, await self._consumer.position(one)) for one, end in ends.items()}

    async def revoked(self) -> None:
        """All partitions are to be given back: half of the time for that is left to posts, half to transactions."""
        await self._release(self._settings.kafka.rebalance_timeout_ms / 2000)

    async def _release(self, patience: float) -> None:
        """Drains and closes all lanes; returns when that is done, whoever has begun it."""
        for partition, assigned in self._assignments.items():
            closing = self._tasks.create_task(self._close(partition, assigned, self._lives[assigned], patience))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._assignments = {}
        self._moved.set()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _close(
        self, partition: TopicPartition, assigned: AssignedPartition, life: asyncio.Task[None], patience: float
    ) -> None:
        if not assigned.begun:
            life.cancel()
        assigned.drain()
        await asyncio.wait([life], timeout=patience)
        left = len(assigned)
        assigned.cut()
        await asyncio.wait([life], timeout=patience)
        life.cancel()  # the next owner fences, and goes on from what is committed
        await asyncio.wait([life])
        del self._lives[assigned]
        log.info("partition_revoked", partition=partition.partition, unfinished=left)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """What aiokafka calls. It swallows what we raise; so all that can fail runs in tasks of the worker's group."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Holds the rebalance back until we are drained."""
        await self._worker.revoked()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Returns at once: there are no heartbeats while it runs."""
        self._worker.assigned(assigned)
