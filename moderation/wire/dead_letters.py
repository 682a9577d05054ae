"""Dead letters: records that could not be judged, with headers that say where they came from and why."""

from __future__ import annotations

import moderation
from moderation.types import Reason, Source
from moderation.wire.formats import Headers

PREFIX = "dlq."


def dead_letter_headers(source: Source, headers: Headers, reason: Reason, group: str) -> list[tuple[str, bytes | None]]:
    """The record's own `headers`, then where the record came from and why it could not be judged.

    Headers of an earlier dead letter, which has been put on the posts topic again, are dropped.
    """
    own = [(name, value) for name, value in headers if not name.startswith(PREFIX)]
    added = {
        "original.topic": source.topic,
        "original.partition": str(source.partition),
        "original.offset": str(source.offset),
        "original.timestamp": str(source.timestamp_ms),
        "consumer.group": group,
        "error.code": str(reason),
        "service.version": moderation.__version__,
    }
    return [*own, *((PREFIX + name, value.encode()) for name, value in added.items())]
