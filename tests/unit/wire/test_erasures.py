"""A record without a value erases a post's verdict, and the erasure says which record asked for it."""

from __future__ import annotations

import pytest

from moderation import wire
from moderation.types import Source


@pytest.mark.parametrize(
    ("key", "value", "id"),
    [
        (b"42", None, "42"),
        (b"42", b"", None),
        (b"", None, None),
        (None, None, None),
        (b"\xff", None, None),
        (b"a\n", None, None),
    ],
)
def test_a_null_under_a_post_id_is_an_erasure(key: bytes | None, value: bytes | None, id: str | None) -> None:
    assert wire.erased_id(key, value) == id


def test_an_erasure_says_which_record_asked_for_it_and_when() -> None:
    request = Source("my.posts-1", 3, 12, 1_500)
    headers = wire.erasure_headers(wire.erasure("42", request, (), 2_000), request)
    assert wire.erased_source(headers) == ("my.posts-1", 3, 12)
    assert wire.erased_at(headers) == 1_500
    assert not wire.is_copy(headers)
    for value in (b"", b"posts/1", b"posts/x/1", b"a/b/1/2", b"p/1/" + b"9" * 30):
        assert wire.erased_source([(wire.ERASED_BY, value)]) is None
    assert wire.erased_source([]) is None
    for value in (b"", b"-1", b"1.5", b"9" * 16):
        assert wire.erased_at([(wire.ERASED_AT, value)]) is None


def test_a_copy_has_the_time_of_the_erasure_and_its_own_place() -> None:
    erasure = wire.erasure("42", Source("posts", 3, 12, 1_500), (), 2_000)
    place = Source("posts", 0, 99, 9_000)
    copy = wire.erasure("42", place, wire.copy_headers(erasure), 9_500)
    assert (copy.at_ms, copy.original, copy.copied) == (1_500, "posts/3/12", True)
    headers = wire.erasure_headers(copy, place)
    assert (wire.erased_source(headers), wire.erased_at(headers)) == (("posts", 0, 99), 1_500)
    assert wire.is_copy(headers)


def test_a_copy_from_the_future_erases_nothing_that_is_yet_to_come() -> None:
    headers = [(wire.COPY_OF, b"posts/3/12"), (wire.ERASED_AT, b"9" * 15)]
    assert wire.erasure("42", Source("posts", 0, 99, 9_000), headers, 9_500).at_ms == 9_000
    assert wire.erasure("42", Source("posts", 0, 99, 1 << 62), headers, 9_500).at_ms == 9_500


@pytest.mark.parametrize(
    "headers",
    [
        [(wire.COPY_OF, b"posts/3/12")],
        [(wire.ERASED_AT, b"1500")],
        [(wire.COPY_OF, b"posts"), (wire.ERASED_AT, b"1500")],
        [(wire.COPY_OF, None), (wire.ERASED_AT, None)],
    ],
)
def test_an_erasure_with_half_of_the_headers_is_no_copy(headers: list[tuple[str, bytes | None]]) -> None:
    erasure = wire.erasure("42", Source("posts", 0, 99, 9_000), headers, 9_500)
    assert (erasure.at_ms, erasure.original, erasure.copied) == (9_000, "posts/0/99", False)


@pytest.mark.parametrize(("timestamp_ms", "written_ms"), [(1_000, 1_000), (9_000, 2_000), (0, 2_000), (-1, 2_000)])
def test_a_clock_that_is_ahead_and_a_missing_timestamp_do_not_count(timestamp_ms: int, written_ms: int) -> None:
    assert wire.written_ms(timestamp_ms, 2_000) == written_ms
