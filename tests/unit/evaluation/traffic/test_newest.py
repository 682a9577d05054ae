"""The newest verdict of each post of a period, whatever order the partitions are read in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from moderation import wire
from moderation.evaluation.traffic.newest import Newest
from moderation.kafka.records import Record
from moderation.types import Source
from tests.support.builders import a_verdict

ID = "post-1"
Line = tuple[str, int, int]  # what it is: `verdict` or `erasure`; its partition; time of its post, or of the erasure


def records(lines: Sequence[Line], start: int = 0) -> list[Record]:
    """Lines of the verdicts topic. Each is written a second after its post."""
    made = []
    for offset, (kind, partition, at_ms) in enumerate(lines, start):
        source = Source("posts", partition, offset, at_ms)
        if kind == "verdict":
            value, headers = wire.verdict_record(a_verdict(ID, source=source), "json")
        else:
            value = None
            headers = wire.erasure_headers(wire.Erasure(ID, at_ms, "posts/0/9", copied=kind == "copy"), source)
        made.append(Record("verdicts", partition, offset, at_ms + 1000, ID.encode(), value, tuple(headers)))
    return made


def interleaved(of_period: list[Record]) -> list[list[Record]]:
    """Every order in which partitions may come: each keeps its own."""
    orders = []
    for order in itertools.permutations(of_period):
        parts = {record.partition for record in order}
        if all(
            [r.offset for r in order if r.partition == p] == sorted(r.offset for r in order if r.partition == p)
            for p in parts
        ):
            orders.append(list(order))
    return orders


def given(of_period: Sequence[Record], later: Sequence[Record] = ()) -> tuple[list[tuple[int, int]], Newest]:
    """Partition and offset of each verdict that is given."""
    newest = Newest()
    for record in of_period:
        newest.add(record, within=True)
    for record in later:
        newest.add_later(record)
    found = [verdict for record in of_period if (verdict := newest.verdict(record)) is not None]
    sources = [verdict.source for verdict in [*found, *newest.contested()]]
    return [(source.partition, source.offset) for source in sources if source], newest


@pytest.mark.parametrize(
    ("of_period", "later", "expected"),
    [
        ([("verdict", 0, 10)], [], [(0, 0)]),
        ([("verdict", 0, 10), ("verdict", 0, 20)], [], [(0, 1)]),
        ([("verdict", 0, 20), ("verdict", 0, 10)], [], [(0, 1)]),  # of one partition the last counts
        ([("verdict", 0, 10), ("verdict", 1, 20)], [], [(1, 1)]),
        ([("verdict", 0, 20), ("verdict", 1, 10)], [], [(0, 0)]),
        ([("verdict", 0, 10), ("verdict", 1, 20), ("verdict", 0, 30)], [], [(0, 2)]),
        ([("verdict", 0, 10), ("erasure", 0, 20)], [], []),
        ([("erasure", 0, 5), ("verdict", 0, 10)], [], [(0, 1)]),
        ([("verdict", 0, 10), ("erasure", 0, 20), ("copy", 1, 20)], [], []),
        ([("verdict", 1, 10), ("erasure", 0, 20)], [], []),  # erased from elsewhere
        ([("verdict", 1, 30), ("erasure", 0, 20)], [], [(1, 0)]),  # the post is later than the erasure
        ([("verdict", 0, 10), ("verdict", 1, 30), ("erasure", 0, 20), ("copy", 1, 20)], [], []),
        ([("verdict", 0, 10), ("verdict", 1, 30), ("erasure", 0, 20)], [], [(1, 1)]),
        ([("verdict", 0, 10)], [("verdict", 0, 20)], []),
        ([("verdict", 0, 10)], [("verdict", 1, 20)], []),
        ([("verdict", 0, 10)], [("verdict", 1, 5)], [(0, 0)]),
        ([("verdict", 0, 10)], [("erasure", 0, 20)], []),
        ([("verdict", 0, 10)], [("copy", 1, 20)], []),
        ([("verdict", 0, 30)], [("copy", 1, 20)], [(0, 0)]),
        ([("verdict", 0, 10), ("verdict", 1, 20)], [("verdict", 1, 30)], []),
        ([("verdict", 0, 10), ("verdict", 1, 20)], [("verdict", 0, 15)], [(1, 1)]),
    ],
)
def test_the_newest_verdict_of_a_post_is_given(
    of_period: Sequence[Line], later: Sequence[Line], expected: list[tuple[int, int]]
) -> None:
    behind = records(later, 50)
    for order in interleaved(records(of_period)):
        found, newest = given(order, behind)
        assert found == expected
        assert len(newest.erased) + len(newest.replaced) == (0 if expected else 1)


def test_posts_do_not_touch_each_other() -> None:
    first, second = records([("verdict", 0, 10), ("verdict", 0, 20)])
    found, _ = given([first, second._replace(key=b"post-2")])
    assert found == [(0, 0), (0, 1)]


def test_a_record_within_the_offsets_but_not_the_time_takes_the_place_of_the_one_before() -> None:
    first, second = records([("verdict", 0, 10), ("verdict", 0, 20)])
    newest = Newest()
    newest.add(first, within=True)
    newest.add(second, within=False)
    assert newest.verdict(first) is None
    assert (newest.found, newest.replaced) == (1, {b"post-1"})


def test_a_verdict_of_another_version_is_counted() -> None:
    (record,) = records([("verdict", 0, 10)])
    found, newest = given([record._replace(value=b'{"outcome": "OUTCOME_BURN"}')])
    assert (found, newest.unreadable) == ([], 1)
