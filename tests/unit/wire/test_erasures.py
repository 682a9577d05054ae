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


def test_an_erasure_says_which_record_asked_for_it() -> None:
    headers = wire.erasure_headers(Source("my.posts-1", 3, 12, 0))
    assert wire.erased_source(headers) == ("my.posts-1", 3, 12)
    for value in (b"", b"posts/1", b"posts/x/1", b"a/b/1/2", b"p/1/" + b"9" * 30):
        assert wire.erased_source([(wire.ERASED_BY, value)]) is None
    assert wire.erased_source([]) is None
