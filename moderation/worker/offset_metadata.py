"""The metadata that workers commit with a position. Knows no Kafka.

It says four things: that a worker wrote the position, the position itself (a tool may move an offset and keep its
metadata), the mark of suspects.py, and the log that the position belongs to:

    moderation/1 position=7 openings=0 until=0 offset=0 attempts=0 topic=pVjZ5lQFRYKSR7J9tGJ0Kw epoch=3

Without `openings` to `attempts`, the partition was drained. Without `topic` and `epoch`, brokers gave no topic ids, or
an older version wrote the metadata. Older versions read such a line as one without a mark.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from moderation.worker.suspects import Mark

_OURS = re.compile(
    r"(moderation/1 position=(\d{1,18})(?: openings=[\d a-z=]{1,120})?)(?: topic=([\w-]{22}) epoch=(-1|\d{1,10}))?",
    re.ASCII,
)


class Log(NamedTuple):
    """The log that a position belongs to: one life of a topic, up to one election of a leader."""

    topic_id: str = ""  # as Kafka prints it; empty: unknown
    epoch: int = -1  # of the leader that wrote the last batch that was read; -1: unknown


class Stored(NamedTuple):
    """What is stored with a committed offset."""

    ours: bool = False  # a worker committed this offset
    mark: Mark = Mark()
    log: Log = Log()


def read(metadata: str | None, position: int) -> Stored:
    """Returns what this metadata says; an empty Stored for metadata of other programs or another offset."""
    match = _OURS.fullmatch(metadata or "")
    if match is None or int(match[2]) != position:
        return Stored()
    log = Log(match[3], int(match[4])) if match[3] else Log()
    return Stored(True, Mark.read(match[1], position), log)


def write(position: int, mark: Mark, log: Log) -> str:
    """Returns the metadata to commit with this position, at most 180 bytes."""
    line = mark.metadata(position) or f"moderation/1 position={position}"
    return f"{line} topic={log.topic_id} epoch={log.epoch}" if log.topic_id else line
