"""How far the view is behind its topic. The brokers are asked for the topic's ends, also while the view is stalled.

A stalled view fetches nothing. What its last fetch reported of the ends is as old as the stall.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from moderation.observability import metrics

ASK_S = 1.0  # between two requests for the ends
RESPONSE_S = 5.0  # for the brokers to respond
UNKNOWN_S = 10.0  # without a response, after which the lag is not known
CATCHING_UP_S = 30.0  # between two log lines of a view that has not caught up yet

log = structlog.get_logger()


class ViewLag:
    """What the topic has and the view has not. `clock` is a monotonic one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[int, int] = {}  # by partition: the offset behind the last record that can be read
        self._next: dict[int, int] = {}  # by partition: the first offset that is not folded in
        self._oldest: dict[int, float] = {}  # by partition that is behind: about when that record was written
        self._responded = clock()

    @property
    def records(self) -> int | None:
        """Records that are not folded in; None while the brokers do not report where the topic ends."""
        if not (self._ends and self._next) or self.unknown_s > UNKNOWN_S:
            return None
        return sum(max(0, end - self._next.get(number, 0)) for number, end in self._ends.items())

    @property
    def unknown_s(self) -> float:
        """Seconds since the brokers have last reported where the topic ends."""
        return self._clock() - self._responded

    @property
    def age_s(self) -> float:
        """Age of the oldest record that is not folded in, in seconds, as far as known. 0: all are folded in."""
        return max(0.0, time.time() - min(self._oldest.values())) if self._oldest else 0.0

    def read(self, first_ms: Mapping[int, int]) -> None:
        """Notes records that are about to be folded in: by partition, the timestamp of the first."""
        self._oldest |= {number: ms / 1000 for number, ms in first_ms.items() if ms > 0}

    def folded(self, last_ms: Mapping[int, int]) -> None:
        """Notes records that are folded in: by partition, the timestamp of the last. The next one is not older."""
        self._oldest |= {number: ms / 1000 for number, ms in last_ms.items() if ms > 0}
        self._set_gauges()

    def moved(self, positions: Mapping[int, int]) -> None:
        """Notes the positions: by partition, the offset of the next record to fold in."""
        self._next = dict(positions)

    async def follow(self, ask: Callable[[], Awaitable[Mapping[int, int]]], caught_up: asyncio.Event) -> None:
        """Asks for the ends until cancelled. `ask` returns them by partition."""
        logged, known = self._clock(), True
        while True:
            try:
                async with asyncio.timeout(RESPONSE_S):
                    ends = dict(await ask())
            except Exception as error:  # noqa: BLE001  aiokafka does not say what it raises
                if known and self.unknown_s > UNKNOWN_S:
                    known = False
                    log.warning(
                        "verdicts_topic_ends_unknown", error=type(error).__name__, seconds=round(self.unknown_s)
                    )
            else:
                if not known:
                    known = True
                    log.info("verdicts_topic_ends_known", seconds=round(self.unknown_s))
                self._responded, self._ends = self._clock(), ends
            self._set_gauges()
            if not caught_up.is_set() and self._clock() - logged > CATCHING_UP_S:
                logged = self._clock()
                log.info("view_catching_up", lag=self.records)
            await asyncio.sleep(ASK_S)

    def _set_gauges(self) -> None:
        for number, end in self._ends.items():
            if end <= self._next.get(number, 0):
                self._oldest.pop(number, None)
            else:
                self._oldest.setdefault(number, time.time())
        records = self.records
        metrics.VIEW_LAG.set(float("nan") if records is None else records)
        metrics.VIEW_AGE.set(self.age_s)
        metrics.VIEW_ENDS_AGE.set(self.unknown_s)
