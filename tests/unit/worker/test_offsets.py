"""Offsets keep the delivery promises under any schedule of deliveries, results, losses and crashes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moderation.errors import DeliveryError
from moderation.worker.offsets import Offsets


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


def test_giving_up_keeps_the_results_that_are_ready_and_no_others() -> None:
    offsets = Offsets[str](0)
    for offset in range(4):
        offsets.deliver(offset)
    for offset in (0, 1, 3):
        offsets.settle(offset, "done")
    offsets.give_up()
    offsets.settle(2, "too late")
    assert offsets.prefix(10) == [(0, "done"), (1, "done")]


@dataclass(eq=False)
class Assignment:
    """A worker that believes that it owns the partition."""

    epoch: int
    read: int  # position of its consumer
    offsets: Offsets[tuple[int, int]]  # results name the epoch and the offset that they come from
    unsettled: set[int] = field(default_factory=set)


class Partition(RuleBasedStateMachine):
    """A log with gaps, a broker that fences, and workers that start, drain, crash and return after they were fenced."""

    @initialize(gaps=st.lists(st.integers(1, 3), min_size=1, max_size=40))
    def a_log(self, gaps: list[int]) -> None:
        self.log = [sum(gaps[:count]) for count in range(len(gaps))]
        self.committed = 0
        self.published: list[tuple[int, int]] = []
        self.epoch = 0
        self.alive: list[Assignment] = []

    @rule()
    def assign(self) -> None:
        """In the order of the real worker: fence, read the position, take posts."""
        self.epoch += 1
        self.alive.append(Assignment(self.epoch, self.committed, Offsets(self.committed)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def deliver(self, data: st.DataObject, limit: int) -> None:
        owner = data.draw(st.sampled_from(self.alive))
        for offset in [offset for offset in self.log if offset >= owner.read][:limit]:
            owner.offsets.deliver(offset)
            owner.unsettled.add(offset)
            owner.read = offset + 1

    @precondition(lambda self: any(owner.unsettled for owner in self.alive))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from([other for other in self.alive if other.unsettled]))
        offset = data.draw(st.sampled_from(sorted(owner.unsettled)))
        owner.unsettled.remove(offset)
        owner.offsets.settle(offset, (owner.epoch, offset))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), limit=st.integers(1, 4), lost=st.booleans())
    def commit(self, data: st.DataObject, limit: int, lost: bool) -> None:
        """`lost`: the worker does not learn the result, and crashes."""
        owner = data.draw(st.sampled_from(self.alive))
        prefix = owner.offsets.prefix(limit)
        if not prefix:
            return
        if owner.epoch != self.epoch:
            self.alive.remove(owner)  # fenced
            return
        self.published += [result for _, result in prefix]
        assert prefix[-1][0] + 1 > self.committed
        self.committed = prefix[-1][0] + 1
        if lost:
            self.alive.remove(owner)
        else:
            owner.offsets.commit(prefix)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """A drain that ran out of time; late results still arrive."""
        owner = data.draw(st.sampled_from(self.alive))
        owner.offsets.give_up()
        owner.read = self.log[-1] + 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.alive.remove(data.draw(st.sampled_from(self.alive)))

    @invariant()
    def each_offset_below_the_committed_one_is_published_once_and_in_order(self) -> None:
        published = [offset for offset in self.log if offset < self.committed]
        assert [offset for _, offset in self.published] == published

    @invariant()
    def epochs_never_go_back(self) -> None:
        epochs = [epoch for epoch, _ in self.published]
        assert epochs == sorted(epochs)

    @invariant()
    def offsets_in_hand_were_delivered_and_not_committed(self) -> None:
        for owner in self.alive:
            assert len(owner.offsets) <= len([offset for offset in self.log if offset < owner.read])
            assert len(owner.offsets.prefix(1000)) <= len(owner.offsets)

    def teardown(self) -> None:
        """A last worker that runs alone publishes the rest."""
        self.assign()
        owner = self.alive[-1]
        for offset in [offset for offset in self.log if offset >= owner.read]:
            owner.offsets.deliver(offset)
            owner.offsets.settle(offset, (owner.epoch, offset))
        self.published += [result for _, result in owner.offsets.prefix(len(self.log))]
        assert [offset for _, offset in self.published] == self.log


TestPartition = Partition.TestCase
