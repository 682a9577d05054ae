"""Erasures: a record without a value, keyed by a post's id, asks for the post's verdict to be forgotten.

A worker copies each erasure to the other partitions of the posts topic, because the post may lie there: its producer
may use another partitioner, or the topic had fewer partitions then. A copy is not copied again. It carries the time of
the record that a producer wrote. Posts that are later than that stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moderation.types import Source
from moderation.wire.formats import Headers
from moderation.wire.ids import id_in_key

# Headers of an erasure. Those of a copy, on the posts topic: COPY_OF and ERASED_AT.
ERASED_BY = "erased-by"  # the record of the posts topic that asked for it, TOPIC/PARTITION/OFFSET
ERASED_BY_ID = "erased-by-topic-id"  # the id of that topic, where it is known
ERASED_AT = "erased-at"  # the time of the record that a producer wrote, in ms since 1970
COPY_OF = "copy-of"  # only of a copy: the record that a producer wrote, TOPIC/PARTITION/OFFSET

_POSITION = re.compile(rb"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")
_TOPIC_ID = re.compile(rb"[A-Za-z0-9_-]{22}")
_MILLISECONDS = re.compile(rb"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Erasure:
    """What a record without a value asks for."""

    post_id: str
    at_ms: int  # posts that are later stay
    original: str  # the record that a producer wrote: TOPIC/PARTITION/OFFSET
    copied: bool  # the record is a copy of that one


def erased_id(key: bytes | None, value: bytes | None) -> str | None:
    """The id of the post that a record of the posts topic asks to erase; None if the record is no erasure."""
    return (id_in_key(key) or None) if value is None else None


def erasure(post_id: str, source: Source, headers: Headers, now_ms: int) -> Erasure:
    """What the record at `source` asks for."""
    original, at_ms = _value(headers, COPY_OF), erased_at(headers)
    if at_ms is not None and _POSITION.fullmatch(original):
        # A copy is later than its original. Headers that say otherwise could erase posts that are yet to come.
        return Erasure(post_id, min(at_ms, written_ms(source.timestamp_ms, now_ms)), original.decode(), copied=True)
    at_ms = written_ms(source.timestamp_ms, now_ms)
    return Erasure(post_id, at_ms, f"{source.topic}/{source.partition}/{source.offset}", copied=False)


def written_ms(timestamp_ms: int, read_ms: int) -> int:
    """When a record was written. Its timestamp may be missing, or come from a clock that is ahead."""
    return min(timestamp_ms, read_ms) if timestamp_ms > 0 else read_ms


def copy_headers(erasure: Erasure) -> list[tuple[str, bytes]]:
    """Headers of a copy on the posts topic."""
    return [(COPY_OF, erasure.original.encode()), (ERASED_AT, str(erasure.at_ms).encode())]


def erasure_headers(erasure: Erasure, request: Source) -> list[tuple[str, bytes]]:
    """Headers of the erasure on the verdicts topic. `request`: the record of the posts topic that asked for it."""
    position = f"{request.topic}/{request.partition}/{request.offset}".encode()
    headers = [(ERASED_BY, position), (ERASED_AT, str(erasure.at_ms).encode())]
    if request.topic_id:
        headers.append((ERASED_BY_ID, request.topic_id.encode()))
    return [*headers, (COPY_OF, erasure.original.encode())] if erasure.copied else headers


def erased_source(headers: Headers) -> tuple[str, int, int] | None:
    """Topic, partition and offset of the record that asked for an erasure; None if the headers do not name one."""
    match = _POSITION.fullmatch(_value(headers, ERASED_BY))
    return (match[1].decode(), int(match[2]), int(match[3])) if match else None


def erased_topic_id(headers: Headers) -> str:
    """The id of the topic with the record that asked for an erasure; empty if the headers do not say."""
    value = _value(headers, ERASED_BY_ID)
    return value.decode() if _TOPIC_ID.fullmatch(value) else ""


def erased_at(headers: Headers) -> int | None:
    """When a producer asked for an erasure, in ms since 1970; None if the headers do not say."""
    value = _value(headers, ERASED_AT)
    return int(value) if _MILLISECONDS.fullmatch(value) else None


def is_copy(headers: Headers) -> bool:
    """Whether an erasure is a copy of one on another partition."""
    return bool(_value(headers, COPY_OF))


def _value(headers: Headers, name: str) -> bytes:
    return next((value for key, value in headers if key == name and value), b"")
