"""Offsets hold the delivery promises under any schedule of deliveries, results, losses and crashes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moderation.errors import DeliveryError
from moderation.inference.verdict_cache import VerdictCache
from moderation.settings import KafkaSettings
from moderation.worker.offsets import Offsets
from moderation.worker.partition import AssignedPartition
from moderation.worker.publisher import Publisher
from moderation.worker.suspects import Opening


def test_the_prefix_ends_at_the_first_offset_without_a_result() -> None:
    offsets = Offsets[str](5)
    for offset in (5, 6, 9, 12):  # a log has gaps
        offsets.deliver(offset)
    offsets.settle(9, "c")
    assert offsets.prefix(10) == []
    offsets.settle(5, "a")
    assert offsets.prefix(10) == [(5, "a")]
    offsets.settle(6, "b")
    assert offsets.prefix(10) == [(5, "a"), (6, "b"), (9, "c")]
    assert offsets.prefix(2) == [(5, "a"), (6, "b")]
    offsets.commit(offsets.prefix(2))
    assert len(offsets) == 2
    assert offsets.prefix(10) == [(9, "c")]


@pytest.mark.parametrize("offset", [4, 5])
def test_an_offset_that_goes_back_is_refused(offset: int) -> None:
    offsets = Offsets[str](5)
    offsets.deliver(5)
    with pytest.raises(DeliveryError, match="6 or later was expected"):
        offsets.deliver(offset)


def test_what_is_ready_survives_giving_up_and_nothing_else_does() -> None:
    offsets = Offsets[str](0)
    for offset in range(4):
        offsets.deliver(offset)
    for offset in (0, 1, 3):
        offsets.settle(offset, "done")
    offsets.give_up()
    offsets.settle(2, "too late")
    assert offsets.prefix(10) == [(0, "done"), (1, "done")]


def a_lane() -> AssignedPartition:
    async def nowhere() -> Opening:
        raise AssertionError("it is not opened")

    return AssignedPartition(Publisher(KafkaSettings(), 0, nowhere), VerdictCache(0, 0), asyncio.Event(), 10)


def test_posts_of_one_poll_are_as_old_as_their_timestamps_say_whenever_that_is_asked() -> None:
    assigned, other = a_lane(), a_lane()
    polled, wall = 1_000.0, 1_700_000_000.0
    stamps = [1_699_999_999_000, 1_699_999_999_001, 1_699_999_999_001]
    arrivals = [assigned.arrival(stamp, polled, wall) for stamp in stamps]
    assert [one.written for one in arrivals] == pytest.approx([999.0, 999.001, 999.001])
    between = other.arrival(1_699_999_999_000, polled, wall)
    key = [(one.written, one.number) for one in (arrivals[0], between, *arrivals[1:])]
    assert key == sorted(key)


def test_a_post_is_never_older_than_the_one_in_front_of_it() -> None:
    assigned = a_lane()
    first = assigned.arrival(1_700_000_000_000, 1_000.0, 1_700_000_001.0)
    stamped_earlier = assigned.arrival(1_600_000_000_000, 1_000.0, 1_700_000_001.0)
    after_a_slow_look_at_the_clock = assigned.arrival(1_700_000_000_000, 1_000.1, 1_700_000_001.2)
    without_a_stamp = assigned.arrival(0, 1_000.2, 1_700_000_001.3)
    from_the_future = assigned.arrival(1_800_000_000_000, 1_000.3, 1_700_000_001.4)
    arrivals = [first, stamped_earlier, after_a_slow_look_at_the_clock, without_a_stamp, from_the_future]
    keys = [(one.written, one.number) for one in arrivals]
    assert keys == sorted(keys)
    assert all(one.written <= one.polled for one in arrivals)


@dataclass(eq=False)
class Assignment:
    """One worker's idea that the partition is its own."""

    epoch: int
    read: int  # where its consumer reads on
    offsets: Offsets[tuple[int, int]]  # results name the epoch and the offset that they come from
    unsettled: set[int] = field(default_factory=set)


class Partition(RuleBasedStateMachine):
    """A log with gaps, a broker that fences, and workers that come, go, crash and come back as zombies."""

    @initialize(gaps=st.lists(st.integers(1, 3), min_size=1, max_size=40))
    def a_log(self, gaps: list[int]) -> None:
        self.log = [sum(gaps[:count]) for count in range(len(gaps))]
        self.committed = 0
        self.published: list[tuple[int, int]] = []
        self.epoch = 0
        self.alive: list[Assignment] = []

    @rule()
    def assign(self) -> None:
        """The order of the real one: fence, then read the position, then take posts."""
        self.epoch += 1
        self.alive.append(Assignment(self.epoch, self.committed, Offsets(self.committed)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), most=st.integers(1, 5))
    def deliver(self, data: st.DataObject, most: int) -> None:
        one = data.draw(st.sampled_from(self.alive))
        for offset in [offset for offset in self.log if offset >= one.read][:most]:
            one.offsets.deliver(offset)
            one.unsettled.add(offset)
            one.read = offset + 1

    @precondition(lambda self: any(one.unsettled for one in self.alive))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([one for one in self.alive if one.unsettled]))
        offset = data.draw(st.sampled_from(sorted(one.unsettled)))
        one.unsettled.remove(offset)
        one.offsets.settle(offset, (one.epoch, offset))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), most=st.integers(1, 4), lost=st.booleans())
    def commit(self, data: st.DataObject, most: int, lost: bool) -> None:
        """`lost`: the worker does not learn how it ended, and is a crashed one."""
        one = data.draw(st.sampled_from(self.alive))
        prefix = one.offsets.prefix(most)
        if not prefix:
            return
        if one.epoch != self.epoch:
            self.alive.remove(one)  # fenced
            return
        self.published += [result for _, result in prefix]
        assert prefix[-1][0] + 1 > self.committed
        self.committed = prefix[-1][0] + 1
        if lost:
            self.alive.remove(one)
        else:
            one.offsets.commit(prefix)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """A drain that ran out of time; late results still arrive."""
        one = data.draw(st.sampled_from(self.alive))
        one.offsets.give_up()
        one.read = self.log[-1] + 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.alive.remove(data.draw(st.sampled_from(self.alive)))

    @invariant()
    def each_offset_below_the_committed_one_is_published_once_and_in_order(self) -> None:
        answered = [offset for offset in self.log if offset < self.committed]
        assert [offset for _, offset in self.published] == answered

    @invariant()
    def epochs_never_go_back(self) -> None:
        epochs = [epoch for epoch, _ in self.published]
        assert epochs == sorted(epochs)

    @invariant()
    def what_is_under_way_is_what_was_delivered_and_not_committed(self) -> None:
        for one in self.alive:
            assert len(one.offsets) <= len([offset for offset in self.log if offset < one.read])
            assert len(one.offsets.prefix(1000)) <= len(one.offsets)

    def teardown(self) -> None:
        """Whatever happened, a last worker that is left alone answers the rest."""
        self.assign()
        one = self.alive[-1]
        for offset in [offset for offset in self.log if offset >= one.read]:
            one.offsets.deliver(offset)
            one.offsets.settle(offset, (one.epoch, offset))
        self.published += [result for _, result in one.offsets.prefix(len(self.log))]
        assert [offset for _, offset in self.published] == self.log


TestPartition = Partition.TestCase
