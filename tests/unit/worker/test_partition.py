"""Arrivals of posts, whose order decides which posts are scored first; and which position is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from moderation.inference.verdict_cache import VerdictCache
from moderation.settings import KafkaSettings
from moderation.worker.erasures import Erasures
from moderation.worker.messages import Result
from moderation.worker.offset_metadata import Log
from moderation.worker.opening import Opening
from moderation.worker.partition import AssignedPartition
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Mark


def an_assigned_partition() -> AssignedPartition:
    async def nowhere() -> Opening:
        raise AssertionError("the partition is not opened")

    return AssignedPartition(
        Publisher(KafkaSettings(), 0, nowhere), VerdictCache(0, 0), Erasures(KafkaSettings(), 3), asyncio.Event(), 10
    )


def test_posts_of_one_poll_are_ordered_by_their_arrivals() -> None:
    assigned, other = an_assigned_partition(), an_assigned_partition()
    arrivals = [assigned.arrival(arrived, 1_000.0) for arrived in (999.0, 999.001, 999.001)]
    assert [arrival.written for arrival in arrivals] == [999.0, 999.001, 999.001]
    between = other.arrival(999.0, 1_000.0)
    key = [(arrival.written, arrival.number) for arrival in (arrivals[0], between, *arrivals[1:])]
    assert key == sorted(key)


def test_a_post_is_never_older_than_the_one_in_front_of_it() -> None:
    assigned = an_assigned_partition()
    first = assigned.arrival(999.0, 1_000.0)
    stamped_earlier = assigned.arrival(-99_000.0, 1_000.0)
    of_a_later_poll = assigned.arrival(1_000.1, 1_000.1)
    assert stamped_earlier.arrived == -99_000.0, "its own age is another matter"
    arrivals = [first, stamped_earlier, of_a_later_poll]
    keys = [(arrival.written, arrival.number) for arrival in arrivals]
    assert keys == sorted(keys)
    assert all(arrival.written <= arrival.polled for arrival in arrivals)


class Topic:
    """Accepts what a partition commits, and holds its positions."""

    def __init__(self) -> None:
        self.position, self.opening, self.log = 5, Opening(5), Log("pVjZ5lQFRYKSR7J9tGJ0Kw", 1)
        self.positions: list[int] = []
        self.published = asyncio.Event()

    async def __aenter__(self) -> Topic:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def publish(self, messages: Sequence[Any], position: int, mark: Mark) -> None:
        self.position = position
        self.positions.append(position)
        self.published.set()


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[AssignedPartition, Topic]]:
    """A partition that is open at offset 5. It is drained at the end."""
    topic: Any = Topic()
    assigned = AssignedPartition(topic, VerdictCache(0, 0), Erasures(KafkaSettings(), 3), asyncio.Event(), 10)
    begun = asyncio.Event()

    async def restore() -> None:
        pass

    running = asyncio.create_task(assigned.run(restore, lambda _: begun.set()))
    await begun.wait()
    yield assigned, topic
    assigned.drain()
    await running


def judge(assigned: AssignedPartition, offset: int) -> None:
    assigned.settle(offset, Result((), None, 0.0))


async def test_a_commit_goes_behind_offsets_without_records_once_all_before_them_is_judged() -> None:
    async with opened() as (assigned, topic):
        for offset in (5, 6):
            assigned.take(offset, 1, 0)
        assigned.reach(9, 2)
        judge(assigned, 5)
        await topic.published.wait()
        judge(assigned, 6)
    assert topic.positions[:2] == [6, 9]
    assert set(topic.positions[2:]) <= {9}
    assert topic.log.epoch == 2


async def test_a_position_behind_offsets_without_records_is_committed_when_the_partition_rests() -> None:
    async with opened() as (assigned, topic):
        assigned.reach(8, 1)
        async with asyncio.timeout(10):
            await topic.published.wait()
    assert set(topic.positions) == {8}


async def test_a_commit_never_goes_behind_a_post_that_was_given_up() -> None:
    """Its next owner judges it."""
    async with opened() as (assigned, topic):
        for offset in (5, 6):
            assigned.take(offset, 1, 0)
        assigned.reach(9, 1)
        judge(assigned, 5)
        assigned.cut()
    assert topic.positions
    assert set(topic.positions) == {6}


async def test_a_partition_that_drains_passes_no_further_offsets() -> None:
    async with opened() as (assigned, topic):
        assigned.take(5, 1, 0)
        assigned.drain()
        assigned.reach(9, 1)
        judge(assigned, 5)
    assert set(topic.positions) == {6}
