"""Responses that are put together from stored bytes are equal to the messages."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.api.grpc import responses
from moderation.api.lookups import Page
from moderation.v1 import moderation_service_pb2 as pb
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
    assert pb.BatchGetVerdictsResponse.FromString(responses.batch(parts)) == pb.BatchGetVerdictsResponse(results=wanted)


def test_a_page_has_its_verdicts_and_its_token() -> None:
    written = responses.page(Page([BYTES, BYTES], "next"))
    assert pb.ListVerdictsResponse.FromString(written) == pb.ListVerdictsResponse(
        verdicts=[MESSAGE, MESSAGE],
        next_page_token="next",  # noqa: S106  no password
    )
