"""What a worker publishes for a post: a verdict, an erasure or a dead letter, as records to send."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from moderation import wire
from moderation.kafka.records import KEY_BYTES, Omitted, Record
from moderation.observability import traces
from moderation.settings import KafkaSettings
from moderation.types import Problem, Source, Verdict


@dataclass(frozen=True, slots=True)
class Message:
    """One record to send, and a smaller one for a topic that refuses the record as too large."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    cut: Callable[[], Message] | None = None
    partition: int | None = None  # None: the post's. Others are sent first, apart from the transaction

    @property
    def size(self) -> int:
        """Bytes of the key, the value and the headers."""
        return (
            len(self.key or b"")
            + len(self.value or b"")
            + sum(len(name) + len(value or b"") for name, value in self.headers)
        )


class Result(NamedTuple):
    """What is published for a post."""

    messages: Sequence[Message]  # the verdict first
    verdict: Verdict | None  # None: the record is an erasure
    ready: float  # when the result was ready, by time.perf_counter
    span: traces.Span | None = None  # of the post; ends at the commit
    erasure: wire.Erasure | None = None


def verdict_message(verdict: Verdict, headers: wire.Headers, settings: KafkaSettings) -> Message:
    """Returns the verdict, keyed by its post. `headers`: of the post. The cut message has no findings."""
    value, carried = wire.verdict_record(verdict, settings.verdict_format, headers)

    def cut() -> Message:
        return replace(verdict_message(replace(verdict, findings=()), (), settings), cut=None)

    return Message(settings.verdicts_topic, verdict.post_id.encode(), value, carried, cut)


def tombstone(erasure: wire.Erasure, source: Source, settings: KafkaSettings) -> Message:
    """Returns a tombstone. It removes the post's verdict from the topic and from each view. source: of the erasure."""
    return Message(settings.verdicts_topic, erasure.post_id.encode(), None, wire.erasure_headers(erasure, source))


def copies(erasure: wire.Erasure, source: Source, partitions: int, settings: KafkaSettings) -> list[Message]:
    """Returns copies of an erasure for the other partitions of the posts topic. partitions: of that topic.

    The owners of those partitions carry them out, in order with their own posts: they hold the verdict caches, and only
    they may write to their verdicts partition. Compaction keeps the last record of a partition alone, so a tombstone
    from elsewhere could remove the verdict of a later post, and the verdict of an earlier post could come after it.
    """
    if erasure.copied or not settings.copy_erasures:
        return []
    headers = wire.copy_headers(erasure)
    return [
        Message(settings.posts_topic, erasure.post_id.encode(), None, headers, partition=number)
        for number in range(partitions)
        if number != source.partition
    ]


def dead_letter(
    source: Source, record: Record, problem: Problem, settings: KafkaSettings, *, post_id: str = "", tenant: str = ""
) -> Message:
    """Returns the record as it came, with the problem in its headers: up to max_dead_letter_bytes of the record.

    `post_id` and `tenant` are those of the verdict. Headers name what is left out. Of a value, the end is left out. The
    cut message has neither value nor headers.
    """
    limit = settings.max_dead_letter_bytes
    bounded = _bounded(record, limit)
    value = bounded.value or b""
    write = partial(wire.dead_letter_headers, problem=problem, group=settings.group, post_id=post_id, tenant=tenant)
    headers = write(source, bounded.headers)
    headers += [(f"dlq.{mark}", b"true") for mark in bounded.marks]
    value_limit = max(0, limit - bounded.size + len(value))
    if record.value is None:
        headers.append(("dlq.value.null", b"true"))  # a null is a tombstone, and cannot be sent without a key
    if bounded.omitted:
        headers += [("dlq.value.omitted", b"true"), *_identified(bounded.omitted)]
    elif len(value) > value_limit:
        headers += [("dlq.value.truncated", b"true"), *_identified(_omitted(value))]

    def cut() -> Message:
        kept = write(source, ())
        omitted = record.omitted or _omitted(record.value or b"")
        key = record.key if len(record.key or b"") <= KEY_BYTES else None
        marks = {*record.marks, *(["headers.omitted"] if record.headers else [])}
        marks |= {"key.omitted"} if key is None and record.key is not None else set()
        kept += [(f"dlq.{mark}", b"true") for mark in sorted(marks)]
        return Message(settings.dead_letters, key, b"", [*kept, ("dlq.value.omitted", b"true"), *_identified(omitted)])

    return Message(settings.dead_letters, bounded.key, value[:value_limit], headers, cut)


def _bounded(record: Record, limit: int) -> Record:
    """Leaves out a key, and then the headers, that leave no bytes for a value."""
    if record.size > limit and len(record.key or b"") > KEY_BYTES:
        record = record._replace(key=None, marks=(*record.marks, "key.omitted"))
    if record.size - len(record.value or b"") > limit:
        record = record._replace(headers=(), marks=(*record.marks, "headers.omitted"))
    return record


def _omitted(value: bytes) -> Omitted:
    return Omitted(len(value), hashlib.sha256(value).hexdigest())


def _identified(value: Omitted) -> list[tuple[str, bytes | None]]:
    """Returns headers with the size and the hash of a value that was left out or cut."""
    return [("dlq.value.size", str(value.size).encode()), ("dlq.value.sha256", value.sha256.encode())]
