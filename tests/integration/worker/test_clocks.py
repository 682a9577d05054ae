"""Ages and skews where clocks are wrong: the producers', and the worker's own. Against a real Kafka."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY

from tests.support.harness import PARTITIONS, Harness, a_value, running
from tests.support.topics import make_topics

HOUR_S, MINUTES_50_S = 3600.0, 3000.0
true_time = time.time


@dataclass
class Ages:
    """What the histogram of posts has counted since."""

    posts: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.posts, self.seconds = self._now()

    def _now(self) -> tuple[float, float]:
        values = [REGISTRY.get_sample_value(f"moderation_post_seconds_{part}") or 0.0 for part in ("count", "sum")]
        return values[0], values[1]

    async def mean(self, posts: int) -> float:
        """The mean age of so many posts, once they are counted."""
        await eventually(lambda: self._now()[0] >= self.posts + posts)
        count, seconds = self._now()
        assert count == self.posts + posts
        return (seconds - self.seconds) / posts


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  metrics have no event
            await asyncio.sleep(0.02)


def skew(clock: str) -> float:
    value = REGISTRY.get_sample_value("moderation_clock_skew_seconds", {"clock": clock})
    return math.nan if value is None else value


@pytest.fixture
def worker_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this process, and so the worker's, is an hour ahead of the broker's."""
    monkeypatch.setattr(time, "time", lambda: true_time() + HOUR_S)


async def stamped(harness: Harness, start: int, count: int, ahead_s: float = 0.0) -> None:
    """Produces posts, numbered from `start`, by a clock that is `ahead_s` ahead."""
    async with AIOKafkaProducer(bootstrap_servers=harness.kafka) as producer:
        for number in range(start, start + count):
            stamp = int((true_time() + ahead_s) * 1000)
            await producer.send(harness.topics[0], a_value(number), partition=0, timestamp_ms=stamp)
        await producer.flush()


async def with_appended(harness: Harness, setting: str) -> Harness:
    """With another topic under this setting, whose records the broker stamps."""
    name = f"{getattr(harness.settings.kafka, setting)}-appended"
    await make_topics(harness.kafka, name, partitions=PARTITIONS, message_timestamp_type="LogAppendTime")
    return harness.with_kafka(**{"dead_letter_topic": harness.settings.kafka.dead_letters, setting: name})


@pytest.mark.usefixtures("worker_ahead")
async def test_no_wrong_clock_changes_an_age_or_goes_unnoticed(harness: Harness) -> None:
    """With the default timestamps, CreateTime: the clocks of a worker and of its producers are wrong together."""
    ages = every = Ages()
    await stamped(harness, 0, 5, ahead_s=-120.0)  # a backlog of two minutes, by a right clock, from before the worker
    async with running(harness):
        assert await ages.mean(5) == pytest.approx(120, abs=60)
        assert skew("worker") == pytest.approx(HOUR_S, abs=1), "known before the first record is read"
        start = 5
        while not skew("producers") < -MINUTES_50_S / 2:  # as soon as the ends were polled once
            await stamped(harness, start, 1, ahead_s=-MINUTES_50_S)
            start += 1
            await every.mean(start)
        for ahead_s in (-MINUTES_50_S, MINUTES_50_S, 0.0):
            ages = Ages()
            await stamped(harness, start, 5, ahead_s)
            assert 0 < await ages.mean(5) < 30, ahead_s
            start += 5
        assert abs(skew("producers")) == pytest.approx(MINUTES_50_S, abs=10)
        await stamped(harness, start, 1, ahead_s=MINUTES_50_S + 60)
        await eventually(lambda: skew("producers") == pytest.approx(MINUTES_50_S + 60, abs=10))
    assert math.isnan(skew("worker")), "the worker has ended"


@pytest.mark.usefixtures("worker_ahead")
async def test_with_the_brokers_timestamps_no_producer_has_a_clock(each_delivery: Harness) -> None:
    """LogAppendTime on the posts topic. Without transactions, the brokers' clock is known from the records alone."""
    harness = await with_appended(each_delivery, "posts_topic")
    async with running(harness):
        every, start = Ages(), 0
        while not abs(skew("worker") - HOUR_S) < 10:
            await stamped(harness, start, 1)
            start += 1
            await every.mean(start)
        ages = Ages()
        await stamped(harness, start, 5, ahead_s=MINUTES_50_S)
        assert 0 < await ages.mean(5) < 30
        assert math.isnan(skew("producers"))


@pytest.mark.usefixtures("worker_ahead")
async def test_without_transactions_verdicts_that_the_brokers_stamp_show_their_clock(harness: Harness) -> None:
    harness = await with_appended(harness.with_kafka(delivery="at_least_once"), "verdicts_topic")
    async with running(harness):
        ages = Ages()
        await stamped(harness, 0, 1)
        await ages.mean(1)
        assert skew("worker") == pytest.approx(HOUR_S, abs=1)
        ages = Ages()
        await stamped(harness, 1, 5)
        assert 0 < await ages.mean(5) < 30


@pytest.mark.usefixtures("worker_ahead")
async def test_without_transactions_and_brokers_timestamps_ages_are_bounded(
    harness: Harness,
) -> None:
    async with running(harness.with_kafka(delivery="at_least_once")):
        every, start = Ages(), 0
        while not skew("producers") < -HOUR_S / 2:  # against the worker's clock: one of the two is wrong
            await stamped(harness, start, 1)
            start += 1
            await every.mean(start)
        assert math.isnan(skew("worker"))
        ages = Ages()
        await stamped(harness, start, 5)
        assert 0 < await ages.mean(5) < 30
