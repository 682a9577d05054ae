"""Gives each record of the posts topic its outcome, and hands the outcome to the record's partition.

- A post that can be judged: a verdict.
- A post that cannot be judged: a dead letter and a verdict of status UNDETERMINED.
- A record without a value: an erasure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from moderation import wire
from moderation.errors import PostError
from moderation.kafka.records import Record
from moderation.moderator import Moderator
from moderation.observability import metrics, phases, traces
from moderation.observability.logs import POST
from moderation.observability.phases import Phase
from moderation.settings import Settings
from moderation.types import Arrival, Post, Reason, Source, Verdict
from moderation.worker import messages
from moderation.worker.isolation import Isolation
from moderation.worker.partition import AssignedPartition, Result
from moderation.worker.suspects import ATTEMPTS

OTHERS_FIRST_S = 2.0  # a suspect waits, because other partitions open a little later
SMALL_BYTES = 64 << 10  # a value up to this size is decoded on the event loop
LARGE_AT_ONCE = 2  # larger values decoded at the same time, on threads

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A record that was delivered, and where it came from."""

    record: Record
    source: Source
    arrival: Arrival
    span: traces.Span | None


class Processor:
    """Processes many records of all partitions at the same time."""

    def __init__(
        self, moderator: Moderator, settings: Settings, fail: Callable[[Exception, AssignedPartition], None]
    ) -> None:
        """fail: called with an error that a post caused while it ran alone, and with the post's partition."""
        self.isolation = Isolation()
        self._moderator = moderator
        self._settings = settings
        self._fail = fail
        self._threads = ThreadPoolExecutor(LARGE_AT_ONCE, thread_name_prefix="decode")
        self._names_posts = settings.log.level == "debug"  # else there is nothing to log for a post

    def close(self) -> None:
        """Does not wait for the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def process(self, assigned: AssignedPartition, record: Record, arrival: Arrival) -> None:
        """Gives the record its outcome. Any unexpected error is raised, and ends the process."""
        if (post := assigned.in_hand(record.offset)) is not None:
            phases.CURRENT.set(post)  # each post has a task of its own
        source = Source(record.topic, record.partition, record.offset, record.timestamp)
        span = traces.received(source, record.headers, self._settings.kafka.group)
        result: Result | None = None
        try:
            with traces.current(span):
                result = await self._isolated(assigned, Delivery(record, source, arrival, span))
        finally:
            if result is None and span is not None:
                traces.dropped(span)
        assigned.settle(record.offset, result)
        if self._names_posts and result.verdict is not None:
            _log_verdict(result.verdict, source)

    async def _isolated(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        if (post_id := wire.erased_id(delivery.record.key, delivery.record.value)) is not None:
            assigned.cache.forget(post_id, delivery.record.offset)
            tombstone = messages.erasure(post_id, delivery.source, self._settings.kafka)
            return Result([tombstone], None, time.perf_counter(), delivery.span)
        phases.enter(Phase.ISOLATION)
        if delivery.record.offset in assigned.suspects:
            return await self._attempt(assigned, delivery)
        async with self.isolation.together():
            if not assigned.suspects.counted:
                await assigned.count()
            return await self._judge(assigned, delivery)

    async def _attempt(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        """Processes a suspect. A suspect that may end the process again lets posts of other partitions go first."""
        earlier = assigned.suspects.attempts(delivery.record.offset)
        given_up = earlier >= ATTEMPTS
        async with assigned.in_order:
            await asyncio.sleep(OTHERS_FIRST_S if earlier and not given_up else 0)
            async with self.isolation.alone(0 if given_up else earlier):
                return await self._attempt_alone(assigned, delivery)

    async def _attempt_alone(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        number = await assigned.attempt(delivery.record.offset)
        try:
            if number > ATTEMPTS:
                verdict = await self._give_up(delivery, decode=number == ATTEMPTS + 1)
                result = await self._result(delivery, verdict)
            else:
                log.info(
                    "post_attempted_alone",
                    partition=delivery.source.partition,
                    offset=delivery.source.offset,
                    attempt=number,
                )
                metrics.ATTEMPTS.inc()
                result = await self._judge(assigned, delivery)
        except Exception as error:
            self._fail(error, assigned)
            raise
        await assigned.passed(delivery.record.offset)
        return result

    async def _give_up(self, delivery: Delivery, *, decode: bool) -> Verdict:
        """Returns the verdict of a post that has ended several processes. decode: whether to decode its id."""
        log.warning(
            "post_given_up", partition=delivery.source.partition, offset=delivery.source.offset, attempts=ATTEMPTS
        )
        post: Post | None = None
        try:
            post = await self._decode(delivery.record) if decode else None
        except PostError as error:
            return self._undetermined(delivery, error.reason, None, error.post_id)
        metrics.GIVEN_UP.inc()
        return self._undetermined(delivery, Reason.MODEL_CRASHED, post)

    async def _judge(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        post: Post | None = None
        try:
            post = await self._decode(delivery.record)
            POST.set(post.id)  # each post has a task of its own
            verdict = await self._moderator.moderate(post, delivery.source, assigned.cache, delivery.arrival)
        except PostError as error:
            verdict = self._undetermined(delivery, error.reason, post, error.post_id)
        return await self._result(delivery, verdict)

    async def _result(self, delivery: Delivery, verdict: Verdict) -> Result:
        settings = self._settings.kafka
        if delivery.span is not None:
            traces.judged(delivery.span, verdict)
        records = [messages.verdict_message(verdict, traces.onward(delivery.span, delivery.record.headers), settings)]
        if verdict.reason:
            write = partial(messages.dead_letter, delivery.source, delivery.record, verdict.reason, settings)
            records.append(await self._off_loop(write, delivery.record.size))
        return Result(records, verdict, time.perf_counter(), delivery.span)

    async def _decode(self, record: Record) -> Post:
        phases.enter(Phase.READ)
        if record.problem:
            raise PostError(record.problem, "the record cannot be read as it came")
        read = partial(wire.post_record, record.value, record.headers, self._settings.media)
        return await self._off_loop(read, len(record.value or b""))

    async def _off_loop(self, work: Callable[[], T], size: int) -> T:
        """Returns what `work` returns. size: bytes that it processes; if they are many, it runs on a thread."""
        if size <= SMALL_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _undetermined(self, delivery: Delivery, reason: Reason, post: Post | None, post_id: str = "") -> Verdict:
        source = delivery.source
        id = post.id if post else post_id or wire.post_id_for(delivery.record.key, source)
        log.warning("post_dead_lettered", post_id=id, reason=reason, partition=source.partition, offset=source.offset)
        return self._moderator.undetermined(id, reason, source, post.tenant if post else "")


def _log_verdict(verdict: Verdict, source: Source) -> None:
    log.debug(
        "post_moderated",
        post_id=verdict.post_id,
        partition=source.partition,
        offset=source.offset,
        outcome=verdict.outcome.name,
        status=verdict.status.name,
        origin=verdict.origin.name,
    )
