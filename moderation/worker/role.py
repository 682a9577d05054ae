"""The worker: from the posts topic to the verdicts topic. Each record gets exactly one outcome:

    a verdict; or, if the post cannot be judged, a dead letter and a verdict of status UNDETERMINED

The outcome is published in the transaction that commits the record's offset, in the order of the partition. Any other
error ends the process. The broker then gives the partitions to another worker. That worker fences this one and
continues from the committed offset.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

import moderation
from moderation import models
from moderation.errors import ChangedError, ConfigError, DeliveryError
from moderation.inference import loading
from moderation.kafka import answers, clients, refusals, tools
from moderation.kafka.broker_clock import BrokerClock
from moderation.kafka.consumer import UnreadableError
from moderation.kafka.records import Record
from moderation.kafka.topics import check_topics
from moderation.kafka.watermarks import Ends
from moderation.lifecycle import uncancelled, unless_stopped
from moderation.media.reader import Media
from moderation.moderator import Moderator
from moderation.observability import metrics, probes
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.settings import Settings
from moderation.worker import gauges
from moderation.worker.arrivals import Arrivals, Reading
from moderation.worker.assignments import Assignments, Rebalance
from moderation.worker.certificate_watch import CertificateWatch
from moderation.worker.group_watch import GroupWatch
from moderation.worker.partition import AssignedPartition
from moderation.worker.processor import Processor
from moderation.worker.shares import Held, Shares
from moderation.worker.topic_watch import TopicWatch
from moderation.worker.watchdog import Watchdog

POLL_MS = 50  # longest wait for records
REST_S = 10.0  # between two polls while no post may be taken

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the worker, from reading policies to leaving the group when `stop` is set. Raises ModerationError."""
    async with probes.opened(settings.ops, "worker") as liveness:
        await _run(settings, stop, liveness)


async def _run(settings: Settings, stop: asyncio.Event, liveness: Liveness) -> None:
    policies = PolicySet.load(settings.policies)
    media = Media(settings.media)
    topics = settings.kafka.posts_topic, settings.kafka.verdicts_topic, settings.kafka.dead_letters
    if not await unless_stopped(stop, check_topics(settings.kafka, topics, keep_s=settings.model.outage_s)):
        return
    liveness.started = models.is_remote(settings.model.name)  # nothing to load: a server that is away must not end us
    scorer = await unless_stopped(stop, loading.load(settings))
    if scorer is None:
        return
    model = scorer.info
    metrics.MODEL.labels(model.name, model.revision, model.digest).set(1)
    metrics.use_policies(policies.digest, policies.versions, policies.read_ms / 1000)
    if model.caution:
        log.warning("demo_model_loaded", model=model.name, caution=model.caution)
    async with media, scorer, gauges.device_memory(scorer.device_memory):
        questions = [policy.question_for_model for policy in policies.policies if policy.asked]
        await unless_stopped(stop, media.decoders.warm_up())  # a machine that lets none start has no ready worker
        await unless_stopped(stop, scorer.warm_up(questions))
        if not stop.is_set():
            log.info("policies_loaded", policies=len(questions), digest=policies.digest, version=moderation.__version__)
            moderator = Moderator(policies, media, scorer)
            worker = Worker(moderator, settings, liveness)
            certificates = CertificateWatch(policies, lambda: moderator.state)
            certificates.look()
            liveness.started = True
            with gauges.updated(worker, scorer, liveness) as shown:
                await worker.run(stop, certificates.run, *([shown.ask] if shown else []))


