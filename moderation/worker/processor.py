"""Gives each record of the posts topic its outcome, and hands the outcome to the record's partition.

- A post: a verdict. What can be read of it is judged.
- A post with a part that was refused or could not be had, or that is refused as a whole: a dead letter as well.
- A record without a value: an erasure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from moderation.types import Arrival, Post, Problem, Reason, Source, Verdict
from moderation.worker import messages
from moderation.worker.isolation import Isolation
from moderation.worker.keys import KeyCheck
from moderation.worker.messages import Result
from moderation.worker.partition import AssignedPartition
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
        self,
        moderator: Moderator,
        settings: Settings,
        fail: Callable[[Exception, AssignedPartition], None],
        partitions: Callable[[], int],
    ) -> None:
        """fail: called with an error that a post caused while it ran alone, and with the post's partition.

        partitions: returns how many the posts topic has.
        """
        self.isolation = Isolation()
        self._moderator = moderator
        self._settings = settings
        self._fail = fail
        self._partitions = partitions
        self._keys = KeyCheck(partitions)
        self._threads = ThreadPoolExecutor(LARGE_AT_ONCE, thread_name_prefix="decode")
        self._names_posts = settings.log.level == "debug"  # else there is nothing to log for a post

    def close(self) -> None:
        """Does not wait for the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def process(self, assigned: AssignedPartition, record: Record, arrival: Arrival) -> None:
        """Gives the record its outcome. Any unexpected error is raised, and ends the process."""
        if (post := assigned.in_hand(record.offset)) is not None:
            phases.CURRENT.set(post)  # each post has a task of its own
        source = Source(record.topic, record.partition, record.offset, record.timestamp, assigned.topic_id)
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
            return self._erasure(post_id, delivery)
        phases.enter(Phase.ISOLATION)
        if delivery.record.offset in assigned.suspects:
            return await self._attempt(assigned, delivery)
        async with self.isolation.together():
            if not assigned.suspects.counted:
                await assigned.count()
            return await self._judge(assigned, delivery)

    def _erasure(self, post_id: str, delivery: Delivery) -> Result:
        source, settings = delivery.source, self._settings.kafka
        erasure = wire.erasure(post_id, source, delivery.record.headers, time.time_ns() // 1_000_000)
        if not erasure.copied:
            self._keys.check(post_id, source)
        records = [messages.tombstone(erasure, source, settings)]
        records += messages.copies(erasure, source, self._partitions(), settings)
        return Result(records, None, time.perf_counter(), delivery.span, erasure)

    async def _attempt(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        """Processes a suspect. A suspect that may end the process again lets posts of other partitions go first."""
        earlier = assigned.suspects.attempts(delivery.record.offset)
        given_up = earlier > ATTEMPTS  # the text of a post with pictures has an attempt of its own
        async with assigned.in_order:
            await asyncio.sleep(OTHERS_FIRST_S if earlier and not given_up else 0)
            async with self.isolation.alone(0 if given_up else earlier):
                return await self._attempt_alone(assigned, delivery)

    async def _attempt_alone(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        number = await assigned.attempt(delivery.record.offset)
        try:
            if number > ATTEMPTS:
                verdict = await self._give_up(assigned, delivery, number)
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

    async def _give_up(self, assigned: AssignedPartition, delivery: Delivery, number: int) -> Verdict:
        """Returns the verdict of a post that has ended several processes.

        A picture may have ended them, so the text is judged alone. If that ends the process, too, only the id is read;
        and not even the id, if this ends it.
        """
        log.warning(
            "post_given_up", partition=delivery.source.partition, offset=delivery.source.offset, attempts=ATTEMPTS
        )
        post: Post | None = None
        try:
            post = await self._decode(delivery.record) if number <= ATTEMPTS + 2 else None
        except PostError as error:
            return self._undetermined(delivery, error.problem, error.known)
        metrics.GIVEN_UP.inc()
        metrics.GIVEN_UP_AT.set_to_current_time()
        if post is None or not post.images or not post.has_text or number > ATTEMPTS + 1:
            return self._undetermined(delivery, Problem(Reason.MODEL_CRASHED), post)
        images = tuple(
            replace(image, problem=image.problem or Problem(Reason.MODEL_CRASHED, f"images[{index}]"))
            for index, image in enumerate(post.images)
        )
        shown = replace(post, images=images)
        return await self._moderator.moderate(shown, delivery.source, assigned.cache, delivery.arrival)

    async def _judge(self, assigned: AssignedPartition, delivery: Delivery) -> Result:
        post: Post | None = None
        try:
            post = await self._decode(delivery.record)
            POST.set(post.id)  # each post has a task of its own
            verdict = await self._moderator.moderate(post, delivery.source, assigned.cache, delivery.arrival)
        except PostError as error:
            verdict = self._undetermined(delivery, error.problem, post or error.known)
        return await self._result(delivery, verdict)

    async def _result(self, delivery: Delivery, verdict: Verdict) -> Result:
        settings = self._settings.kafka
        self._keys.check(verdict.post_id, delivery.source)
        if delivery.span is not None:
            traces.judged(delivery.span, verdict)
        records = [messages.verdict_message(verdict, traces.onward(delivery.span, delivery.record.headers), settings)]
        if (problem := verdict.refused) is not None:
            of_post = {"post_id": verdict.post_id, "tenant": verdict.tenant}
            write = partial(messages.dead_letter, delivery.source, delivery.record, problem, settings, **of_post)
            records.append(await self._off_loop(write, delivery.record.size))
            log.warning(
                "post_dead_lettered",
                post_id=verdict.post_id,
                reason=problem.reason,
                path=problem.path,
                detail=problem.detail,
                partition=delivery.source.partition,
                offset=delivery.source.offset,
            )
        return Result(records, verdict, time.perf_counter(), delivery.span)

    async def _decode(self, record: Record) -> Post:
        phases.enter(Phase.READ)
        return await self._off_loop(partial(self._read, record), len(record.value or b""))

    def _read(self, record: Record) -> Post:
        if (problem := record.problem) is not None:
            text, known = "the record cannot be read as it came", wire.known(record.value)
            raise PostError(problem.reason, text, path=problem.path, detail=problem.detail, known=known)
        settings = self._settings
        return wire.post_record(
            record.value, record.headers, settings.media, schema_registry=settings.kafka.schema_registry
        )

    async def _off_loop(self, work: Callable[[], T], size: int) -> T:
        """Returns what `work` returns. size: bytes that it processes; if they are many, it runs on a thread."""
        if size <= SMALL_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _undetermined(self, delivery: Delivery, problem: Problem, known: Post | None) -> Verdict:
        post = known or Post("")
        if not post.id:
            post = replace(post, id=wire.post_id_for(delivery.record.key, delivery.source))
        return self._moderator.undetermined(post, problem, delivery.source)


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
