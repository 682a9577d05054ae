"""Any bytes become a Post or a PostError."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Image, Post, Reason
from moderation.v1 import post_pb2
from tests.support.wire_values import PROTOBUF, headers, json_values

MEDIA = MediaSettings(max_text_chars=100, max_images=2, max_bytes=64)
WRITTEN = "what-a-user-wrote"


def read(value: Any, headers: wire.Headers = ()) -> Post:
    encoded = value if isinstance(value, bytes) else json.dumps(value).encode()
    return wire.post_record(encoded, headers, MEDIA)


def refused(value: Any, headers: wire.Headers = ()) -> PostError:
    with pytest.raises(PostError) as caught:
        read(value, headers)
    assert WRITTEN not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # a traceback shows nothing either
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
    assert str(error) == "images[0].data is not base64"


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


members = ["id", "text", "images", "tenant", "language", "surface", "comment"]
images = st.lists(st.dictionaries(st.sampled_from(["data", "uri", "alt"]), json_values, max_size=2) | json_values)
near_posts = st.dictionaries(st.sampled_from(members), json_values | images)


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
