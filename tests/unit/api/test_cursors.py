"""Tokens that callers keep are checked like any input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.api import cursors
from moderation.v1.moderation_service_pb2 import Position

ID = "x-_9AAAAAAAAAAAAAAAAAg"


def test_a_produce_acknowledgement_makes_the_token_that_the_proto_describes() -> None:
    assert cursors.of_record(3, 17) == Position(posts={3: 17}).SerializeToString()
    assert cursors.position(cursors.of_watch({0: 5, 1: 0})).verdicts == {0: 5, 1: 0}


def test_a_token_names_the_life_of_its_topic() -> None:
    assert cursors.of_record(3, 17, ID) == Position(posts={3: 17}, posts_topic_id=ID).SerializeToString()
    assert cursors.position(cursors.of_watch({0: 5}, ID)).verdicts_topic_id == ID
    for plain in (ID.replace("-", "+").replace("_", "/"), ID.replace("-", "+").replace("_", "/") + "=="):
        assert cursors.position(cursors.of_record(3, 17, plain)).posts_topic_id == ID


def test_tokens_of_different_topics_cannot_be_merged() -> None:
    with_id, without, other = (cursors.of_record(0, 4, id) for id in (ID, "", "A" * 22))
    assert cursors.merged(with_id, without) == cursors.merged(without, with_id) == with_id
    with pytest.raises(ValueError, match="different topics"):
        cursors.merged(with_id, other)


def test_a_merged_token_reaches_as_far_as_the_farthest() -> None:
    whole = cursors.merged(
        cursors.of_record(0, 4), cursors.of_record(0, 2), cursors.of_record(7, 0), cursors.of_watch({1: 9})
    )
    assert cursors.position(whole) == Position(posts={0: 4, 7: 0}, verdicts={1: 9})


@given(st.binary(max_size=80))
def test_any_bytes_are_a_token_or_are_refused(token: bytes) -> None:
    try:
        position = cursors.position(token)
    except ValueError:
        return
    assert all(number >= 0 and offset >= 0 for number, offset in [*position.posts.items(), *position.verdicts.items()])


@pytest.mark.parametrize(
    "token",
    [
        b"\xff",
        Position(posts={-1: 3}).SerializeToString(),
        cursors.of_record(1, -5),
        cursors.of_record(1, 5, "A" * 21),
        b"\x00" * 70_000,
    ],
)
def test_invalid_tokens(token: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        cursors.position(token)


@given(st.integers(-(1 << 61), 1 << 61), st.text(min_size=1, max_size=40).filter(lambda id: id.isprintable()))
def test_a_page_token_continues_the_same_query_only(ms: int, post_id: str) -> None:
    token = cursors.of_page(b"query", (ms, post_id))
    assert cursors.page(b"query", token) == (ms, post_id)
    with pytest.raises(ValueError, match="another query"):
        cursors.page(b"another", token)


@pytest.mark.parametrize("token", ["x", "äöü", "W10", "bnVsbA", "eyJhIjoxfQ", "A" * 5_000])
def test_invalid_page_tokens(token: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        cursors.page(b"query", token)
