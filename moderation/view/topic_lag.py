"""How far the view is behind its topic. The brokers are asked for the topic's ends, also while the view is stalled.

A stalled view fetches nothing. What its last fetch reported of the ends is as old as the stall. What is not known is
NaN, never 0.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from moderation.kafka.polled_ends import PolledEnds
from moderation.kafka.watermarks import Ends
from moderation.observability import metrics

ASK_S = 1.0  # between two requests for the ends
RESPONSE_S = 5.0  # for all brokers to respond
UNKNOWN_S = 10.0  # without a response, after which the lag is not known
CATCHING_UP_S = 30.0  # between two log lines of a view that has not caught up yet

log = structlog.get_logger()


def set_unknown() -> None:
    """Sets the gauges of an API whose view is not open yet."""
    for gauge in (metrics.VIEW_LAG, metrics.VIEW_UNSTABLE, metrics.VIEW_AGE, metrics.VIEW_STANDSTILL):
        gauge.set(math.nan)


class ViewLag:
    """What the topic has and the view has not. `clock` is a monotonic one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[int, Ends] = {}  # by partition
        self._next: dict[int, int] = {}  # by partition: the first offset that is not folded in
        self._polled: dict[int, PolledEnds] = {}  # by partition
        self._stamps: dict[int, float] = {}  # by partition: about when the next record was written, as that one says
        self._since: dict[int, float] = {}  # by partition that is behind: since when its position has not moved
        self._responded = clock()

    @property
    def records(self) -> int | None:
        """Records up to the high watermark that are not folded in; None while the brokers do not report the ends."""
        return self._behind(max)

    @property
    def readable(self) -> int | None:
        """Those of the records that can be read: no transaction that is still open keeps them back."""
        return self._behind(lambda ends: ends.stable)

    def _behind(self, end: Callable[[Ends], int]) -> int | None:
        if not (self._ends and self._next) or self.unknown_s > UNKNOWN_S:
            return None
        return sum(max(0, end(ends) - self._next.get(number, 0)) for number, ends in self._ends.items())

    @property
    def unknown_s(self) -> float:
        """Seconds since the brokers have last reported where the topic ends."""
        return self._clock() - self._responded

    @property
    def age_s(self) -> float:
        """Age of the oldest record that is not folded in, in seconds, as far as known. 0: all are folded in.

        It counts from the poll that saw the record first. Only records from before the first poll have the age that
        their timestamps say: those are of workers, whose clocks may be wrong.
        """
        return max(map(self._waited, self._unread()), default=0.0)

    def _unread(self) -> list[int]:
        """The partitions with records that are not folded in, as far as known."""
        return [number for number, ends in self._ends.items() if max(ends) > self._next.get(number, 0)]

    def _waited(self, number: int) -> float:
        after, before = self._polled[number].window(self._next.get(number, 0))
        waited = max(0.0, self._clock() - before)
        if after > -math.inf or (stamp := self._stamps.get(number)) is None:
            return waited
        return max(waited, time.time() - stamp)

    @property
    def standstill_s(self) -> float:
        """Seconds since the position moved, of the partition with records to fold in that has stood longest; or 0."""
        return self._clock() - min(self._since.values()) if self._since else 0.0

    def read(self, first_ms: Mapping[int, int]) -> None:
        """Notes records that are about to be folded in: by partition, the timestamp of the first."""
        self._stamps |= {number: ms / 1000 for number, ms in first_ms.items() if ms > 0}

    def folded(self, last_ms: Mapping[int, int]) -> None:
        """Notes records that are folded in: by partition, the timestamp of the last. The next one is not older."""
        self._stamps |= {number: ms / 1000 for number, ms in last_ms.items() if ms > 0}
        self._set_gauges()

    def moved(self, positions: Mapping[int, int]) -> None:
        """Notes the positions: by partition, the offset of the next record to fold in."""
        for number, offset in positions.items():
            if offset != self._next.get(number):
                self._since.pop(number, None)
        self._next = dict(positions)

    def begin_again(self) -> None:
        """Forgets all of a topic that was deleted: its offsets and times say nothing of the one that has its name."""
        for known in (self._ends, self._next, self._polled, self._stamps, self._since):
            known.clear()
        self._set_gauges()

    async def follow(self, ask: Callable[[], Awaitable[Mapping[int, Ends]]], caught_up: asyncio.Event) -> None:
        """Asks for the ends until cancelled. `ask` returns those of all partitions, or raises KafkaError."""
        logged, known = self._clock(), True
        while True:
            sent = self._clock()
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
                for number, found in ends.items():
                    self._polled.setdefault(number, PolledEnds()).add(max(found), sent, self._responded)
            self._set_gauges()
            if not caught_up.is_set() and self._clock() - logged > CATCHING_UP_S:
                logged = self._clock()
                log.info("view_catching_up", lag=self.records)
            await asyncio.sleep(ASK_S)

    def _set_gauges(self) -> None:
        self._since = {number: self._since.get(number, self._clock()) for number in self._unread()}
        records = self.records
        known = records is not None
        metrics.VIEW_LAG.set(math.nan if records is None else records)
        metrics.VIEW_UNSTABLE.set(sum(ends.unstable for ends in self._ends.values()) if known else math.nan)
        metrics.VIEW_AGE.set(self.age_s if known or self._since else math.nan)
        metrics.VIEW_STANDSTILL.set(self.standstill_s if known or self._since else math.nan)
        metrics.VIEW_ENDS_AGE.set(self.unknown_s)
