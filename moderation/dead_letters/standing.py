"""What is newest under the ids of some posts.

The verdicts topic says it of what is judged: of each partition, the last record under an id counts. The posts topic
says it of what waits to be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from moderation import wire
from moderation.dead_letters.letters import id_of
from moderation.kafka.records import Record


class Newest(NamedTuple):
    """The last record under an id in one partition of the verdicts topic."""

    source: tuple[str, int, int] | None  # of the posts topic: topic, partition, offset; None: it names none
    source_ms: int  # timestamp of that record
    rank: tuple[int, bool]  # among partitions, the highest one counts
    erases: bool
    replay_of: str  # the dead letter of which the post is a replay; empty: of none


class Waiting(NamedTuple):
    """The last record under an id in one partition of the posts topic, of those that are not judged yet."""

    offset: int
    timestamp_ms: int
    erases: bool
    replay_of: str


class Standing:
    """What is newest under these ids. Fed with the records of the two topics, in the order of each partition."""

    def __init__(self, post_ids: Iterable[str], posts_topic: str) -> None:
        self._posts_topic = posts_topic
        self._newest: dict[str, dict[int, Newest]] = {post_id: {} for post_id in post_ids if post_id}
        self._waiting: dict[str, dict[int, Waiting]] = {}
        self._keys = {post_id.encode() for post_id in self._newest}
        self.judged: dict[int, tuple[int, int]] = {}  # by partition: offset and time of the last post with an outcome

    def newest(self, post_id: str) -> Mapping[int, Newest]:
        """By partition of the verdicts topic."""
        return self._newest.get(post_id, {})

    def waiting(self, post_id: str) -> Mapping[int, Waiting]:
        """By partition of the posts topic."""
        return self._waiting.get(post_id, {})

    def verdict(self, record: Record, last: bool = False) -> None:
        """Takes a record of the verdicts topic. last: of its partition, so it says how far posts are judged."""
        wanted = record.key in self._keys
        if not wanted and not last:
            return
        newest = _newest(record)
        if newest.source is not None and newest.source[:2] == (self._posts_topic, record.partition):
            self.judged[record.partition] = newest.source[2], newest.source_ms
        if wanted:
            self._newest[(record.key or b"").decode()][record.partition] = newest

    def post(self, record: Record) -> None:
        """Takes a record of the posts topic."""
        key_id = wire.id_in_key(record.key)
        ids = {key_id, id_of(record)} if record.value is not None else {key_id}
        for post_id in ids & self._newest.keys():
            replay_of = wire.replay_of(record.headers)
            waiting = Waiting(record.offset, record.timestamp, record.value is None, replay_of)
            self.note(post_id, record.partition, waiting)

    def note(self, post_id: str, partition: int, waiting: Waiting) -> None:
        """Notes what is newest on a partition of the posts topic."""
        self._waiting.setdefault(post_id, {})[partition] = waiting


def rank(written_ms: int, read_ms: int, *, copied: bool = False) -> tuple[int, bool]:
    """Where a record stands among those of other partitions, as the view orders them: by the time of the post."""
    return wire.written_ms(written_ms, read_ms), not copied


def _newest(record: Record) -> Newest:
    replay_of = wire.replay_of(record.headers)
    if record.value is None:
        at_ms = wire.erased_at(record.headers) or 0
        at = rank(at_ms, record.timestamp, copied=wire.is_copy(record.headers))
        return Newest(wire.erased_source(record.headers), at_ms, at, True, replay_of)
    try:
        source = wire.read_verdict(record.value, record.headers).source
    except ValueError:
        return Newest(None, 0, rank(0, record.timestamp), False, replay_of)
    source_ms = source.timestamp.ToMilliseconds()
    place = (source.topic, source.partition, source.offset)
    return Newest(place, source_ms, rank(source_ms, record.timestamp), False, replay_of)
