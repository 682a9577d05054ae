"""When records arrived, by clocks that a test sets: the brokers', the worker's and the producers'."""

from __future__ import annotations

import json
import math
import timeit
from collections.abc import Callable

import pytest

from moderation import wire
from moderation.kafka.broker_clock import BrokerClock
from moderation.kafka.polled_ends import MAX_ENDS
from moderation.kafka.records import Record
from moderation.observability import metrics
from moderation.settings import MediaSettings
from moderation.worker.arrivals import SHOWN_S, Arrivals

BROKERS = 1_700_000_000.0  # what their clock shows when the local one shows 0


class World:
    """A topic of one partition, and a worker that polls its end."""

    def __init__(self, worker_ahead_s: float = 0.0, *, measured: bool = True) -> None:
        self.now = 1_000.0
        clock = BrokerClock(lambda: self.now, lambda: BROKERS + self.now + worker_ahead_s)
        if measured:
            clock.observe(int((BROKERS + self.now) * 1000), self.now - 0.001, self.now)
        self.arrivals = Arrivals(clock, lambda: self.now)

    def polled(self, end: int) -> None:
        self.arrivals.polled({3: end}, self.now - 0.01, self.now)

    def age(self, offset: int, came: float, ahead_s: float = 0.0, *, appended: bool = False) -> float:
        """The age of a record that is read now. `came`: when it arrived; `ahead_s`: of its producer's clock."""
        stamp = int((BROKERS + came + (0.0 if appended else ahead_s)) * 1000)
        record = Record("posts", 3, offset, stamp, None, b"", (), appended=appended)
        return self.now - self.arrivals.of(record, self.arrivals.reading())


WRONG_S = [0.0, 3000.0, -3000.0, 86_400.0]


@pytest.mark.parametrize("worker_s", WRONG_S)
@pytest.mark.parametrize("producer_s", WRONG_S)
def test_no_clock_changes_the_age_of_a_record_that_came_between_two_polls(worker_s: float, producer_s: float) -> None:
    world = World(worker_s)
    world.polled(7)
    world.now += 5
    world.polled(9)
    world.now += 100
    assert world.age(7, 1_002.0, producer_s) == pytest.approx(103, abs=3 if producer_s else 0.1)
    shown = world.arrivals.producers_skew_s
    assert shown == pytest.approx(producer_s, abs=5), "as far as it is certain"
    assert math.copysign(1, shown) == math.copysign(1, producer_s)


@pytest.mark.parametrize("worker_s", WRONG_S)
def test_a_backlog_from_before_the_worker_has_the_age_of_its_timestamps_by_the_brokers_clock(worker_s: float) -> None:
    world = World(worker_s)
    world.polled(50)
    assert world.age(7, 1_000.0 - 7_200) == pytest.approx(7_200, abs=0.1)


@pytest.mark.parametrize("worker_s", WRONG_S)
def test_the_brokers_timestamps_are_exact(worker_s: float) -> None:
    world = World(worker_s)
    world.polled(7)
    world.now += 300
    assert world.age(7, 1_001.5, appended=True) == pytest.approx(298.5, abs=0.1)
    assert math.isnan(world.arrivals.producers_skew_s), "nothing is known of the producers' clocks"


def test_the_brokers_timestamps_measure_their_clock_without_transactions() -> None:
    world = World(3600.0, measured=False)
    world.polled(7)
    world.now += 1
    world.age(7, 1_000.9, appended=True)
    assert world.arrivals.clock.skew_s == pytest.approx(3600, abs=1.1)
    world.now += 60
    assert world.age(8, 1_051.0, appended=True) == pytest.approx(10, abs=1.1)


def test_without_the_brokers_clock_an_age_is_bounded_by_the_polls() -> None:
    world = World(3600.0, measured=False)
    world.polled(7)
    world.now += 5
    world.polled(9)
    world.now += 20
    assert world.age(8, 1_004.0) == pytest.approx(25, abs=0.1)
    assert world.arrivals.producers_skew_s == pytest.approx(-3600, abs=5), "against the worker's clock: one is wrong"


def test_a_record_without_a_timestamp_is_as_old_as_it_may_be() -> None:
    world = World()
    record = Record("posts", 3, 7, -1, None, b"", ())
    assert world.arrivals.of(record, world.arrivals.reading()) == world.now
    world.polled(7)
    world.now += 30
    assert world.now - world.arrivals.of(record, world.arrivals.reading()) == pytest.approx(30, abs=0.1)


def test_a_wrong_clock_is_shown_for_some_minutes() -> None:
    world = World()
    world.polled(0)
    world.age(0, world.now, 3000.0)
    for _ in range(3):
        world.now += SHOWN_S / 3
        world.age(1, world.now)
    assert world.arrivals.producers_skew_s == pytest.approx(3000, abs=0.1)
    for _ in range(6):
        world.now += SHOWN_S / 3
        world.age(1, world.now)
    assert world.arrivals.producers_skew_s == pytest.approx(0, abs=0.1)
    world.now += 3 * SHOWN_S
    assert math.isnan(world.arrivals.producers_skew_s), "no record came"


def test_the_age_of_a_post_costs_a_fraction_of_reading_it() -> None:
    """In one run, at the best of several: a ninth, on the machine where this was written."""
    world = World()
    for end in range(0, 100 * MAX_ENDS, 100):
        world.polled(end)
        world.now += 5
    value = json.dumps({"id": "42", "text": "some words of a short post " * 4}).encode()
    stamp = int((BROKERS + world.now) * 1000)
    records = [Record("posts", 3, offset, stamp, b"key", value, ()) for offset in range(2_000)]
    reading, media = world.arrivals.reading(), MediaSettings()

    def ages() -> None:
        for record in records:
            metrics.POST.add(reading.at - world.arrivals.of(record, reading))

    def reads() -> None:
        for record in records:
            wire.post_record(record.value, record.headers, media, schema_registry=False)

    def best(work: Callable[[], None]) -> float:
        return min(timeit.repeat(work, number=1, repeat=7))

    assert best(ages) < best(reads) / 3
