"""Small values that would take much memory are refused before they are parsed; long texts are not."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from moderation import wire
from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Reason
from moderation.v1 import post_pb2, verdict_pb2
from moderation.wire import json_posts, prescan
from tests.support.builders import a_verdict

MIB = 1 << 20
PROTOBUF = [("content-type", b"application/x-protobuf")]
HEAD = post_pb2.Post(id="a").SerializeToString()
HOSTILE_JSON = {
    "numbers": b'{"id":"a","x":[' + b"0," * MIB + b"0]}",
    "strings": b'{"id":"a","x":[' + b'"",' * MIB + b'""]}',
    "objects": b'{"id":"a","images":[' + b"{}," * MIB + b"{}]}",
    "members": b"{" + b'"a":0,' * MIB + b'"id":"a"}',
    "depth": b"[" * 4 * MIB,
    "depth of objects": b'{"a":' * MIB,
    "a late beginning": b'{"id":"a","text":"' + b"x" * MIB + b'","x":[' + b"0," * MIB + b"0]}",
    "quotes in a string": b'{"id":"a","text":"' + rb"\"" * 5000 + b'","x":[' + b"0," * MIB + b"0]}",
    "a number": b'{"id":"a","x":' + b"1" * 4 * MIB + b"}",
    "a fraction": b'{"id":"a","x":0.' + b"1" * 4 * MIB + b"}",
}
HOSTILE_PROTOBUF = {
    "images": HEAD + b"\x1a\x00" * MIB,
    "unknown fields": HEAD + b"\xa0\x06\x01" * MIB,
    "unknown fields of an image": HEAD + b"\x1a\x80\x80\xc0\x01" + b"\xa0\x06\x01" * MIB,
    "one field repeated": HEAD + b"\x0a\x01a" * MIB,
    "groups": HEAD + b"\xa3\x06" * MIB,
    "a length behind the end": HEAD + b"\x1a\xff\xff\xff\xff\x0f" + b"x" * 100,
}


def refused(value: bytes, headers: wire.Headers) -> int:
    """Refuses a value; returns the bytes of memory that this took."""
    tracemalloc.start()
    with pytest.raises(PostError) as error:
        wire.post_record(value, headers, MediaSettings())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.reason is Reason.NOT_DECODABLE
    return peak


@pytest.mark.parametrize("value", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_json_of_very_many_elements_is_refused_before_it_is_parsed(value: bytes) -> None:
    assert refused(value, []) < 3 * len(value) + MIB  # escapes are taken out of a copy of it


@pytest.mark.parametrize("value", HOSTILE_PROTOBUF.values(), ids=HOSTILE_PROTOBUF)
def test_protobuf_of_very_many_fields_is_refused_before_it_is_parsed(value: bytes) -> None:
    assert refused(value, PROTOBUF) < 2 * MIB


@pytest.mark.parametrize(
    "text", [",:[{" * 20_000, '\\"' * 40_000, "\\" * 50_000 + ",", '","' * 30_000, "é\n\t" * 9_999]
)
def test_a_text_may_hold_any_characters(text: str) -> None:
    fields = {"id": "a", "text": text}
    for value in (json.dumps(fields), json.dumps(fields, ensure_ascii=False), json.dumps(fields, indent=4)):
        assert wire.post_record(value.encode(), [], MediaSettings()).text == text
    message = post_pb2.Post(id="a", text=text).SerializeToString()
    assert wire.post_record(message, PROTOBUF, MediaSettings()).text == text


def test_the_largest_post_is_far_within_the_bound() -> None:
    images = [{"data": "AAAA"}, {"uri": "file:///a"}] * 4
    post = {"id": "a", "text": "x", "tenant": "t", "language": "en", "surface": "s", "images": images}
    assert len(wire.post_record(json.dumps(post).encode(), [], MediaSettings()).images) == 8
    prescan.check_json(json.dumps(post).encode(), json_posts.MAX_ELEMENTS // 100)


def test_verdicts_of_a_thousand_policies_are_read() -> None:
    value, headers = wire.verdict_record(a_verdict("a"), "json")
    members = json.loads(value)
    finding = {"policyId": "p", "policyVersion": 1, "thresholds": {"review": 0.5, "remove": 0.9, "mass": 0.1}}
    members["findings"] = [finding] * 5000
    assert len(wire.read_verdict(json.dumps(members).encode(), headers).findings) == 5000
    message = wire.read_verdict(json.dumps(members).encode(), headers).SerializeToString()
    assert len(wire.read_verdict(message, PROTOBUF).findings) == 5000


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b'{"postId":"a","findings":[' + b"{}," * MIB + b"{}]}", []),
        (verdict_pb2.Verdict(post_id="a").SerializeToString() + b"\xa0\x3f\x01" * MIB, PROTOBUF),
    ],
)
def test_a_verdict_of_very_many_elements_is_refused(value: bytes, headers: wire.Headers) -> None:
    with pytest.raises(ValueError, match="not a moderation"):
        wire.read_verdict(value, headers)
