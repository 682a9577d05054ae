"""What a record of the verdicts topic says of its post: an entry of the view.

A record that is no verdict (something else writes to the topic, or a newer version does) does not stop the view: one
foreign record would stop every API at once. It is logged, and its post is answered UNREADABLE instead of with an
older verdict.
"""

from __future__ import annotations

import structlog

from moderation import wire
from moderation.kafka.records import Record
from moderation.v1.verdict_pb2 import Verdict
from moderation.view.stores import LARGEST_VERDICT, Entry, Kind

log = structlog.get_logger()


def entry_of(record: Record, posts_topic: str) -> Entry | None:
    """None: the record is about no post."""
    position = {"partition": record.partition, "offset": record.offset, "ms": record.timestamp}
    try:
        post_id = (record.key or b"").decode()
    except UnicodeDecodeError:
        post_id = ""
    if wire.id_problem(post_id):
        log.error("verdict_unreadable", topic=record.topic, reason="its key is no post id", **position)
        return None
    kind = Kind.UNREADABLE
    fields: tuple[int, int, str, int, str, int, bytes | None] = (-1, -1, "", 0, "", 0, None)
    if record.value is None:
        kind, fields = Kind.ERASED, (*_source(wire.erased_source(record.headers), posts_topic), "", 0, "", 0, None)
    else:
        try:
            found = _verdict(record)
            if found.post_id == post_id:
                source = (found.source.topic, found.source.partition, found.source.offset)
                decided = found.decided_at.seconds * 1000 + found.decided_at.nanos // 1_000_000
                what = (found.tenant, int(found.outcome), found.deciding_policy, decided)
                kind, fields = Kind.VERDICT, (*_source(source, posts_topic), *what, found.SerializeToString())
            else:
                log.error("verdict_unreadable", topic=record.topic, reason="its key is another post's id", **position)
        except ValueError as error:
            log.error("verdict_unreadable", topic=record.topic, reason=str(error), **position)  # noqa: TRY400
    return Entry(post_id, kind, record.partition, record.offset, record.timestamp, *fields)


def _source(of: tuple[str, int, int] | None, posts_topic: str) -> tuple[int, int]:
    """Partition and offset on our posts topic."""
    if of is None or of[0] != posts_topic:
        return -1, -1
    return of[1], of[2]


def _verdict(record: Record) -> Verdict:
    """Raises ValueError if it is none, or larger than a view takes."""
    value = record.value or b""
    if len(value) > LARGEST_VERDICT:
        raise ValueError(f"it is larger than {LARGEST_VERDICT} bytes")
    return wire.read_verdict(value, record.headers)
