"""What a process knows of the brokers' clock, by clocks that a test sets."""

from __future__ import annotations

import math

import pytest

from moderation.kafka.broker_clock import EVERY_S, BrokerClock

BROKERS = 1_700_000_000.0  # what their clock shows when the local one shows 0


class Clocks:
    """A local clock, a wall clock, and what is known of the brokers'."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.now = 100.0
        self.ahead_s = ahead_s  # of the wall clock
        self.known = BrokerClock(lambda: self.now, lambda: BROKERS + self.now + self.ahead_s)

    def answered(self, took_s: float, ahead_s: float = 0.0) -> None:
        """A broker whose clock is `ahead_s` ahead of the others gave its time, in the middle of `took_s`."""
        sent = self.now
        self.now += took_s
        self.known.observe(int((BROKERS + ahead_s + sent + took_s / 2) * 1000), sent, self.now)


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0, -3600.0, 0.3])
def test_the_skew_of_the_wall_clock_is_known_to_half_a_round_trip(ahead_s: float) -> None:
    clocks = Clocks(ahead_s)
    clocks.answered(0.02)
    assert clocks.known.skew_s == pytest.approx(ahead_s, abs=0.012)
    assert clocks.known.offset == pytest.approx(BROKERS, abs=0.012)
    assert clocks.known.error_s <= 0.011


def test_without_an_answer_the_skew_is_unknown_and_the_wall_clock_counts() -> None:
    clocks = Clocks(3600.0)
    assert not clocks.known.known
    assert math.isnan(clocks.known.skew_s)
    assert clocks.known.offset == pytest.approx(BROKERS + 3600)


def test_a_slow_answer_loosens_nothing_that_a_quick_one_has_shown() -> None:
    clocks = Clocks()
    clocks.answered(0.01)
    clocks.answered(4.0)
    assert clocks.known.error_s < 0.01


def test_a_wall_clock_that_jumps_is_seen_at_once_and_changes_no_age() -> None:
    clocks = Clocks()
    clocks.answered(0.01)
    before = clocks.known.offset
    clocks.ahead_s = 3600.0
    assert clocks.known.skew_s == pytest.approx(3600, abs=0.01)
    assert clocks.known.offset == before


def test_brokers_whose_clock_was_set_are_believed() -> None:
    clocks = Clocks()
    clocks.answered(0.01)
    clocks.answered(0.01, ahead_s=-50.0)
    assert clocks.known.offset == pytest.approx(BROKERS - 50, abs=0.01)


def test_two_brokers_that_differ_a_little_leave_what_is_known_exact() -> None:
    """A record of another broker, which came at some time in five seconds, would loosen it."""
    clocks = Clocks()
    clocks.answered(0.002)
    for _ in range(20):
        clocks.now += 1
        clocks.known.observe(int((BROKERS + 0.05 + clocks.now) * 1000), clocks.now - 5, clocks.now + 0.001)
        assert clocks.known.error_s < 0.01
        assert clocks.known.offset == pytest.approx(BROKERS, abs=0.06)


def test_what_is_known_fades() -> None:
    clocks = Clocks()
    clocks.answered(0.01)
    clocks.now += 100_000
    assert not clocks.known.known


def test_records_of_the_brokers_bound_their_clock_on_one_side() -> None:
    """A backlog shows only that the brokers' clock is not behind its timestamps: their age is not known by that."""
    clocks = Clocks(-3600.0)
    clocks.known.observe(int((BROKERS + 90) * 1000), -math.inf, 100.0)
    assert not clocks.known.known
    assert clocks.known.offset == pytest.approx(BROKERS - 10), "the wall clock is an hour behind: no record says so"
    clocks.known.observe(int((BROKERS + 100) * 1000), 99.0, 100.01)  # a record that came between two moments
    assert clocks.known.error_s < 1
    assert clocks.known.offset == pytest.approx(BROKERS, abs=1)


def test_a_coordinator_is_asked_now_and_then() -> None:
    clocks = Clocks()
    first = clocks.known.due(), clocks.known.due()
    clocks.now += EVERY_S
    assert (*first, clocks.known.due()) == (True, False, True)
