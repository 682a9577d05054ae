"""What an opening of a partition makes of the mark that earlier ones have left, and the mark that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.worker.suspects import ATTEMPTS, FEW, OPEN, STUCK_S, Mark, Suspects

COUNTS, OFFSETS = st.integers(0, 10**9 - 1), st.integers(0, 10**18 - 1)
MARKS = st.builds(
    Mark, open=st.just(True), openings=st.integers(0, 10**9 - 1), until=OFFSETS, offset=OFFSETS, attempts=COUNTS
)


@given(MARKS, st.integers(0, 10**18 - 1))
def test_a_mark_is_read_as_it_was_written_and_only_at_its_offset(mark: Mark, position: int) -> None:
    metadata = mark.metadata(position)
    assert Mark.read(metadata, position) == mark
    assert Mark.read(metadata, position + 1) == Mark()
    assert len(metadata) <= 129, "brokers take 4096 bytes"


FOREIGN = [
    None,
    "",
    "checkpoint 17",
    '{"openings": 3}',
    "moderation/2 position=5 openings=1 until=0 offset=0 attempts=0",
    "moderation/1 position=5 openings=1 until=0 offset=0 attempts=0 more=1",
    "moderation/1 position=5 openings=-1 until=0 offset=0 attempts=0",
    "moderation/1 position=5 openings=1 until=0 offset=0 attempts=٣",  # digits that are not ASCII
    "moderation/1 position=5 openings=1 until=0 offset=0 attempts=0\n",
    "moderation/1 position=5 openings=1 until=0 offset=0 attempts=" + "9" * 4000,
    "[" * 4096,
]


@pytest.mark.parametrize("metadata", FOREIGN)
def test_metadata_of_another_writer_is_none(metadata: str | None) -> None:
    assert Mark.read(metadata, 5) == Mark()


@given(st.text(max_size=4096))
def test_any_metadata_is_read_or_ignored(metadata: str) -> None:
    assert Mark.read(metadata, 5) == Mark()


@dataclass
class Log:
    """A partition, and the openings of it: what is committed survives them."""

    position: int = 100
    mark: Mark = field(default_factory=Mark)

    def opened(self, *offsets: int, limit: int = 8, end: int = 1000, clock: float = 0.0) -> Suspects:
        initial = Mark.read(self.mark.metadata(self.position), self.position).suspected(self.position, end)
        suspects = Suspects(initial, limit, lambda: clock)
        for offset in offsets:
            suspects.deliver(offset)
        return suspects

    def commit(self, suspects: Suspects, answered: int | None = None) -> None:
        self.mark = suspects.mark(answered)
        self.position = self.position if answered is None else answered + 1
        suspects.written(self.mark)

    def count(self, suspects: Suspects) -> None:
        assert not suspects.counted
        suspects.count()
        self.commit(suspects)

    def attempt(self, suspects: Suspects, offset: int) -> int:
        number = suspects.attempt(offset)
        self.commit(suspects)
        return number

    def pass_(self, suspects: Suspects, offset: int) -> None:
        if suspects.passed(offset):
            self.commit(suspects)
        self.commit(suspects, offset)


def test_progress_clears_the_count_and_the_next_opening_has_no_suspects() -> None:
    log = Log()
    first = log.opened(100, 101)
    log.count(first)
    assert log.mark == Mark(True, 1)
    log.commit(first, 100)
    assert log.mark == OPEN
    log.mark = first.at_drain() or log.mark
    assert log.mark == Mark()
    assert 101 not in log.opened(101, end=102)


def test_a_worker_that_is_killed_in_the_midst_of_its_work_leaves_no_suspects_but_a_few() -> None:
    log = Log()
    first = log.opened(100, 101)
    log.count(first)
    log.commit(first, 100)  # killed after it
    many = log.opened(101, end=101 + FEW + 1)
    assert 101 not in many
    assert not many.counted
    assert log.opened(101, end=101).initial.openings == 0, "none waits"
    few = log.opened(101, 102, end=101 + 1)
    assert 101 in few
    assert 102 not in few, "it came later"


def test_a_post_that_ends_the_process_is_attempted_alone_twice_and_then_given_up() -> None:
    log = Log()
    log.count(log.opened(100))  # crash
    second = log.opened(100, 101)
    assert second.counted
    assert 100 in second
    assert 101 in second
    assert log.attempt(second, 100) == 1  # crash
    third = log.opened(100, 101)
    assert log.attempt(third, 100) == 2  # crash
    fourth = log.opened(100, 101)
    assert fourth.attempts(100) == ATTEMPTS
    assert log.attempt(fourth, 100) == ATTEMPTS + 1
    log.pass_(fourth, 100)
    assert log.position == 101
    assert log.attempt(fourth, 101) == 1, "what may have been in hand beside it is still suspect"
    log.pass_(fourth, 101)
    assert 101 not in fourth


def test_an_innocent_post_whose_machine_failed_is_not_given_up() -> None:
    log = Log()
    log.count(log.opened(100))  # crash
    second = log.opened(100)
    log.attempt(second, 100)  # killed from outside
    third = log.opened(100)
    assert log.attempt(third, 100) == 2
    assert third.passed(100), "that it has passed must be known before its outcome is published"
    log.commit(third)  # publishing fails, and the worker ends
    fourth = log.opened(100)
    assert 100 in fourth
    assert fourth.attempts(100) == 0


def test_publishing_that_fails_after_a_post_was_given_up_does_not_hide_its_id() -> None:
    """Another attempt more, and it would be given up without being decoded."""
    log = Log(mark=Mark(True, 1, 101, 100, ATTEMPTS))
    first = log.opened(100)
    assert log.attempt(first, 100) == ATTEMPTS + 1
    assert first.passed(100)
    log.commit(first)  # publishing fails
    assert log.opened(100).attempts(100) == ATTEMPTS


def test_the_attempt_at_a_post_that_is_gone_says_nothing_about_the_next() -> None:
    log = Log(mark=Mark(True, 1, 110, 100, 2))
    suspects = log.opened(103)  # 100 was compacted away
    assert 103 in suspects
    assert log.attempt(suspects, 103) == 1


@pytest.mark.parametrize("gaps", [False, True])
def test_suspects_are_those_that_may_have_been_in_hand(*, gaps: bool) -> None:
    step = 3 if gaps else 1
    offsets = range(100, 100 + 20 * step, step)
    many = Log(mark=Mark(True, 1)).opened(*offsets, limit=5)
    assert [offset for offset in offsets if offset in many] == list(offsets[:5])
    few = Log(mark=Mark(True, 1)).opened(*offsets, limit=5, end=103)
    assert [offset for offset in offsets if offset in few] == [offset for offset in offsets if offset < 103]
    known = Log(mark=Mark(True, 1, 102)).opened(*offsets, limit=5)
    assert [offset for offset in offsets if offset in known] == [offset for offset in offsets if offset < 102]


def test_while_suspects_remain_progress_does_not_clear_the_count() -> None:
    log = Log(mark=Mark(True, 3, 102))
    suspects = log.opened(100, 101, 102)
    log.attempt(suspects, 100)
    log.pass_(suspects, 100)
    assert log.mark == Mark(True, 1, 102)
    log.attempt(suspects, 101)
    log.pass_(suspects, 101)
    assert log.mark == OPEN, "102 came later"


def test_the_last_suspect_is_the_last_even_if_nothing_comes_after_it() -> None:
    log = Log(mark=Mark(True, 1, 101))
    suspects = log.opened(100)
    log.attempt(suspects, 100)
    log.pass_(suspects, 100)
    assert log.mark == OPEN


def test_an_erasure_between_suspects_does_not_take_the_attempt_back() -> None:
    log = Log(mark=Mark(True, 1, 110))
    suspects = log.opened(100, 101)
    suspects.attempt(101)
    log.commit(suspects, 100)  # 100 is an erasure
    assert log.mark.attempts == 1
    assert log.mark.offset == 101


def test_a_drain_takes_back_what_it_has_recorded() -> None:
    log = Log()
    first = log.opened(100)
    log.count(first)
    assert first.at_drain() == Mark()
    initial = Mark(True, 2, 105, 100, 1)
    log = Log(mark=initial)
    second = log.opened(100)
    log.attempt(second, 100)
    assert second.at_drain() == initial
    log.pass_(second, 100)
    assert log.mark == Mark(True, 1, 105), "more of them may come"
    assert second.at_drain() is None
    assert Log().opened(100).at_drain() is None


def test_a_drain_does_not_take_back_the_attempt_at_a_stuck_post() -> None:
    now = 0.0
    suspects = Suspects(Mark(True, 1, 105), 8, lambda: now)
    suspects.deliver(100)
    suspects.attempt(100)
    suspects.written(suspects.mark(None))
    now = STUCK_S
    assert suspects.at_drain() is None


def test_before_an_end_that_a_post_may_have_caused_the_few_in_hand_become_suspects() -> None:
    log = Log()
    first = log.opened(*range(100, 103))
    log.count(first)
    log.commit(first, 100)
    assert first.at_crash(2, 103) == Mark(True, 1, 103)
    assert first.at_crash(0, 103) is None
    assert first.at_crash(FEW + 1, 200) is None
    log.commit(second := log.opened(101))
    log.count(second)
    assert second.at_crash(1, 102) is None, "the metadata counts this opening"
