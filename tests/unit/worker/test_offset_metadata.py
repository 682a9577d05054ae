"""What workers write with a committed offset, and what they make of other metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.worker import offset_metadata
from moderation.worker.offset_metadata import Log, Stored
from moderation.worker.suspects import Mark

ID = "pVjZ5lQFRYKSR7J9tGJ0Kw"
LARGEST = 10**18 - 1

numbers = st.integers(0, LARGEST)
marks = st.just(Mark()) | st.builds(
    Mark, st.just(True), st.integers(0, 10**9 - 1), numbers, numbers, st.integers(0, 10**9 - 1)
)
logs = st.just(Log()) | st.builds(Log, st.just(ID), st.integers(-1, 2**31 - 1))


@given(numbers, marks, logs)
def test_what_is_written_is_read(position: int, mark: Mark, log: Log) -> None:
    metadata = offset_metadata.write(position, mark, log)
    assert len(metadata) <= 180
    assert offset_metadata.read(metadata, position) == Stored(True, mark, log)


@given(numbers, marks, logs)
def test_an_offset_that_was_moved_with_its_metadata_is_another_programs(position: int, mark: Mark, log: Log) -> None:
    assert offset_metadata.read(offset_metadata.write(position, mark, log), position + 1) == Stored()


def test_metadata_of_earlier_versions_is_read_without_a_log() -> None:
    mark = Mark(open=True, openings=1, until=9)
    assert offset_metadata.read(mark.metadata(7), 7) == Stored(True, mark)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "",
        "by another tool",
        "moderation/2 position=7",
        f"moderation/1 position=7 topic={ID}",
        f"moderation/1 position=7 topic={ID[1:]} epoch=0",
        f"moderation/1 position=7 topic={ID} epoch=-2",
        f"moderation/1 position=7 topic={ID} epoch=0 ",
        "moderation/1 position=٧",
    ],
)
def test_other_metadata_says_nothing(metadata: str | None) -> None:
    assert offset_metadata.read(metadata, 7) == Stored()
