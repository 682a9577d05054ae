"""Records of the verdicts topic as entries: those that other programs may write. The others: integration/view."""

from __future__ import annotations

import pytest

from moderation import wire
from moderation.kafka.records import INT64, Record
from moderation.view.entries import read


@pytest.mark.parametrize("timestamp", [-1, 0, INT64.start, INT64.stop - 1])
@pytest.mark.parametrize("value", [None, b"{"])
@pytest.mark.parametrize("erased_at", [b"0", b"9" * 15])
def test_any_timestamp_gives_a_rank_that_a_database_takes(
    timestamp: int, value: bytes | None, erased_at: bytes
) -> None:
    headers = [(wire.ERASED_AT, erased_at)]
    said = read(Record("verdicts", 0, 1, timestamp, b"42", value, headers), "posts")
    assert said
    assert said.entry.rank in INT64
