"""Answers put together from stored bytes are the messages that they stand for; memory says what the store does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.api.grpc import responses
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.recent import ENTRY_BYTES, Recent
from moderation.view.stores import Entry, Kind
from tests.support.builders import a_finding, a_verdict

MESSAGE = wire.verdict_message(a_verdict("a", findings=(a_finding(), a_finding("other"))))
BYTES = MESSAGE.SerializeToString()


def test_one() -> None:
    for kind in (pb.GetVerdictResponse, pb.WaitVerdictResponse):
        found: Any = kind.FromString(responses.one((pb.LOOKUP_STATE_FOUND, BYTES)))
        assert found == kind(state=pb.LOOKUP_STATE_FOUND, verdict=MESSAGE)
        missing: Any = kind.FromString(responses.one((pb.LOOKUP_STATE_NOT_FOUND, None)))
        assert missing == kind(state=pb.LOOKUP_STATE_NOT_FOUND)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=300), st.booleans()), max_size=5))
def test_many(asked: list[tuple[str, bool]]) -> None:
    parts = [
        responses.result(id, (pb.LOOKUP_STATE_FOUND, BYTES) if there else (pb.LOOKUP_STATE_PENDING, None))
        for id, there in asked
    ]
    wanted = [
        pb.LookupResult(post_id=id, state=pb.LOOKUP_STATE_FOUND, verdict=MESSAGE)
        if there
        else pb.LookupResult(post_id=id, state=pb.LOOKUP_STATE_PENDING)
        for id, there in asked
    ]
    assert pb.BatchGetVerdictsResponse.FromString(b"".join(parts)) == pb.BatchGetVerdictsResponse(results=wanted)


def test_a_page() -> None:
    written = responses.page([BYTES, BYTES], "next")
    assert pb.ListVerdictsResponse.FromString(written) == pb.ListVerdictsResponse(
        verdicts=[MESSAGE, MESSAGE],
        next_page_token="next",  # noqa: S106  no password
    )


def an_entry(post_id: str, offset: int, kind: int = Kind.VERDICT, partition: int = 0, tenant: str = "t") -> Entry:
    verdict = BYTES if kind == Kind.VERDICT else None
    return Entry(post_id, kind, partition, offset, offset, partition, offset, tenant, 1, "", 0, verdict)


def test_memory_says_what_was_folded_in_last() -> None:
    recent = Recent(1 << 20)
    recent.put([an_entry("a", 1), an_entry("a", 2, Kind.ERASED), an_entry("b", 3)])
    assert recent.find("a") == (Kind.ERASED, "t", 0, 2, None)
    assert recent.find("b") == (Kind.VERDICT, "t", 0, 3, BYTES)
    assert recent.find("c") is None
    result = responses.result("b", (pb.LOOKUP_STATE_FOUND, BYTES))
    assert recent.answers(["a", "b", "c"], None) == [None, result, None]
    assert recent.answers(["b"], "t") == [result]
    assert recent.answers(["b"], "another") == [None]


def test_memory_takes_an_older_record_of_another_partition_for_older() -> None:
    recent = Recent(1 << 20)
    recent.put([an_entry("a", 7), an_entry("a", 3, partition=1)])
    assert recent.find("a") == (Kind.VERDICT, "t", 0, 7, BYTES)
    recent.put([an_entry("a", 9, partition=1)])
    assert recent.find("a") == (Kind.VERDICT, "t", 1, 9, BYTES)


def test_memory_is_bounded_and_forgets_what_came_first() -> None:
    recent = Recent(10 * (ENTRY_BYTES + len(BYTES) + 20))
    recent.put(an_entry(f"p{number}", number) for number in range(100))
    assert 5 < len(recent) <= 10
    assert recent.find("p99")
    assert recent.find("p0") is None
    recent.forget(99)
    assert len(recent) == 1
    recent.forget(1_000)
    assert (len(recent), recent._bytes) == (0, 0)
