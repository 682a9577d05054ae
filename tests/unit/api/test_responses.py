"""Responses that are put together from stored bytes are equal to the messages."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from moderation import wire
from moderation.api.grpc import responses
from moderation.api.lookups import Page
from moderation.api.validation import MAX_BATCH, MAX_RESPONSE_BYTES
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import verdict_pb2
from moderation.view.stores import LARGEST_VERDICT
from tests.support.builders import a_finding, a_verdict

MESSAGE = wire.verdict_message(a_verdict("a", findings=(a_finding(), a_finding("other"))))
BYTES = MESSAGE.SerializeToString()


def test_the_response_to_a_lookup() -> None:
    for kind in (pb.GetVerdictResponse, pb.WaitVerdictResponse):
        response: Any = kind.FromString(responses.lookup((pb.LOOKUP_STATE_FOUND, BYTES)))
        assert response == kind(state=pb.LOOKUP_STATE_FOUND, verdict=MESSAGE)
        missing: Any = kind.FromString(responses.lookup((pb.LOOKUP_STATE_NOT_FOUND, None)))
        assert missing == kind(state=pb.LOOKUP_STATE_NOT_FOUND)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=300), st.booleans()), max_size=5))
def test_the_response_to_a_batch(asked: list[tuple[str, bool]]) -> None:
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
    written = responses.batch([id for id, _ in asked], parts)
    assert pb.BatchGetVerdictsResponse.FromString(written) == pb.BatchGetVerdictsResponse(results=wanted)


@settings(max_examples=20)  # of up to 20 MiB each
@given(st.lists(st.integers(0, LARGEST_VERDICT), min_size=1, max_size=20), st.integers(0, MAX_BATCH))
def test_a_batch_is_answered_in_order_as_far_as_there_is_room(sizes: list[int], small: int) -> None:
    """With the longest ids, and any sizes of verdicts."""
    sizes = (sizes + [0] * small)[:MAX_BATCH]
    ids = [f"{number:0512}" for number in range(len(sizes))]
    # A verdict need not be valid: only its length counts.
    verdicts = [verdict_pb2.Verdict(post_id="x" * size).SerializeToString() for size in sizes]
    parts = [responses.found_result(id, verdict) for id, verdict in zip(ids, verdicts, strict=True)]
    written = responses.batch(ids, parts)
    assert len(written) <= MAX_RESPONSE_BYTES
    results = pb.BatchGetVerdictsResponse.FromString(written).results
    assert [result.post_id for result in results] == ids
    states = [result.state for result in results]
    found = states.count(pb.LOOKUP_STATE_FOUND)
    assert found
    assert states == [pb.LOOKUP_STATE_FOUND] * found + [pb.LOOKUP_STATE_DEFERRED] * (len(ids) - found)
    assert found == len(ids) or len(written) + len(parts[found]) > MAX_RESPONSE_BYTES


def test_a_page_has_its_verdicts_and_its_token() -> None:
    written = responses.page(Page([BYTES, BYTES], "next"))
    assert pb.ListVerdictsResponse.FromString(written) == pb.ListVerdictsResponse(
        verdicts=[MESSAGE, MESSAGE],
        next_page_token="next",  # noqa: S106  no password
    )
