"""Counts posts and erasures that lie where murmur2 would not put their id.

Their producer may use another partitioner, or send no key, or another key than the id. Then the posts under one id may
lie in several partitions, which are judged in no common order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

from moderation.kafka.partitioner import partition_of
from moderation.observability import metrics
from moderation.types import Source

LOG_S = 600.0  # between two log lines

log = structlog.get_logger()


class KeyCheck:
    """Compares partitions with those of murmur2."""

    def __init__(self, partitions: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """partitions: returns how many the posts topic has; 0 if that is not known."""
        self._partitions = partitions
        self._clock = clock
        self._logged = -math.inf
        self._count = 0  # since the last log line

    def check(self, post_id: str, source: Source) -> None:
        """Counts the record if it is misplaced. Logs the first one, and then at most one every LOG_S."""
        partitions = self._partitions()
        if partitions <= source.partition or post_id.startswith("kafka:"):
            return  # the number is not known yet; or the record has no id of its own
        if (expected := partition_of(post_id.encode(), partitions)) == source.partition:
            return
        metrics.KEYS_MISPLACED.inc()
        self._count += 1
        if (now := self._clock()) - self._logged >= LOG_S:
            log.warning(
                "keys_misplaced",
                records=self._count,
                post_id=post_id,
                partition=source.partition,
                offset=source.offset,
                expected=expected,
            )
            self._logged, self._count = now, 0