class Worker:
    """A member of the consumer group."""

    def __init__(self, moderator: Moderator, settings: Settings, liveness: Liveness) -> None:
        self._scorer = moderator.scorer
        self._liveness = liveness
        self._settings = settings
        self._assignments: Assignments | None = None  # None until `run`
        self._changed = asyncio.Event()  # a partition was opened, has committed or was given back
        self._watchdog = Watchdog(lambda: self.assignments, self.post_timeout_s)
        self._scorer.on_change(self._changed.set)
        self._processor = Processor(moderator, settings, self.fail, self._partition_count)
        self._arrivals = Arrivals(BrokerClock())
        self._failed = asyncio.Event()
        self._leaving = False  # the worker drains: no assignment makes it ready again
        self._error: Exception | None = None  # that ends the process
        self._culprit: AssignedPartition | None = None  # whose post ran alone when the error came
        self._polls = 0
        self._first: TopicPartition | None = None  # asked first by the next poll; None: partitions take turns

    @property
    def assignments(self) -> Mapping[TopicPartition, AssignedPartition]:
        """The partitions that are assigned to this worker."""
        return self._assignments.partitions if self._assignments else {}

    @property
    def post_timeout_s(self) -> float:
        """Seconds from a post's poll to its commit, with the time that it may wait for a model server."""
        return self._settings.worker.post_timeout_s + self._scorer.patience_s

    @property
    def settled(self) -> bool:
        """Whether the group has assigned these partitions and no others. False during a rebalance."""
        return self._assignments is not None and self._assignments.settled

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[Ends, int]]:
        """Returns the ends of partitions as far as their leaders respond, and the positions of the consumer."""
        return await self._assignments.ends(partitions) if self._assignments else {}

    async def run(self, stop: asyncio.Event, *watches: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Judges posts until `stop` is set. Then finishes and commits the posts in hand, and leaves the group.

        `watches` run while the worker is connected.
        """
        self._consumer = clients.member(self._settings.kafka)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._assignments = assignments = Assignments(
                    self._settings,
                    self._consumer,
                    self._tasks,
                    self._begin_task,
                    self._changed,
                    clock=self._arrivals.clock,
                )
                await unless_stopped(stop, clients.connected(self._consumer.start, self._settings.kafka))
                if stop.is_set():
                    return
                # Subscribed after the start: a start waits for partitions, and there may be none for this worker.
                # Half of the time for a rebalance is left to posts in hand, half to the last transactions.
                patience = self._settings.kafka.rebalance_timeout_ms / 2000
                rebalance = Rebalance(assignments, patience, lambda: self._scorer.paused, self._joined)
                self._consumer.subscribe([self._settings.kafka.posts_topic], listener=rebalance)
                poll = self._begin_task(self._poll())
                works = [
                    self._watchdog.run(),
                    self._scorer.watch(),
                    answers.follow(self._consumer),
                    self._arrivals.follow(self._consumer, self._settings.kafka.posts_topic),
                    TopicWatch(self._consumer, self._settings.kafka.posts_topic, assignments).run(),
                    GroupWatch(self._consumer, self._settings.kafka).run(),
                    *(watch() for watch in watches),
                ]
                watched = [self._begin_task(work) for work in works]
                await unless_stopped(self._failed, stop.wait())
                self._leaving = True
                self._liveness.ready = False
                assignments.refuse()
                poll.cancel()
                await asyncio.wait([poll])
                patience = self._settings.worker.drain_timeout_s
                await unless_stopped(self._failed, assignments.release(patience, hopeless=self._scorer.paused))
                if self._error:
                    await self._commit_first(assignments, self._error)
                    raise self._error
                for task in watched:
                    task.cancel()
        finally:
            self._liveness.ready = False
            if self._assignments:
                self._assignments.refuse()
                self._assignments.drop()
            self._processor.close()
            await clients.stop(self._consumer)

    def fail(self, error: Exception, culprit: AssignedPartition | None = None) -> None:
        """Ends the process with this error, after a last commit. `culprit`: the partition whose post ran alone."""
        if self._error is None:
            self._error, self._culprit = error, culprit
            self._processor.isolation.close()  # no further post begins
            if self._assignments:
                self._assignments.refuse()
            self._failed.set()

    def _joined(self) -> None:
        """Ready: the group has given this member its partitions, or none because others have them all."""
        if not (self._liveness.ready or self._leaving or self._failed.is_set()):
            self._liveness.ready = True
            log.info("worker_ready", topic=self._settings.kafka.posts_topic, group=self._settings.kafka.group)

    def _partition_count(self) -> int:
        return self._assignments.topic_partitions if self._assignments else 0

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(self._fail_on_error(work))

    async def _fail_on_error(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await uncancelled(work)
        except Exception as error:  # noqa: BLE001  raised again by `run`
            self.fail(error)

    async def _commit_first(self, assignments: Assignments, error: Exception) -> None:
        by_post = not isinstance(error, DeliveryError | ConfigError | ChangedError)
        await assignments.commit_first(lambda assigned: by_post and self._culprit in (None, assigned))

    async def _poll(self) -> None:
        """Hands records to their partitions, within the bounds of each partition and of all together."""
        polled = time.monotonic()
        while True:
            self._changed.clear()
            try:
                waiting = self._serve()
                if waiting or not self.assignments or time.monotonic() - polled > REST_S:
                    # Polls at least every REST_S: otherwise the group would take this member for dead.
                    polled = time.monotonic()
                    await self._arrival(waiting)
                else:
                    await self._rest()
            except UnreadableError as error:
                raise self._unreadable(error) from error
            except KafkaError as error:
                what = f"topic {self._settings.kafka.posts_topic} cannot be read"
                raise refusals.failure(self._settings.kafka, what, error, self._consumer) from error

    def _serve(self) -> list[TopicPartition]:
        """Takes records from each partition in turn, up to its share. Returns partitions without further records.

        While the scorer is paused, takes none: the partitions are paused.
        """
        if self._scorer.paused:
            return []
        limits = self._settings.worker
        assignments = {partition: assigned for partition, assigned in self.assignments.items() if assigned.open}
        shares = Shares(
            {partition: Held(len(assigned), assigned.bytes) for partition, assigned in assignments.items()},
            Held(limits.max_in_flight, limits.max_in_flight_bytes),
            limits.max_partition_in_flight,
        )
        polled = self._arrivals.reading()  # one moment decides the age of all posts of a poll
        waiting: list[TopicPartition] = []
        first: TopicPartition | None = None
        for partition in self._in_turn(assignments):
            free = shares.free(partition)
            if free.posts <= 0:
                first = first or partition
                continue
            try:
                records = self._consumer.ready(partition, free.posts, free.bytes, alone=shares.alone(partition))
            except OffsetOutOfRangeError:
                self._reopen(partition)
                continue
            self._hand_out(assignments[partition], records, polled)
            assignments[partition].reach(*self._consumer.reached(partition))
            shares.take(partition, Held(len(records), sum(record.size for record in records)))
            if len(records) < free.posts:
                if self._consumer.first_size(partition):  # the next record needs more bytes than are free
                    first = first or partition
                    shares.keep()
                else:
                    waiting.append(partition)
        self._first = first
        return waiting

    def _reopen(self, partition: TopicPartition) -> None:
        """The log begins behind the position, or ends before it: what is missing is found and said at the opening."""
        if self._assignments:
            self._assignments.reopen(partition)

    def _in_turn(self, assignments: Mapping[TopicPartition, AssignedPartition]) -> list[TopicPartition]:
        """Returns the partitions in turn; first the partition that had no share in the last poll, if there was one."""
        partitions = sorted(assignments)
        self._polls += 1
        start = partitions.index(self._first) if self._first in assignments else self._polls % max(1, len(partitions))
        return [*partitions[start:], *partitions[:start]]

    def _hand_out(self, assigned: AssignedPartition, records: Iterable[Record], polled: Reading) -> None:
        for record in records:
            arrived = self._arrivals.of(record, polled)
            if not assigned.take(record.offset, record.size, arrived):
                break  # the partition is no longer open
            arrival = assigned.arrival(arrived, polled.at)
            assigned.own(self._begin_task(self._processor.process(assigned, record, arrival)))

    async def _arrival(self, partitions: Sequence[TopicPartition]) -> None:
        """Waits for records of these partitions or for a change. During a rebalance, waits until it is over."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await self._consumer.wait(partitions, POLL_MS / 1000, changed)
        finally:
            changed.cancel()

    async def _rest(self) -> None:
        """Waits for a change while no post may be taken."""
        try:
            async with asyncio.timeout(REST_S):
                await self._changed.wait()
        except TimeoutError:
            return

    def _unreadable(self, error: UnreadableError) -> DeliveryError:
        """Says where the batch is and what an operator can do. The worker skips nothing: it would have no verdict."""
        settings, partition = self._settings.kafka, error.partition
        command = tools.command(
            settings,
            "kafka-consumer-groups.sh",
            f"--group {settings.group} --topic {partition.topic}:{partition.partition} --reset-offsets "
            f"--to-offset {error.after} --execute",
        )
        return DeliveryError(
            f"{error}: the batch is broken. To continue without it, and without verdicts for the rest of the batch, "
            f"stop all workers and run\n  {command}"
        )
