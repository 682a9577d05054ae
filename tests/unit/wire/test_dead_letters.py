"""A dead letter says where its record came from and why it could not be judged."""

from __future__ import annotations

import moderation
from moderation import wire
from moderation.types import Detail, Problem, Reason, Source


def test_dead_letter_headers() -> None:
    original = [("traceparent", b"t"), ("x", None), ("x", b"2"), ("dlq.error.code", b"of an earlier round")]
    headers = wire.dead_letter_headers(
        Source("posts", 2, 7, 1234), original, Problem(Reason.NOT_DECODABLE), "moderation"
    )
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


def test_the_detail_has_a_header_where_there_is_one() -> None:
    problem = Problem(Reason.NOT_DECODABLE, "images[0].data", Detail.BASE64)
    headers = dict(wire.dead_letter_headers(Source("posts", 2, 7, 1234), (), problem, "moderation"))
    assert headers["dlq.error.code"] == b"NOT_DECODABLE"
    assert headers["dlq.error.detail"] == b"images[0].data: base64"


def test_the_id_and_the_tenant_of_the_verdict_can_be_read_back() -> None:
    headers = wire.dead_letter_headers(
        Source("posts", 2, 7, 1234), (), Problem(Reason.UNAVAILABLE), "moderation", post_id="pöst 1", tenant="shop"
    )
    marks = wire.dead_letter_marks(headers)
    assert (marks["post.id"], marks["post.tenant"], marks["original.offset"]) == ("pöst 1", "shop", "7")


def test_what_no_worker_writes_is_not_read() -> None:
    foreign = [
        ("dlq.post.id", b"a\nb"),
        ("dlq.post.tenant", b"\xff"),
        ("dlq.error.code", b"ANYTHING"),
        ("dlq.original.offset", b"-1"),
        ("dlq.value.sha256", b"what a user wrote"),
        ("dlq.anything", b"1"),
        ("post.id", b"1"),
    ]
    assert wire.dead_letter_marks(foreign) == {}


def test_a_replay_has_the_headers_of_the_record_and_names_its_dead_letter() -> None:
    own = [("content-type", b"application/x-protobuf"), ("x", None), ("x", b"2")]
    problem = Problem(Reason.UNAVAILABLE)
    letter = wire.dead_letter_headers(Source("posts", 2, 7, 1234), own, problem, "moderation", post_id="1")
    replayed = wire.replay_headers(letter, "posts.moderation.dlq/2/40")
    assert replayed == [*own, (wire.REPLAY_OF, b"posts.moderation.dlq/2/40")]
    assert wire.replay_of(replayed) == "posts.moderation.dlq/2/40"
    again = wire.dead_letter_headers(Source("posts", 2, 9, 1234), replayed, problem, "moderation")
    assert wire.replay_headers(again, "posts.moderation.dlq/2/41") == [
        *own,
        (wire.REPLAY_OF, b"posts.moderation.dlq/2/41"),
    ]
