"""Turns a record of the verdicts topic into an entry of the view, and says of which record it is the outcome.

A record that is no verdict does not stop the view: one foreign record would stop every API at once. Such a record may
come from another program, or from a newer version. The view logs it. Lookups of its post return UNREADABLE, and not an
older verdict.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from moderation import wire
from moderation.kafka.records import Record
from moderation.kafka.topic_ids import is_topic_id
from moderation.v1.verdict_pb2 import Verdict
from moderation.view.stores import LARGEST_VERDICT, Entry, Kind, rank_of

log = structlog.get_logger()


class Read(NamedTuple):
    """What a record says."""

    entry: Entry
    posts_id: str  # of the posts topic that the entry's source is on, as Kafka prints it; empty: not known


def read(record: Record, posts_topic: str) -> Read | None:
    """Returns what a record says. None: the key of the record is no post id."""
    position = {"partition": record.partition, "offset": record.offset, "ms": record.timestamp}
    try:
        post_id = (record.key or b"").decode()
    except UnicodeDecodeError:
        post_id = ""
    if wire.id_problem(post_id):
        log.error("verdict_unreadable", topic=record.topic, reason="its key is no post id", **position)
        return None
    kind, written_ms, posts_id = Kind.UNREADABLE, record.timestamp, ""
    fields: tuple[int, int, str, int, str, int, bytes | None] = (-1, -1, "", 0, "", 0, None)
    if record.value is None:
        written_ms = wire.written_ms(wire.erased_at(record.headers) or 0, record.timestamp)
        posts_id = wire.erased_topic_id(record.headers)
        kind, fields = Kind.ERASED, (*_source(wire.erased_source(record.headers), posts_topic), "", 0, "", 0, None)
    else:
        try:
            verdict = _verdict(record)
            if verdict.post_id == post_id:
                source = (verdict.source.topic, verdict.source.partition, verdict.source.offset)
                posts_id = verdict.source.topic_id
                written_ms = wire.written_ms(_ms(verdict.source.timestamp), record.timestamp)
                decided_ms = _ms(verdict.decided_at)
                decision = (verdict.tenant, int(verdict.outcome), verdict.deciding_policy, decided_ms)
                kind, fields = Kind.VERDICT, (*_source(source, posts_topic), *decision, verdict.SerializeToString())
            else:
                log.error("verdict_unreadable", topic=record.topic, reason="its key is another post's id", **position)
        except ValueError as error:
            log.error("verdict_unreadable", topic=record.topic, reason=str(error), **position)  # noqa: TRY400
    rank = rank_of(written_ms, copied=record.value is None and wire.is_copy(record.headers))
    entry = Entry(post_id, kind, record.partition, record.offset, record.timestamp, rank, *fields)
    return Read(entry, posts_id if is_topic_id(posts_id) else "")


def _ms(time: Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000


def _source(place: tuple[str, int, int] | None, posts_topic: str) -> tuple[int, int]:
    """Partition and offset on our posts topic; -1 each if the place is on another topic or not known."""
    if place is None or place[0] != posts_topic:
        return -1, -1
    return place[1], place[2]


def _verdict(record: Record) -> Verdict:
    """The verdict of a record. Raises ValueError if the value is no verdict, or larger than a view takes."""
    value = record.value or b""
    if len(value) > LARGEST_VERDICT:
        raise ValueError(f"it is larger than {LARGEST_VERDICT} bytes")
    return wire.read_verdict(value, record.headers)
