"""When records arrived on the posts topic: what their age counts from.

A record's timestamp is the broker's on a topic with message.timestamp.type=LogAppendTime, and otherwise the producer's,
whose clock may be wrong. So a timestamp counts only within what is certain by time.perf_counter alone:

- The ends of all partitions are polled. A record that was behind an end arrived after that poll was sent, and one that
  was in front of an end arrived before that poll returned.
- No record arrived after it was read.

Timestamps are compared by the brokers' clock (kafka/broker_clock.py). How far timestamps lie outside these bounds shows
how wrong the producers' clocks are. Records from before the first poll have no lower bound.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog
from aiokafka import TopicPartition

from moderation.kafka import watermarks
from moderation.kafka.broker_clock import BrokerClock
from moderation.kafka.consumer import Consumer
from moderation.kafka.polled_ends import PolledEnds
from moderation.kafka.records import Record
from moderation.observability import metrics

ASK_S = 5.0  # between two polls of the ends
FIRST_S = 0.5  # before the next poll, after one that failed
REPLICATION_S = 1.0  # by which a record's append may precede its place in front of the high watermark
SHOWN_S = 150.0  # a wrong clock is shown for this long, or twice as long

log = structlog.get_logger()


class Reading(NamedTuple):
    """The moment at which records were read."""

    at: float  # by time.perf_counter
    offset: float  # the brokers' clock minus time.perf_counter


class Extreme:
    """The value farthest from 0 of the last minutes; NaN: there was none."""

    __slots__ = ("_before", "_now", "_since")

    def __init__(self) -> None:
        self._since = -math.inf
        self._before = self._now = math.nan

    def add(self, value: float, now: float) -> None:
        """Adds a value. Runs for every post."""
        if now - self._since >= SHOWN_S:
            self._turn(now)
        if not abs(value) <= abs(self._now):  # also where there was none
            self._now = value

    def at(self, now: float) -> float:
        """The value of the minutes before `now`. Changes nothing: Prometheus asks on a thread of its own."""
        since = now - self._since
        held = (self._before, self._now) if since < SHOWN_S else (self._now,) if since < 2 * SHOWN_S else ()
        return max((value for value in held if not math.isnan(value)), key=abs, default=math.nan)

    def _turn(self, now: float) -> None:
        self._before = self._now if now - self._since < 2 * SHOWN_S else math.nan
        self._now, self._since = math.nan, now


class Arrivals:
    """The arrivals of records on one topic."""

    def __init__(self, broker_clock: BrokerClock, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = broker_clock
        self._clock = clock
        self._ends: dict[int, PolledEnds] = {}  # by partition
        self._producers = Extreme()
        self._stamp = 0  # the last timestamp of a broker

    @property
    def producers_skew_s(self) -> float:
        """The producers' clocks minus the brokers': the one farthest off in the last minutes.

        As far as it is certain: within the bounds of an arrival a timestamp counts as right. NaN: no producer has set a
        timestamp lately.
        """
        return self._producers.at(self._clock())

    def polled(self, ends: Mapping[int, int], sent: float, received: float) -> None:
        """Notes the ends of partitions, as the brokers returned them between two moments of time.perf_counter."""
        for partition, end in ends.items():
            self._ends.setdefault(partition, PolledEnds()).add(end, sent, received)

    def reading(self) -> Reading:
        """The present moment. One moment counts for all records of a poll."""
        return Reading(self._clock(), self.clock.offset)

    def of(self, record: Record, reading: Reading) -> float:
        """Returns when the record arrived, by time.perf_counter, and at the latest when it was read.

        Runs for every post, on the event loop.
        """
        read, offset = reading
        ends = self._ends.get(record.partition)
        low, high = ends.window(record.offset) if ends is not None else (-math.inf, read)
        high = min(high, read)
        if (stamp := record.timestamp) <= 0:  # the producer has set none
            return min(low, high) if low > -math.inf else high
        if record.appended and stamp != self._stamp:
            self._stamp = stamp
            self.clock.observe(stamp, low - REPLICATION_S, read)
        at = stamp / 1000 - offset
        bounded = min(max(at, low), high)
        if not record.appended:
            self._producers.add(at - bounded, read)
        return bounded

    async def follow(self, consumer: Consumer, topic: str) -> None:
        """Polls the ends of all partitions of the topic, and shows how wrong clocks are, until cancelled.

        The partitions of other workers may come to this one. A poll that fails leaves the bounds wider.
        """
        metrics.CLOCK_SKEW.labels("worker").set_function(lambda: self.clock.skew_s)
        metrics.CLOCK_SKEW.labels("producers").set_function(lambda: self.producers_skew_s)
        try:
            while True:
                known = await self._ask(consumer, topic)
                await asyncio.sleep(ASK_S if known else FIRST_S)
        finally:
            metrics.CLOCK_SKEW.clear()

    async def _ask(self, consumer: Consumer, topic: str) -> bool:
        """Returns whether the ends are known."""
        sent = self._clock()
        try:
            numbers = consumer.partitions_for_topic(topic) or ()
            ends = await watermarks.ends(consumer, [TopicPartition(topic, number) for number in numbers])
        except Exception as error:  # noqa: BLE001  aiokafka raises errors of any kind
            log.debug("posts_topic_ends_refused", error=type(error).__name__)
            return False
        self.polled({each.partition: end.high for each, end in ends.items()}, sent, self._clock())
        return bool(ends)
