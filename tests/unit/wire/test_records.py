"""Whatever bytes come in, a Post or a PostError comes out; what goes out comes back the same."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

import moderation
from moderation import wire
from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import (
    Finding,
    Image,
    ModelInfo,
    Origin,
    Outcome,
    Post,
    Reason,
    Score,
    Severity,
    Source,
    Status,
    Thresholds,
    Timings,
    Verdict,
)
from moderation.v1 import post_pb2, verdict_pb2
from tests.support.builders import FOREIGN_FIELDS, a_finding, a_verdict

MEDIA = MediaSettings(max_text_chars=100, max_images=2, max_bytes=64)
PROTOBUF = [("content-type", b"application/x-protobuf")]
WRITTEN = "what-a-user-wrote"


def read(value: Any, headers: wire.Headers = ()) -> Post:
    encoded = value if isinstance(value, bytes) else json.dumps(value).encode()
    return wire.post_record(encoded, headers, MEDIA)


def refused(value: Any, headers: wire.Headers = ()) -> PostError:
    with pytest.raises(PostError) as caught:
        read(value, headers)
    assert WRITTEN not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # a traceback tells nothing either
    return caught.value


FULL = Post(
    "post-1", "héllo 🌊", (Image(data=b"\xfb\xff\x00"), Image(uri="file:///img/1.png")), "acme", "fr-CA", "comment"
)
FULL_JSON = {
    "id": "post-1",
    "text": "héllo 🌊",
    "images": [{"data": base64.b64encode(b"\xfb\xff\x00").decode()}, {"uri": "file:///img/1.png"}],
    "tenant": "acme",
    "language": "fr-CA",
    "surface": "comment",
}


@pytest.mark.parametrize(
    "content_type", [None, b"application/json", b"Application/JSON; charset=UTF-8", b'application/json;charset="utf-8"']
)
def test_json_post(content_type: bytes | None) -> None:
    assert read(FULL_JSON, [("content-type", content_type)] if content_type else []) == FULL


@pytest.mark.parametrize("content_type", [b"application/x-protobuf", b"application/protobuf"])
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_protobuf_post(content_type: bytes, name: str) -> None:
    message = json_format.ParseDict(FULL_JSON, post_pb2.Post())
    assert read(message.SerializeToString(), [(name, content_type)]) == FULL


@pytest.mark.parametrize("data", ["+/8A", "-_8A", "+/8AAA==", "+/8AAA", "-_8AAA"])
def test_both_alphabets_padded_or_not(data: str) -> None:
    assert read({"id": "1", "images": [{"data": data}]}).images[0].data is not None


def test_null_members_are_as_if_absent() -> None:
    post = read({"id": "1", "text": None, "images": [{"data": None, "uri": "file:///a"}], "tenant": None})
    assert post == Post("1", images=(Image(uri="file:///a"),))


@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", b"text/plain")],
        [("content-type", b"")],
        [("content-type", None)],
        [("content-type", b"application/json; charset=latin-1")],
        [("content-type", b"application/x-protobuf; messageType=x")],
        [("content-type", b"\xff\xfe")],
        [("content-type", b"application/json"), ("content-type", b"application/x-protobuf")],
    ],
)
def test_other_content_types(headers: wire.Headers) -> None:
    assert refused(FULL_JSON, headers).reason == Reason.UNKNOWN_CONTENT_TYPE


def test_null_value() -> None:
    with pytest.raises(PostError) as caught:
        wire.post_record(None, [], MEDIA)
    assert caught.value.reason == Reason.NULL_VALUE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b'""',
        b"null",
        b"7",
        b'{"id": "1", "text": NaN}',
        b'\xef\xbb\xbf{"id": "1"}',
        '{"id": "1"}'.encode("utf-16"),
        b'{"id": "1", "text": "\xff"}',
        b'{"id": "1", "text": "\\ud800"}',
        b'{"id": "\\udfff"}',
        b'{"id": "1", "id": "2"}',
        b'{"id": "1", "images": [{"uri": "file:///a", "uri": "file:///b"}]}',
        b'{"id": "1", "text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "1", "text": ' + b"9" * 10_000 + b"}",
        {"id": 1},
        {"id": ["1"]},
        {"id": "1", "text": 5},
        {"id": "1", "images": {}},
        {"id": "1", "images": "x"},
        {"id": "1", "images": [None]},
        {"id": "1", "images": [[]]},
        {"id": "1", "images": ["what-a-user-wrote"]},
        {"id": "1", "images": [{"data": 5}]},
        {"id": "1", "images": [{"data": "AAAA", "uri": "file:///a"}]},
        {"id": "1", "comment": "what-a-user-wrote"},
        {"id": "1", "what-a-user-wrote": 1},
        {"id": "1", "images": [{"uri": "file:///a", "alt": "what-a-user-wrote"}]},
        {"id": "1", "[moderation.v1.x]": 1},
    ],
)
def test_not_a_post(value: Any) -> None:
    assert refused(value).reason == Reason.NOT_DECODABLE


@pytest.mark.parametrize("data", ["A", "AAAA=", "A===", "AA AA", "AAAA\n", "AA=A", "AÄ==", "+_8A", "AAA!", "="])
def test_not_base64(data: str) -> None:
    error = refused({"id": "1", "images": [{"data": data}]})
    assert (error.reason, error.post_id) == (Reason.NOT_DECODABLE, "1")


@pytest.mark.parametrize(
    "value",
    [
        b"\x0a\xff",
        b"\x0a\x02\xff\xfe",  # id: bad UTF-8
        post_pb2.Post(id="1").SerializeToString() + b"\x07",
    ],
)
def test_broken_protobuf(value: bytes) -> None:
    assert refused(value, PROTOBUF).reason == Reason.NOT_DECODABLE


@pytest.mark.parametrize(
    "value",
    [
        post_pb2.Post(id="1").SerializeToString() + b"\xa2\x06\x01x",  # field 100 of the post
        post_pb2.Post(id="1").SerializeToString() + b"\x1a\x07\x12\x01a\xa2\x06\x01x",  # field 100 of an image
    ],
)
def test_unknown_protobuf_field(value: bytes) -> None:
    error = refused(value, PROTOBUF)
    assert (error.reason, error.post_id) == (Reason.INVALID_POST, "1")


@pytest.mark.parametrize(
    ("fields", "reason", "named"),
    [
        ({"id": ""}, Reason.INVALID_POST, "id "),
        ({"id": None}, Reason.INVALID_POST, "id "),
        ({"id": "é" * 257}, Reason.INVALID_POST, "id "),
        ({"id": "a\nb"}, Reason.INVALID_POST, "id "),
        ({"id": "a\x85b"}, Reason.INVALID_POST, "id "),
        ({"tenant": "t" * 129}, Reason.INVALID_POST, "tenant"),
        ({"language": "e\x00n"}, Reason.INVALID_POST, "language"),
        ({"surface": "s" * 129}, Reason.INVALID_POST, "surface"),
        ({"text": "x" * 101}, Reason.TEXT_TOO_LONG, "text"),
        ({"images": [{"uri": "file:///a"}] * 3}, Reason.INVALID_POST, "images"),
        ({"images": [{"uri": "file:///a"}, {}]}, Reason.INVALID_POST, "images[1]"),
        ({"images": [{"uri": ""}]}, Reason.INVALID_POST, "images[0]"),
        ({"images": [{"data": ""}]}, Reason.INVALID_POST, "images[0]"),
        ({"images": [{"uri": "file:///" + "a" * 4096}]}, Reason.INVALID_POST, "images[0].uri"),
        ({"images": [{"uri": "file:///\x1b"}]}, Reason.INVALID_POST, "images[0].uri"),
        ({"images": [{"data": "A" * 88}]}, Reason.IMAGE_TOO_LARGE, "images[0].data"),
    ],
)
def test_field_rules(fields: dict[str, Any], reason: Reason, named: str) -> None:
    error = refused({"id": "post-1"} | fields)
    assert error.reason == reason
    assert str(error).startswith(named)
    assert error.post_id == ("" if "id" in fields else "post-1")


@pytest.mark.parametrize("id", ["é" * 256, " ", "a b", "../x", "kafka:posts/0/1"])
def test_ids_that_are_allowed(id: str) -> None:
    assert read({"id": id, "text": "x" * 100}).id == id


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
members = ["id", "text", "images", "tenant", "language", "surface", "comment"]
images = st.lists(st.dictionaries(st.sampled_from(["data", "uri", "alt"]), json_values, max_size=2) | json_values)
near_posts = st.dictionaries(st.sampled_from(members), json_values | images)
headers = st.sampled_from([[], PROTOBUF, [("content-type", b"application/json")]]) | st.lists(
    st.tuples(st.sampled_from(["content-type", "x"]), st.none() | st.binary(max_size=20)), max_size=2
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), headers)
def test_any_bytes_are_a_post_or_a_post_error(value: bytes, headers: wire.Headers) -> None:
    _is_a_post_or_a_post_error(value, headers)


@given(near_posts)
def test_near_posts_are_a_post_or_a_post_error(value: dict[str, Any]) -> None:
    _is_a_post_or_a_post_error(json.dumps(value).encode(), [])


@given(st.data())
def test_damaged_protobuf_is_a_post_or_a_post_error(data: st.DataObject) -> None:
    value = bytearray(json_format.ParseDict(FULL_JSON, post_pb2.Post()).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    _is_a_post_or_a_post_error(bytes(value), PROTOBUF)


def _is_a_post_or_a_post_error(value: bytes, headers: wire.Headers) -> None:
    try:
        post = wire.post_record(value, headers, MEDIA)
    except PostError as error:
        assert not error.post_id or not wire.id_problem(error.post_id)
    else:
        assert not wire.id_problem(post.id)
        assert all((image.data is None) != (image.uri is None) for image in post.images)


# Verdicts

words = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50)
numbers = st.floats(allow_nan=False)
labels = words.filter(lambda word: not wire.label_problem(word))
counts = st.integers(0, 2**31 - 1)
times = st.integers(-62_135_596_800_000, 253_402_300_799_999)
reasons = st.none() | st.sampled_from(Reason)
thresholds = st.builds(Thresholds, numbers, numbers, numbers)
findings = st.builds(
    Finding,
    policy_id=words,
    policy_version=counts,
    outcome=st.sampled_from(Outcome),
    severity=st.sampled_from(Severity),
    thresholds=thresholds,
    score=st.none() | st.builds(Score, numbers, numbers, numbers),
    windows=counts,
    counts=st.booleans(),
    reason=reasons,
)
verdicts = st.builds(
    Verdict,
    post_id=ids,
    tenant=labels,
    content_digest=words,
    policy_set_digest=words,
    model=st.builds(ModelInfo, words, words, words),
    outcome=st.sampled_from(Outcome),
    status=st.sampled_from(Status),
    origin=st.sampled_from(Origin),
    deciding_policy=labels,
    severity=st.sampled_from(Severity),
    findings=st.lists(findings, max_size=3).map(tuple),
    decided_at_ms=times,
    reason=reasons,
    source=st.none() | st.builds(Source, words, counts, st.integers(0, 2**63 - 1), times),
    timings=st.builds(Timings, *[numbers] * 6),
)
formats = st.sampled_from(["json", "protobuf"])


@given(verdicts, formats)
def test_a_verdict_comes_back_as_it_went(verdict: Verdict, format: wire.Format) -> None:
    value, headers = wire.verdict_record(verdict, format)
    message = wire.read_verdict(value, headers)
    assert message == wire.verdict(verdict)
    assert wire.verdict_type(message) == verdict


@given(verdicts | verdicts.map(lambda verdict: replace(verdict, timings=Timings(queue=float("nan")))))
def test_a_verdict_is_written_as_the_json_of_its_message(verdict: Verdict) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    value, _ = wire.verdict_record(verdict, "json", [("traceparent", f"00-{trace}-00f067aa0ba902b7-01".encode())])
    message = wire.verdict(verdict, trace)
    expected = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    assert json.loads(value) == expected


@given(st.integers(-(2**63), 2**63 - 1), formats)
def test_any_timestamp_of_a_producer_can_be_written(timestamp_ms: int, format: wire.Format) -> None:
    verdict = a_verdict(source=Source("posts", 0, 0, timestamp_ms))
    wire.read_verdict(*wire.verdict_record(verdict, format))


def test_verdict_tells_what_only_the_message_has() -> None:
    message = wire.verdict(a_verdict())
    assert (message.origin, message.engine_version) == (verdict_pb2.ORIGIN_MODEL, moderation.__version__)


def test_the_trace_goes_on() -> None:
    trace = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"
    post = [("traceparent", trace), ("tracestate", b"a=b"), ("cookie", b"x")]
    value, headers = wire.verdict_record(a_verdict(), "json", post)
    assert headers == [("content-type", b"application/json"), ("traceparent", trace), ("tracestate", b"a=b")]
    assert wire.read_verdict(value, headers).trace_id == "ab" * 16


def test_only_a_verdict_that_stands_says_which_identity_it_answers() -> None:
    standing = a_verdict(findings=(a_finding(),))
    _, headers = wire.verdict_record(standing, "json")
    assert dict(headers)["verdict-identity"] == standing.identity.digest.encode()
    for other in (replace(standing, findings=()), replace(standing, reason=Reason.IMAGE_UNAVAILABLE)):
        assert [name for name, _ in wire.verdict_record(other, "json")[1]] == ["content-type"]


@pytest.mark.parametrize("trace", [b"", b"00-zz", None, b"\xff"])
def test_a_broken_trace_is_no_trace(trace: bytes | None) -> None:
    value, headers = wire.verdict_record(a_verdict(), "json", [("traceparent", trace)])
    assert wire.read_verdict(value, headers).trace_id == ""


def test_fields_of_a_newer_version_are_no_error() -> None:
    value, headers = wire.verdict_record(a_verdict(), "json")
    newer = json.loads(value) | {"rationale": "..."}
    assert wire.read_verdict(json.dumps(newer).encode(), headers).post_id == "post-1"
    value, headers = wire.verdict_record(a_verdict(), "protobuf")
    assert wire.read_verdict(value + b"\xa2\x06\x01x", headers).post_id == "post-1"


def _json(**fields: Any) -> bytes:
    return json.dumps({"postId": "1", "outcome": "OUTCOME_ALLOW", "status": "STATUS_FINAL"} | fields).encode()


def _protobuf(**fields: Any) -> bytes:
    return verdict_pb2.Verdict(post_id="1", outcome=1, status=1, **fields).SerializeToString()  # type: ignore[arg-type]


def test_the_least_that_a_verdict_has() -> None:
    written: dict[wire.Format, bytes] = {"json": _json(), "protobuf": _protobuf()}
    for format, value in written.items():
        assert wire.read_verdict(value, [("content-type", wire.CONTENT_TYPES[format])]).post_id == "1"


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b"", b"application/json"),
        (b"\xff", b"application/json"),
        (b"[" * 100_000, b"application/json"),
        (b"[1]", b"application/json"),
        (_json(outcome="OUTCOME_SHRUG"), b"application/json"),
        (_json(outcome=0), b"application/json"),
        (_json(status=9), b"application/json"),
        (_json(postId=""), b"application/json"),
        (_json(), b"text/plain"),
        (b"\x0a\xff", b"application/x-protobuf"),
        (verdict_pb2.Verdict(post_id="1").SerializeToString(), b"application/x-protobuf"),
        *((_protobuf(**fields), b"application/x-protobuf") for fields in FOREIGN_FIELDS),
    ],
)
def test_unreadable_verdicts(value: bytes, content_type: bytes) -> None:
    with pytest.raises(ValueError, match="not a moderation"):
        wire.read_verdict(value, [("content-type", content_type)])


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), headers)
def test_any_bytes_are_a_verdict_or_a_value_error(value: bytes, headers: wire.Headers) -> None:
    try:
        wire.read_verdict(value, headers)
    except ValueError as error:
        assert str(error).startswith("not a moderation")


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
