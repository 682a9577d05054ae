"""Posts: the value of a record, or a Protobuf message, becomes a `Post`.

Reading is strict in both formats. An unknown field is an error, because content that is not read is not judged. Only
what is no post is refused as a whole: an image with a mistake has a problem, and the rest of its post is judged.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Detail, Post, Problem, Reason
from moderation.v1 import post_pb2
from moderation.wire import json_posts, protobuf_posts, registry
from moderation.wire.formats import READ, Format, Headers, named_format
from moderation.wire.refusals import checked, refusal

_OF_ANOTHER_FORMAT = [
    Problem(Reason.NOT_DECODABLE, detail=detail) for detail in (Detail.NOT_JSON, Detail.NOT_UTF8, Detail.NOT_PROTOBUF)
]


def post(message: post_pb2.Post, media: MediaSettings) -> Post:
    """The post in a message. Raises PostError if it is no post: a bad id or label, an unknown field."""
    return checked(protobuf_posts.read(message, media))


def post_record(value: bytes | None, headers: Headers, media: MediaSettings, *, schema_registry: bool = False) -> Post:
    """The post in a record of the posts topic. Raises PostError, and nothing else, for any bytes.

    `schema_registry`: whether to read values with the prefix of a schema registry.
    """
    if value is None:
        raise PostError(Reason.NULL_VALUE, "the record has no value")
    format = named_format(headers)
    if isinstance(format, Detail):
        text = f"content-type is none of {', '.join(READ)}"
        raise refusal(Reason.UNKNOWN_CONTENT_TYPE, known(value), format, "content-type", text)
    if registry.has_prefix(value):
        if not schema_registry:
            text = "the value has the prefix of a schema registry: set MODERATION_KAFKA__SCHEMA_REGISTRY=true"
            raise refusal(Reason.NOT_DECODABLE, known(value), Detail.SCHEMA_REGISTRY, text=text)
        value, format = registry.unwrapped(value, format)
    return _read(value, format or "json", media)


def known(value: bytes | None) -> Post | None:
    """The id and the labels that are readable and valid in a value. Its headers do not count."""
    if not value:
        return None
    if registry.has_prefix(value):
        with suppress(PostError):
            return _known(*registry.unwrapped(value, None))
        return None
    return _known(value, "json" if json_posts.is_object(value) else "protobuf")


def _known(value: bytes, format: Format) -> Post | None:
    try:
        post = _parse(value, format, MediaSettings(max_images=0))
    except PostError as error:
        return error.known
    return replace(post, text="", images=())


def _read(value: bytes, format: Format, media: MediaSettings) -> Post:
    try:
        return _parse(value, format, media)
    except PostError as error:
        if error.problem not in _OF_ANOTHER_FORMAT or json_posts.is_object(value) == (format == "json"):
            raise
        found = known(value)
        if found is None or not found.id:
            raise
        detail = Detail.NO_CONTENT_TYPE if format == "json" else Detail.JSON_AS_PROTOBUF
        raise refusal(Reason.NOT_DECODABLE, found, detail) from None


def _parse(value: bytes, format: Format, media: MediaSettings) -> Post:
    if format == "json":
        return checked(json_posts.read(value, media))
    return post(protobuf_posts.parse(value), media)
