"""The newest entries of the view, in memory, say what the store says."""

from __future__ import annotations

from moderation import wire
from moderation.api.grpc.responses import found_result
from moderation.view.recent import ENTRY_BYTES, Recent
from moderation.view.stores import Entry, Kind, rank_of
from tests.support.builders import a_finding, a_verdict

BYTES = wire.verdict_message(a_verdict("a", findings=(a_finding(), a_finding("other")))).SerializeToString()


def an_entry(post_id: str, offset: int, kind: int = Kind.VERDICT, partition: int = 0, tenant: str = "t") -> Entry:
    verdict = BYTES if kind == Kind.VERDICT else None
    return Entry(
        post_id,
        kind,
        partition,
        offset,
        offset,
        rank_of(offset, copied=False),
        partition,
        offset,
        tenant,
        1,
        "",
        0,
        verdict,
    )


def test_the_latest_entry_of_a_post_is_returned() -> None:
    recent = Recent(1 << 20, found_result)
    recent.put([an_entry("a", 1), an_entry("a", 2, Kind.ERASED), an_entry("b", 3)])
    assert recent.find("a") == (Kind.ERASED, "t", 0, 2, None)
    assert recent.find("b") == (Kind.VERDICT, "t", 0, 3, BYTES)
    assert recent.find("c") is None
    result = found_result("b", BYTES)
    assert recent.results(["a", "b", "c"], None) == [None, result, None]
    assert recent.results(["b"], "t") == [result]
    assert recent.results(["b"], "another") == [None]


def test_an_older_record_of_another_partition_does_not_replace_a_newer() -> None:
    recent = Recent(1 << 20, found_result)
    recent.put([an_entry("a", 7), an_entry("a", 3, partition=1)])
    assert recent.find("a") == (Kind.VERDICT, "t", 0, 7, BYTES)
    recent.put([an_entry("a", 9, partition=1)])
    assert recent.find("a") == (Kind.VERDICT, "t", 1, 9, BYTES)


def test_a_record_that_the_store_may_know_a_later_one_of_is_not_held() -> None:
    """The later record came from another partition, was folded in first, and was dropped."""
    recent = Recent(3 * (ENTRY_BYTES + len(BYTES) + 20), found_result)
    recent.put([an_entry("a", 70)])
    recent.put(an_entry(f"p{number}", 80 + number) for number in range(4))
    assert recent.find("a") is None
    recent.put([an_entry("a", 60, partition=1)])
    assert recent.find("a") is None
    recent.put([an_entry("a", 90, partition=1)])
    assert recent.find("a") == (Kind.VERDICT, "t", 1, 90, BYTES)


def test_a_record_from_before_the_start_is_not_held_unless_its_post_is() -> None:
    recent = Recent(1 << 20, found_result)
    recent.put([an_entry("a", 7)])
    recent.warmed()
    recent.put([an_entry("a", 9, partition=1), an_entry("b", 9, partition=1)])
    assert recent.find("a") == (Kind.VERDICT, "t", 1, 9, BYTES)
    assert recent.find("b") is None


def test_only_records_that_win_are_passed_on() -> None:
    recent = Recent(1 << 20, found_result)
    entries = [an_entry("a", 7), an_entry("a", 3, partition=1), an_entry("b", 3, partition=1)]
    assert recent.put(entries) == [entries[0], entries[2]]
    assert recent.put(entries[:1]) == entries[:1], "a record that is read again"


def test_the_oldest_entries_are_dropped_at_the_bound() -> None:
    recent = Recent(10 * (ENTRY_BYTES + len(BYTES) + 20), found_result)
    recent.put(an_entry(f"p{number}", number) for number in range(100))
    assert 5 < len(recent) <= 10
    assert recent.find("p99")
    assert recent.find("p0") is None
    recent.forget(99)
    assert len(recent) == 1
    recent.forget(1_000)
    assert (len(recent), recent._bytes) == (0, 0)
