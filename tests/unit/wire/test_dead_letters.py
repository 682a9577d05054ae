"""A dead letter says where its record came from and why it could not be judged."""

from __future__ import annotations

import moderation
from moderation import wire
from moderation.types import Reason, Source


def test_dead_letter_headers() -> None:
    original = [("traceparent", b"t"), ("x", None), ("x", b"2"), ("dlq.error.code", b"of an earlier round")]
    headers = wire.dead_letter_headers(Source("posts", 2, 7, 1234), original, Reason.NOT_DECODABLE, "moderation")
    assert headers == [
        ("traceparent", b"t"),
        ("x", None),
        ("x", b"2"),
        ("dlq.original.topic", b"posts"),
        ("dlq.original.partition", b"2"),
        ("dlq.original.offset", b"7"),
        ("dlq.original.timestamp", b"1234"),
        ("dlq.consumer.group", b"moderation"),
        ("dlq.error.code", b"NOT_DECODABLE"),
        ("dlq.service.version", moderation.__version__.encode()),
    ]
