"""Which strings can be post ids, and the id of a post that cannot be read."""

from __future__ import annotations

import pytest

from moderation import wire
from moderation.types import Source


@pytest.mark.parametrize(
    ("key", "id"),
    [
        (b"post-9", "post-9"),
        ("é".encode(), "é"),
        (None, "kafka:posts/3/42"),
        (b"", "kafka:posts/3/42"),
        (b"\xff", "kafka:posts/3/42"),
        (b"a\x00", "kafka:posts/3/42"),
        (b"a" * 513, "kafka:posts/3/42"),
    ],
)
def test_id_of_an_unreadable_post(key: bytes | None, id: str) -> None:
    assert wire.post_id_for(key, Source("posts", 3, 42, 0)) == id
