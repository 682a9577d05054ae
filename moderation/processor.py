"""What becomes of one record of the posts topic: its outcome, handed to its partition.

a verdict; or, where the post cannot be judged, a dead letter and a verdict of status UNDETERMINED
for a record without a value: an erasure
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog
from aiokafka import ConsumerRecord

from moderation import metrics, publisher, traces, wire
from moderation.errors import PostError
from moderation.isolation import Isolation
from moderation.lane import Answer, Lane
from moderation.moderator import Moderator
from moderation.settings import Settings
from moderation.suspects import ATTEMPTS
from moderation.telemetry import POST
from moderation.types import Post, Reason, Source, Verdict

SMALL_BYTES = 64 << 10  # of a value that is decoded right on the event loop

log = structlog.get_logger()


class Processor:
    """Processes records of all partitions, many at a time."""

    def __init__(self, moderator: Moderator, settings: Settings, fail: Callable[[Exception, Lane], None]) -> None:
        """fail: told of an error that a post has caused while it ran alone, and of its partition."""
        self.settled = 0  # posts with an outcome, ever
        self.isolation = Isolation()
        self._moderator = moderator
        self._settings = settings
        self._fail = fail
        self._names_posts = settings.log.level == "debug"  # else not a thing is done for it

    async def process(self, lane: Lane, record: ConsumerRecord) -> None:
        """Gives the record its outcome, or ends the process. Raises what it does not expect."""
        source = Source(record.topic, record.partition, record.offset, record.timestamp)
        span = traces.received(source, record.headers, self._settings.kafka.group)
        answer: Answer | None = None
        try:
            with traces.current(span):
                answer = await self._isolated(lane, record, source, span)
        finally:
            if answer is None and span is not None:
                traces.dropped(span)
        self.settled += 1
        lane.settle(record.offset, answer)
        if self._names_posts and answer.verdict is not None:
            _name(answer.verdict, source)

    async def _isolated(self, lane: Lane, record: ConsumerRecord, source: Source, span: traces.Span | None) -> Answer:
        if (post_id := wire.erased_id(record.key, record.value)) is not None:
            lane.memory.forget(post_id, record.offset)
            erasure = publisher.erasure(post_id, source, self._settings.kafka)
            return Answer([erasure], None, time.perf_counter(), span)
        if record.offset in lane.suspects:
            return await self._attempt(lane, record, source, span)
        async with self.isolation.together():
            if not lane.suspects.counted:
                await lane.count()
            return await self._answer(lane, record, source, span)

    async def _attempt(self, lane: Lane, record: ConsumerRecord, source: Source, span: traces.Span | None) -> Answer:
        """A suspect. It waits behind suspects that were attempted less often: their partitions get on first."""
        async with lane.in_order, self.isolation.alone(lane.suspects.attempts(record.offset)):
            number = await lane.attempt(record.offset)
            try:
                if number > ATTEMPTS:
                    verdict = await self._give_up(record, source, decode=number == ATTEMPTS + 1)
                    answer = self._published(record, source, span, verdict)
                else:
                    log.info("post_attempted_alone", partition=source.partition, offset=source.offset, attempt=number)
                    metrics.ATTEMPTS.inc()
                    answer = await self._answer(lane, record, source, span)
            except Exception as error:
                self._fail(error, lane)
                raise
            await lane.passed(record.offset)
            return answer

    async def _give_up(self, record: ConsumerRecord, source: Source, *, decode: bool) -> Verdict:
        """The verdict of a post that has ended several processes; decode: to find its id, unless that has ended one."""
        log.warning("post_given_up", partition=source.partition, offset=source.offset, attempts=ATTEMPTS)
        post: Post | None = None
        try:
            post = await self._decode(record) if decode else None
        except PostError as error:
            return self._undetermined(record, source, error.reason, None, error.post_id)
        return self._undetermined(record, source, Reason.MODEL_CRASHED, post)

    async def _answer(self, lane: Lane, record: ConsumerRecord, source: Source, span: traces.Span | None) -> Answer:
        post: Post | None = None
        try:
            post = await self._decode(record)
            POST.set(post.id)  # this task is the post's own
            verdict = await self._moderator.moderate(post, source, lane.memory)
        except PostError as error:
            verdict = self._undetermined(record, source, error.reason, post, error.post_id)
        return self._published(record, source, span, verdict)

    def _published(self, record: ConsumerRecord, source: Source, span: traces.Span | None, verdict: Verdict) -> Answer:
        settings = self._settings.kafka
        if span is not None:
            traces.judged(span, verdict)
        messages = [publisher.verdict(verdict, traces.onward(span, record.headers), settings)]
        if verdict.reason:
            whole = record.key, record.value, record.headers
            messages.append(publisher.dead_letter(source, whole, verdict.reason, settings))
        return Answer(messages, verdict, time.perf_counter(), span)

    async def _decode(self, record: ConsumerRecord) -> Post:
        read = partial(wire.post_record, record.value, record.headers, self._settings.media)
        return read() if len(record.value or b"") <= SMALL_BYTES else await asyncio.to_thread(read)

    def _undetermined(
        self, record: ConsumerRecord, source: Source, reason: Reason, post: Post | None, post_id: str = ""
    ) -> Verdict:
        id = post.id if post else post_id or wire.post_id_for(record.key, source)
        log.warning("post_dead_lettered", post_id=id, reason=reason, partition=source.partition, offset=source.offset)
        return self._moderator.undetermined(id, reason, source, post.tenant if post else "")


def _name(verdict: Verdict, source: Source) -> None:
    log.debug(
        "post_moderated",
        post_id=verdict.post_id,
        partition=source.partition,
        offset=source.offset,
        outcome=verdict.outcome.name,
        status=verdict.status.name,
        stage=verdict.stage.name,
    )
