"""Arrivals of posts: their order decides which posts are scored first."""

from __future__ import annotations

import asyncio

import pytest

from moderation.inference.verdict_cache import VerdictCache
from moderation.settings import KafkaSettings
from moderation.worker.partition import AssignedPartition
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Opening


def an_assigned_partition() -> AssignedPartition:
    async def nowhere() -> Opening:
        raise AssertionError("the partition is not opened")

    return AssignedPartition(Publisher(KafkaSettings(), 0, nowhere), VerdictCache(0, 0), asyncio.Event(), 10)


def test_posts_of_one_poll_are_ordered_by_their_timestamps() -> None:
    assigned, other = an_assigned_partition(), an_assigned_partition()
    polled, wall = 1_000.0, 1_700_000_000.0
    stamps = [1_699_999_999_000, 1_699_999_999_001, 1_699_999_999_001]
    arrivals = [assigned.arrival(stamp, polled, wall) for stamp in stamps]
    assert [arrival.written for arrival in arrivals] == pytest.approx([999.0, 999.001, 999.001])
    between = other.arrival(1_699_999_999_000, polled, wall)
    key = [(arrival.written, arrival.number) for arrival in (arrivals[0], between, *arrivals[1:])]
    assert key == sorted(key)


def test_a_post_is_never_older_than_the_one_in_front_of_it() -> None:
    assigned = an_assigned_partition()
    first = assigned.arrival(1_700_000_000_000, 1_000.0, 1_700_000_001.0)
    stamped_earlier = assigned.arrival(1_600_000_000_000, 1_000.0, 1_700_000_001.0)
    after_a_slow_look_at_the_clock = assigned.arrival(1_700_000_000_000, 1_000.1, 1_700_000_001.2)
    without_a_stamp = assigned.arrival(0, 1_000.2, 1_700_000_001.3)
    from_the_future = assigned.arrival(1_800_000_000_000, 1_000.3, 1_700_000_001.4)
    arrivals = [first, stamped_earlier, after_a_slow_look_at_the_clock, without_a_stamp, from_the_future]
    keys = [(arrival.written, arrival.number) for arrival in arrivals]
    assert keys == sorted(keys)
    assert all(arrival.written <= arrival.polled for arrival in arrivals)
