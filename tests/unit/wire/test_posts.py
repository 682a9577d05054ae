"""Any bytes become a Post or a PostError."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Post, Problem, Reason
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
KNOWN = replace(FULL, text="", images=())
PATH = re.compile(r"(id|text|tenant|language|surface|content-type|images(\[\d+\](\.(data|uri|alt))?)?)?")
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


def test_null_members_are_as_if_absent() -> None:
    post = read({"id": "1", "text": None, "images": [{"data": None, "uri": "file:///a"}], "tenant": None})
    assert post == Post("1", images=(Image(uri="file:///a"),))


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([("content-type", b"text/plain")], Detail.OTHER_FORMAT),
        ([("content-type", b"")], Detail.OTHER_FORMAT),
        ([("content-type", None)], Detail.OTHER_FORMAT),
        ([("content-type", b"application/json; charset=latin-1")], Detail.CHARSET),
        ([("content-type", b"application/x-protobuf; messageType=x")], Detail.OTHER_FORMAT),
        ([("content-type", b"\xff\xfe")], Detail.OTHER_FORMAT),
        ([("content-type", b"application/json"), ("content-type", b"application/x-protobuf")], Detail.GIVEN_TWICE),
    ],
)
def test_other_content_types(headers: wire.Headers, detail: Detail) -> None:
    error = refused(FULL_JSON, headers)
    assert error.problem == Problem(Reason.UNKNOWN_CONTENT_TYPE, "content-type", detail)
    assert error.known == KNOWN


def test_null_value() -> None:
    with pytest.raises(PostError) as caught:
        wire.post_record(None, [], MEDIA)
    assert caught.value.reason == Reason.NULL_VALUE


DEEP = b'{"id": "1", "text": ' + b"[" * 2_000 + b"]" * 2_000 + b"}"
FULL_PROTOBUF = json_format.ParseDict(FULL_JSON, post_pb2.Post()).SerializeToString()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not JSON"),
        (b'{"id": "1", "text": NaN}', "not JSON"),
        (b"{'id': '1'}", "not JSON"),
        (b"\x1f\x8b\x08", "not UTF-8"),
        ('{"id": "1"}'.encode("utf-16"), "not UTF-8"),
        (b'{"id": "1", "text": "\xff"}', "text: not UTF-8"),
        (b'{"id": "1", "text": "\xed\xa0\xbd"}', "text: not UTF-8"),
        (b"[]", "not an object"),
        (b'""', "not an object"),
        (b"null", "not an object"),
        (b"7", "not an object"),
        (DEEP, "nested too deep"),
        (b'{"id": "1", "text": [' + b"0," * 20_000 + b"0]}", "too many"),
        (b'{"id": "1", "text": ' + b"9" * 10_000 + b"}", "number too long"),
        (FULL_PROTOBUF, "Protobuf without a content-type header"),
        (b"\0\0\0\0\7" + json.dumps(FULL_JSON).encode(), "schema registry prefix"),
        (json.dumps(FULL_JSON).encode("utf-16-be"), "not JSON"),
        (b'{"id": "1", "text": "a", "text": "b"}', "given twice"),
        (b'{"id": "1", "images": [{"uri": "file:///a", "uri": "file:///b"}]}', "images[0]: given twice"),
        ({"id": 1}, "id: not a string"),
        ({"id": ["1"]}, "id: not a string"),
        ({"id": "1", "text": 5}, "text: not a string"),
        ({"id": "1", "text": False}, "text: not a string"),
        ({"id": "1", "images": {}}, "images: not an array"),
        ({"id": "1", "images": "x"}, "images: not an array"),
        ({"id": "1", "images": [[]]}, "images[0]: not an object"),
        ({"id": "1", "images": [{}, "what-a-user-wrote"]}, "images[1]: not an object"),
        ({"id": "1", "images": [{"data": 5}]}, "images[0].data: not a string"),
        ({"id": "1", "images": [{"uri": "file:///a"}] * 2 + [{"alt": []}]}, "images[2].alt: not a string"),
        ({"id": "1", "comment": "what-a-user-wrote"}, "unknown field"),
        ({"id": "1", "what-a-user-wrote": 1}, "unknown field"),
        ({"id": "1", "images": [{"uri": "file:///a", "caption": "what-a-user-wrote"}]}, "images[0]: unknown field"),
        ({"id": "1", "[moderation.v1.x]": 1}, "unknown field"),
    ],
)
def test_not_a_post(value: Any, problem: str) -> None:
    error = refused(value)
    assert error.reason == Reason.NOT_DECODABLE
    assert str(error.problem) == problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"\x0a\xff", "not Protobuf"),
        (post_pb2.Post(id="1").SerializeToString() + b"\x07", "not Protobuf"),
        (b"\0", "not Protobuf"),
        (b"\x0a\x011\x00\x01", "not Protobuf"),  # a field of number 0
        (b"\x0a\x011\x1a\x02\x00\x01", "not Protobuf"),  # the same in an image
        (b"\x0a\x02\xff\xfe", "id: not UTF-8"),
        (FULL_PROTOBUF + b"\x1a\x03\x1a\x01\xff", "images[2].alt: not UTF-8"),
        (b"\x0a\x011" + b"\x1a\0" * 20_000, "too many"),
        (json.dumps(FULL_JSON).encode(), "JSON with the content type of Protobuf"),
        (b"\0\0\0\0\7\0" + FULL_PROTOBUF, "schema registry prefix"),
    ],
)
def test_not_a_post_in_protobuf(value: bytes, problem: str) -> None:
    error = refused(value, PROTOBUF)
    assert error.reason == Reason.NOT_DECODABLE
    assert str(error.problem) == problem


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (b"\xa2\x06\x01x", "unknown field"),  # field 100 of the post
        (b"\x1a\x07\x12\x01a\xa2\x06\x01x", "images[2]: unknown field"),  # field 100 of an image
        (b"\x10\x01", "text: not a string"),
        (b"\x18\x01", "images: not an object"),
    ],
)
def test_unknown_protobuf_field(added: bytes, problem: str) -> None:
    error = refused(FULL_PROTOBUF + added, PROTOBUF)
    assert (error.reason, str(error.problem), error.known) == (Reason.INVALID_POST, problem, KNOWN)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"id": ""}, "id: missing"),
        ({"id": None}, "id: missing"),
        ({"id": "é" * 257}, "id: too long"),
        ({"id": "a\nb"}, "id: control character"),
        ({"id": "a\x85b"}, "id: control character"),
        ({"id": "a\ud83d"}, "id: lone surrogate"),
        ({"tenant": "t" * 129}, "tenant: too long"),
        ({"tenant": "\udfff"}, "tenant: lone surrogate"),
        ({"language": "e\x00n"}, "language: control character"),
        ({"surface": "s" * 129}, "surface: too long"),
    ],
)
def test_a_bad_id_or_label_is_refused(fields: dict[str, Any], problem: str) -> None:
    error = refused(FULL_JSON | fields)
    assert (error.reason, str(error.problem)) == (Reason.INVALID_POST, problem)
    assert error.known == replace(KNOWN, **dict.fromkeys(fields, ""))  # type: ignore[arg-type]  # strings, by their names


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(FULL_JSON | {"comment": 1}).encode(),
        json.dumps(FULL_JSON | {"text": 5}).encode(),
        json.dumps(FULL_JSON | {"images": [{"url": "x"}]}).encode(),
        json.dumps(FULL_JSON)[:-1].encode() + b', "text": ""}',
        json.dumps(FULL_JSON)[:-1].encode("latin-1") + b', "x": "\xe9"}',
        FULL_PROTOBUF,
        FULL_PROTOBUF + b"\x12\x01\xff",
        b"\0\0\0\0\7" + json.dumps(FULL_JSON).encode(),
        b"\0\0\0\0\7\2\0" + FULL_PROTOBUF,
    ],
)
@pytest.mark.parametrize("headers", [[], PROTOBUF, [("content-type", b"text/plain")]])
def test_what_is_readable_of_a_refused_post_goes_with_the_refusal(value: bytes, headers: wire.Headers) -> None:
    if value == FULL_PROTOBUF and headers is PROTOBUF:
        assert read(value, headers) == FULL
    else:
        assert refused(value, headers).known == KNOWN


def test_a_field_that_is_given_twice_is_not_known() -> None:
    doubled = json.dumps(FULL_JSON)[:-1].encode() + b', "tenant": "other"}'
    assert refused(doubled).known == replace(KNOWN, tenant="")


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ({"data": "AAA!"}, "images[0].data: base64"),
        ({"data": "data:image/png;base64,AAA!"}, "images[0].data: base64"),
        ({"uri": "data:image/png;base64"}, "images[0].uri: data URL"),
        ({"uri": "data:,"}, "images[0].uri: missing"),
        ({}, "images[0]: missing"),
        (None, "images[0]: missing"),
        ({"data": "", "uri": None, "alt": "a cat"}, "images[0]: missing"),
        ({"data": "AAAA", "uri": "file:///a"}, "images[0]: data and uri"),
        ({"uri": "file:///" + "a" * 4096}, "images[0].uri: too long"),
        ({"uri": "file:///\x1b"}, "images[0].uri: control character"),
        ({"uri": "file:///\ud83d"}, "images[0].uri: lone surrogate"),
        ({"data": "A" * 88}, "images[0].data"),
        ({"uri": "data:;base64," + "A" * 88}, "images[0].uri"),
        ({"uri": "data:," + "%41" * 65}, "images[0].uri"),
    ],
)
def test_a_mistake_in_one_image_does_not_hide_the_rest(image: dict[str, Any] | None, problem: str) -> None:
    post = read({"id": "1", "text": "x", "images": [image, {"uri": "file:///b"}]})
    first, second = post.images
    assert (post.text, second) == ("x", Image(uri="file:///b"))
    assert first.alt == (image or {}).get("alt", "")
    assert bool(first.data or first.uri) == any((image or {}).get(name) for name in ("data", "uri")), "for the digest"
    assert str(first.problem) == problem
    assert first.problem is not None
    assert (first.problem.reason is Reason.IMAGE_TOO_LARGE) == (not first.problem.detail)


def test_the_images_beyond_the_limit_have_one_problem_and_keep_their_alternative_texts() -> None:
    uris = [{"uri": f"file:///{number}", "alt": f"{number}"} for number in range(500)]
    for value, named in (
        (json.dumps({"id": "1", "images": uris}).encode(), []),
        (json_format.ParseDict({"id": "1", "images": uris}, post_pb2.Post()).SerializeToString(), PROTOBUF),
    ):
        post = read(value, named)
        assert [image.uri for image in post.images if image.problem is None] == ["file:///0", "file:///1"]
        assert {image.problem for image in post.images[2:]} == {Problem(Reason.TOO_MANY_IMAGES, "images[2]")}
        assert [image.alt for image in post.images] == [str(number) for number in range(500)]


def test_a_long_text_is_kept_whole() -> None:
    assert read({"id": "1", "text": "x" * 1_000}).text == "x" * 1_000


@pytest.mark.parametrize("id", ["é" * 256, " ", "a b", "../x", "kafka:posts/0/1"])
def test_ids_that_are_allowed(id: str) -> None:
    assert read({"id": id, "text": "x" * 100}).id == id


@pytest.mark.parametrize(
    "value",
    [
        b"\xef\xbb\xbf" + json.dumps(FULL_JSON).encode(),
        json.dumps(FULL_JSON, indent=4).encode(),
        json.dumps(FULL_JSON, ensure_ascii=False).encode(),
    ],
)
def test_json_as_other_writers_write_it(value: bytes) -> None:
    assert read(value) == FULL


def test_half_a_character_is_what_readers_see() -> None:
    post = read({"id": "1", "text": "a\ud83d b\udf0a\ud83c c🌊", "images": [{"uri": "file:///a", "alt": "\ud83d"}]})
    assert (post.text, post.images[0].alt) == ("a\ufffd b\ufffd\ufffd c🌊", "\ufffd")


@pytest.mark.parametrize("format", ["json", "protobuf"])
@pytest.mark.parametrize("schema_registry", [False, True])
def test_the_prefix_of_a_schema_registry_is_read_where_the_setting_says_so(format: str, schema_registry: bool) -> None:
    value = json.dumps(FULL_JSON).encode() if format == "json" else FULL_PROTOBUF
    indexes = [b"", b"\xef\xbb\xbf"] if format == "json" else [b"\0", b"\2\0"]
    content_type = wire.CONTENT_TYPES["json" if format == "json" else "protobuf"]
    for named in ([], [("content-type", content_type)]):
        for index in indexes:
            prefixed = b"\0\0\0\0\7" + index + value
            if schema_registry:
                assert wire.post_record(prefixed, named, MEDIA, schema_registry=True) == FULL
                if named:  # producers may change one by one
                    assert wire.post_record(value, named, MEDIA, schema_registry=True) == FULL
            else:
                assert refused(prefixed, named).problem.detail is Detail.SCHEMA_REGISTRY


@pytest.mark.parametrize("indexes", [b"\2\2", b"\4\0\0", b""])
def test_another_message_of_a_schema_is_no_post(indexes: bytes) -> None:
    with pytest.raises(PostError) as caught:
        wire.post_record(b"\0\0\0\0\7" + indexes + FULL_PROTOBUF, PROTOBUF, MEDIA, schema_registry=True)
    assert caught.value.problem.detail is Detail.OTHER_MESSAGE


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


@given(st.binary(max_size=30), st.sampled_from([b"", json.dumps(FULL_JSON).encode(), FULL_PROTOBUF]), headers)
def test_a_prefix_is_a_post_or_a_post_error(start: bytes, value: bytes, headers: wire.Headers) -> None:
    for schema_registry in (False, True):
        _is_a_post_or_a_post_error(b"\0" + start + value, headers, schema_registry=schema_registry)


def _is_a_post_or_a_post_error(value: bytes, headers: wire.Headers, *, schema_registry: bool = False) -> None:
    try:
        post = wire.post_record(value, headers, MEDIA, schema_registry=schema_registry)
    except PostError as error:
        assert error.known is None or not error.known.id or not wire.id_problem(error.known.id)
        assert PATH.fullmatch(error.problem.path)
    else:
        assert not wire.id_problem(post.id)
        assert all(image.problem is not None or (image.data is None) != (image.uri is None) for image in post.images)
        assert all(PATH.fullmatch(image.problem.path) for image in post.images if image.problem)
