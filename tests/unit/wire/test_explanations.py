"""What is wrong with a record can be said without its content."""

from __future__ import annotations

import json

import pytest

from moderation import wire
from moderation.settings import KafkaSettings, Settings
from moderation.types import Detail, Post, Problem, Reason, Source
from moderation.v1 import post_pb2
from moderation.wire.advice import advice
from moderation.wire.explanations import explain

SETTINGS = Settings(kafka=KafkaSettings(max_message_bytes=1024))
SOURCE = Source("posts", 2, 7, 1234)


def test_a_sound_record_is_a_post() -> None:
    value = json.dumps({"id": "1", "tenant": "shop", "text": "x"}).encode()
    explanation = explain(b"1", value, (), SETTINGS)
    assert (explanation.format, explanation.bytes) == ("no content-type, so JSON", len(value))
    assert explanation.known == Post("1", tenant="shop")
    assert explanation.post == Post("1", "x", tenant="shop")
    assert explanation.refused is None


@pytest.mark.parametrize(
    ("value", "headers", "reason", "detail"),
    [
        (b'{"id": "1", "x": 1}', (), Reason.NOT_DECODABLE, "unknown field"),
        (post_pb2.Post(id="1").SerializeToString(), (), Reason.NOT_DECODABLE, str(Detail.NO_CONTENT_TYPE)),
        (b'{"id": "1"}', [("content-type", b"x")], Reason.UNKNOWN_CONTENT_TYPE, "content-type: another format"),
        (b'\0\0\0\0\1{"id": "1"}', (), Reason.NOT_DECODABLE, "schema registry prefix"),
        (json.dumps({"id": "1", "text": "x" * 1024}).encode(), (), Reason.RECORD_TOO_LARGE, ""),
        (None, (), Reason.NULL_VALUE, ""),
    ],
)
def test_a_refused_record_has_its_reason_and_its_detail(
    value: bytes | None, headers: wire.Headers, reason: Reason, detail: str
) -> None:
    explanation = explain(None, value, headers, SETTINGS)
    assert explanation.refused is not None
    assert (explanation.refused.reason, str(explanation.refused)) == (reason, detail)
    assert explanation.known.id == ("1" if value else "")
    assert explanation.post is None


def test_a_null_under_an_id_is_an_erasure() -> None:
    explanation = explain(b"post-1", None, (), SETTINGS)
    assert (explanation.erases, explanation.refused) == ("post-1", None)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Reason.NOT_DECODABLE, "images[0].data", Detail.BASE64),
        Problem(Reason.IMAGE_CORRUPT, "images[3]"),
        Problem(Reason.NOT_DECODABLE, detail=Detail.NO_CONTENT_TYPE),
    ],
)
def test_a_dead_letter_says_where_it_came_from_and_why(problem: Problem) -> None:
    headers = wire.dead_letter_headers(SOURCE, (), problem, "moderation")
    letter = explain(b"1", b"{", headers, SETTINGS).letter
    assert [letter[f"original.{part}"] for part in ("topic", "partition", "offset")] == ["posts", "2", "7"]
    assert (letter["error.code"], letter["error.detail"]) == (problem.reason, str(problem))


def test_headers_that_no_worker_writes_are_not_repeated() -> None:
    headers = [("dlq.error.code", b"what a user wrote"), ("dlq.error.detail", b"x y"), ("dlq.original.topic", b"a b")]
    assert explain(b"1", b"{", [*headers, ("dlq.note", b"x")], SETTINGS).letter == {}


@pytest.mark.parametrize("mark", ["truncated", "omitted"])
def test_a_part_of_a_value_is_not_taken_for_the_value(mark: str) -> None:
    explanation = explain(b"1", b'{"id": "1", "te', [(f"dlq.value.{mark}", b"true")], SETTINGS)
    assert not explanation.whole
    assert (explanation.refused, explanation.post) == (None, None)


@pytest.mark.parametrize("problem", [*map(Problem, Reason), *(Problem(Reason.NOT_DECODABLE, "", d) for d in Detail)])
def test_each_problem_has_a_meaning_and_a_remedy(problem: Problem) -> None:
    assert all(text.endswith(".") for text in advice(problem))
