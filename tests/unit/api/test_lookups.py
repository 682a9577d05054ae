"""Which verdict answers a lookup with a consistency token, where the outcomes up to the token are not all known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moderation import wire
from moderation.api.errors import RefusalKind, RefusedError
from moderation.api.grpc.responses import result
from moderation.api.lookups import Lookups, _result
from moderation.api.validation import LookupQuery
from moderation.types import Source
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.outcomes import Reach
from moderation.view.stores import Kind, LookupRow
from tests.support.builders import a_verdict

A, B, C = (letter * 22 for letter in "ABC")
FOUND, PENDING, NOT_FOUND = pb.LOOKUP_STATE_FOUND, pb.LOOKUP_STATE_PENDING, pb.LOOKUP_STATE_NOT_FOUND


class BuiltAgain:
    """A view whose topic is made again while rows are read."""

    posts_id = B

    def __init__(self) -> None:
        self.caught_up = asyncio.Event()
        self.caught_up.set()

    async def find(self, _: object) -> dict[str, LookupRow]:
        self.caught_up.clear()
        return {}


class Nothing:
    """No post is pending."""

    def is_pending(self, *_: object) -> bool:
        return False


def a_row(offset: int, id: str) -> LookupRow:
    verdict = a_verdict(source=Source("posts", 0, offset, 0, id))
    return Kind.VERDICT, "", 0, offset, wire.verdict_message(verdict).SerializeToString()


@pytest.mark.parametrize(
    ("token", "row", "reach", "state"),
    [
        # The topic that exists is B.
        ((3, B), (3, B), Reach.AHEAD, FOUND),  # a part of a merged token, whose other parts are to come
        ((3, ""), (3, B), Reach.AHEAD, FOUND),
        ((3, B), (2, B), Reach.AHEAD, PENDING),
        ((3, B), (500, A), Reach.AHEAD, PENDING),
        ((3, ""), (500, A), Reach.AHEAD, PENDING),
        ((3, B), (500, ""), Reach.AHEAD, PENDING),  # of which life is not known
        ((3, C), (500, B), Reach.AHEAD, PENDING),  # brokers may not know that C has followed B
        ((3, B), (500, A), Reach.REACHED, FOUND),  # of another post: this one was not put on B
        ((500, A), (500, A), Reach.GONE, FOUND),
        ((500, A), (499, A), Reach.GONE, NOT_FOUND),
        ((500, A), (3, B), Reach.GONE, FOUND),  # which came later
        ((500, A), (501, C), Reach.GONE, NOT_FOUND),  # before or after: not known
        ((500, A), (501, ""), Reach.GONE, NOT_FOUND),
    ],
)
def test_offsets_are_compared_in_one_life_of_the_posts_topic(
    token: tuple[int, str], row: tuple[int, str], reach: Reach, state: int
) -> None:
    query = LookupQuery(("post-1",), None, "", {0: token[0]}, token[1])
    assert _result(query, a_row(*row), reach, reach is Reach.AHEAD, B)[0] == state


@pytest.mark.parametrize(("reach", "state"), [(Reach.AHEAD, PENDING), (Reach.GONE, NOT_FOUND)])
@pytest.mark.parametrize("kind", [Kind.UNREADABLE, Kind.ERASED, None])
def test_without_a_verdict_only_the_outcomes_tell(reach: Reach, state: int, kind: Kind | None) -> None:
    row = None if kind is None else (kind, "", -1, -1, None)
    query = LookupQuery(("post-1",), None, "", {0: 3}, B)
    assert _result(query, row, reach, reach is Reach.AHEAD, B)[0] == state


async def test_rows_of_a_view_that_is_built_again_are_no_answer() -> None:
    """The topic was deleted while they were being read."""
    query = LookupQuery(("post-1",), None)
    view: Any = BuiltAgain()
    pending: Any = Nothing()
    with pytest.raises(RefusedError) as caught:
        await Lookups(view, pending, result).get(query)
    assert (caught.value.kind, caught.value.reason) == (RefusalKind.UNAVAILABLE, "NOT_READY")
