"""How far back a view has read all of its log, and whether its store takes what was read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

import structlog
from aiokafka import TopicPartition

from moderation.errors import DeliveryError
from moderation.kafka.consumer import Consumer
from moderation.kafka.records import Record
from moderation.observability import metrics
from moderation.view.stores import MAX_AWAY_S, StoreUnavailableError

LEVEL_S = 3600.0  # a view that is less behind than this has read all of its log, as far as erasures go

STALL_S = 10.0  # without an answer of the store, after which the view is stalled

T = TypeVar("T")

log = structlog.get_logger()

Batches = Mapping[TopicPartition, Sequence[Record]]


class Freshness:
    """When the view has last read all of its log, by what the brokers say."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._level_at = time.monotonic()
        self._read_ms: dict[TopicPartition, int] = {}  # timestamps of the last records that were folded in

    def folded(self, batches: Batches) -> None:
        """These are folded in."""
        self._read_ms |= {partition: batch[-1].timestamp for partition, batch in batches.items() if batch}

    def rewound(self) -> None:
        """What was folded in is to be read again."""
        self._read_ms = {}

    def age_s(self, positions: Mapping[TopicPartition, int]) -> float | None:
        """Seconds since all of the log was read. None: longer than LEVEL_S, or the brokers have not said."""
        oldest_ms = now_ms = time.time() * 1000
        for partition, position in positions.items():
            end, asked_ms = self._consumer.last_stable_offset(partition), self._consumer.last_poll_timestamp(partition)
            if end is None or asked_ms is None:
                return None
            read_ms = asked_ms if position >= end else self._read_ms.get(partition)
            if read_ms is None:
                return None
            oldest_ms = min(oldest_ms, read_ms)
        age_s = (now_ms - oldest_ms) / 1000
        if age_s > LEVEL_S:
            return None
        self._level_at = time.monotonic()
        return age_s

    def check(self, batches: Batches) -> None:
        """Raises DeliveryError for records that come so late that erasures before them may be gone from the topic."""
        if batches and time.monotonic() - self._level_at > MAX_AWAY_S:
            raise DeliveryError("the view was not followed for too long, and may have missed erasures: start again")


class Stall:
    """Says when a store stops taking what it is given, and when it goes on.

    Each operation of the store stalls by itself: a store that takes folds may still refuse to forget.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, set[str]] = {}  # of a stall that lasts, by operation
        metrics.VIEW_STALLED.set(0)

    def begin(self, operation: str, error: StoreUnavailableError) -> None:
        """The store has refused. The error's text names the store and the reason, and no secret.

        Each reason is logged once: the first may only be that a connection was cut, and the next one why.
        """
        reason = str(error)
        if not any(reason in reasons for reasons in self._reasons.values()):
            metrics.VIEW_STALLED.set(1)
            log.error("view_stalled", operation=operation, reason=reason)
        self._reasons.setdefault(operation, set()).add(reason)

    def end(self, operation: str) -> None:
        """The store has done this. The view goes on once the store does all that it had refused."""
        if self._reasons.pop(operation, None) and not self._reasons:
            log.info("view_recovered")
            metrics.VIEW_STALLED.set(0)

    async def watch(self, operation: str, work: Awaitable[T]) -> T:
        """What the store returns. While it hangs, as on a dead disk, the view is stalled."""
        working = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait((working,), timeout=STALL_S))[0]:
                self.begin(operation, StoreUnavailableError(f"the store has not answered within {STALL_S:g} s"))
            return working.result()
        finally:
            working.cancel()
