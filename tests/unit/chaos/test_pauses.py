"""What the measurement of pauses reads from verdicts and logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.fleet import Worker
from tests.chaos.pauses import longest, owned


@pytest.mark.parametrize(
    ("times", "expected"),
    [([1.0, 2.0, 6.5], 4.5), ([], 10.0), ([4.0], 6.0), ([-3.0, 9.0, 12.0], 9.0), ([7.0, 1.0, 3.0], 4.0)],
)
def test_the_longest_pause_begins_and_ends_with_the_watch(times: list[float], expected: float) -> None:
    assert longest(times, 0.0, 10.0) == expected


def test_what_a_worker_has_is_what_its_present_life_was_assigned(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [("policies_loaded", None), ("partition_assigned", 1), ("policies_loaded", None)]
    lines += [("partition_assigned", 2), ("partition_assigned", 3), ("partition_revoked", 2)]
    log.write_text("".join(json.dumps({"event": event, "partition": number}) + "\n" for event, number in lines))
    assert owned(Worker(0, {}, [], log)) == {3}
