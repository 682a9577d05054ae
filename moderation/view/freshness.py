"""When a view has last read all of its topic, and whether its store accepts what was read."""

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

LEVEL_S = 3600.0  # a view that is less behind than this has missed no erasure

STALL_S = 10.0  # without a response of the store, after which the view is stalled

T = TypeVar("T")

log = structlog.get_logger()

Batches = Mapping[TopicPartition, Sequence[Record]]


class Freshness:
    """When the view has last read all of its topic, by what the brokers report."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._level_at = time.monotonic()
        self._read_ms: dict[TopicPartition, int] = {}  # timestamps of the last records that were folded in

    def folded(self, batches: Batches) -> None:
        """Notes that batches are folded in."""
        self._read_ms |= {partition: batch[-1].timestamp for partition, batch in batches.items() if batch}

    def rewound(self) -> None:
        """Notes that the view reads again what it had folded in."""
        self._read_ms = {}

    def age_s(self, positions: Mapping[TopicPartition, int]) -> float | None:
        """Seconds since all of the topic was read. None: longer than LEVEL_S, or the brokers have not reported."""
        oldest_ms = now_ms = time.time() * 1000
        for partition, position in positions.items():
            end, polled_ms = self._consumer.last_stable_offset(partition), self._consumer.last_poll_timestamp(partition)
            if end is None or polled_ms is None:
                return None
            read_ms = polled_ms if position >= end else self._read_ms.get(partition)
            if read_ms is None:
                return None
            oldest_ms = min(oldest_ms, read_ms)
        age_s = (now_ms - oldest_ms) / 1000
        if age_s > LEVEL_S:
            return None
        self._level_at = time.monotonic()
        return age_s

    def check(self, batches: Batches) -> None:
        """Raises DeliveryError for records so late that the topic may no longer have the erasures before them."""
        if batches and time.monotonic() - self._level_at > MAX_AWAY_S:
            raise DeliveryError("the view was not updated for too long and may have missed erasures: restart the API")


class Stall:
    """Reports when a store stops to accept changes, and when it accepts them again.

    Each operation of the store stalls by itself: a store that accepts folds may still refuse to prune.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, set[str]] = {}  # of a stall that lasts, by operation
        metrics.VIEW_STALLED.set(0)

    def begin(self, operation: str, error: StoreUnavailableError) -> None:
        """Notes that the store has refused. The error's text names the store and the reason, and no secret.

        Each reason is logged once. The first reason may only be a lost connection, and the next the cause.
        """
        reason = str(error)
        if not any(reason in reasons for reasons in self._reasons.values()):
            metrics.VIEW_STALLED.set(1)
            log.error("view_stalled", operation=operation, reason=reason)
        self._reasons.setdefault(operation, set()).add(reason)

    def end(self, operation: str) -> None:
        """Notes that the store has done this. The view recovers once the store has done all that it had refused."""
        if self._reasons.pop(operation, None) and not self._reasons:
            log.info("view_recovered")
            metrics.VIEW_STALLED.set(0)

    async def watch(self, operation: str, work: Awaitable[T]) -> T:
        """Returns what the store returns. While the store hangs, as on a dead disk, the view is stalled."""
        working = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait((working,), timeout=STALL_S))[0]:
                self.begin(operation, StoreUnavailableError(f"the store has not responded within {STALL_S:g} s"))
            return working.result()
        finally:
            working.cancel()
