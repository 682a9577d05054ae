"""Posts in Protobuf: a value, or a message that gRPC has read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Detail, Post, Reason
from moderation.v1 import post_pb2
from moderation.wire import prescan
from moderation.wire.images import image, image_beyond
from moderation.wire.json_posts import MAX_ELEMENTS
from moderation.wire.refusals import RULES, known_of, refusal

_MESSAGES = prescan.nested(post_pb2.Post)


def parse(value: bytes) -> post_pb2.Post:
    """The message in a value. Raises PostError."""
    try:
        prescan.check_protobuf(value, _MESSAGES, MAX_ELEMENTS)
    except prescan.TooManyError:
        raise refusal(Reason.NOT_DECODABLE, None, Detail.TOO_MANY) from None
    except prescan.ShapeError:
        raise refusal(Reason.NOT_DECODABLE, None, Detail.NOT_PROTOBUF) from None
    try:
        return post_pb2.Post.FromString(value)
    except DecodeError:
        raise _not_utf8(value) from None


def read(message: post_pb2.Post, media: MediaSettings) -> Post:
    """The post in a message, without a check of its id and labels.

    Images beyond `max_images` have a problem. Raises PostError.
    """
    _check_fields(message)
    return Post(
        id=message.id,
        text=message.text,
        images=tuple(
            image(part.data, part.uri, part.alt, f"images[{index}]", media)
            if index < media.max_images
            else image_beyond(media.max_images, part.data, part.uri, part.alt)
            for index, part in enumerate(message.images)
        ),
        tenant=message.tenant,
        language=message.language,
        surface=message.surface,
    )


def _check_fields(message: post_pb2.Post) -> None:
    """Raises PostError if the message has a field that is unknown, or of another type."""
    for path, part in (("", message), *((f"images[{index}]", part) for index, part in enumerate(message.images))):
        unknown = UnknownFieldSet(part)
        if len(unknown):
            known = known_of({name: getattr(message, name) for name in RULES})
            field = part.DESCRIPTOR.fields_by_number.get(unknown[0].field_number)
            if field is None:
                raise refusal(Reason.INVALID_POST, known, Detail.UNKNOWN_FIELD, path)
            detail = Detail.NOT_A_STRING if field.message_type is None else Detail.NOT_AN_OBJECT
            raise refusal(Reason.INVALID_POST, known, detail, ".".join(filter(None, [path, field.name])))


def _not_utf8(value: bytes) -> PostError:
    """The refusal of a value that is well-formed, and of which a string is not UTF-8."""
    fields: dict[str, str] = {}
    at = ""
    try:
        contents = list(_contents(value, post_pb2.Post()))
    except DecodeError:  # as of a field of number 0, which the walk before passed over
        contents = []
    for path, field, content in contents:
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                fields[path] = content.decode()
            except UnicodeDecodeError:
                at = at or path
                fields.pop(path, None)
    if not at:
        return refusal(Reason.NOT_DECODABLE, None, Detail.NOT_PROTOBUF)
    return refusal(Reason.NOT_DECODABLE, known_of(fields), Detail.NOT_UTF8, at)


def _contents(value: bytes, message: Message, path: str = "") -> Iterator[tuple[str, FieldDescriptor, bytes]]:
    """The strings, bytes and messages in a value, at every depth, each with its path and field."""
    seen = 0
    unknown = UnknownFieldSet(Empty.FromString(value))
    for part in (unknown[index] for index in range(len(unknown))):
        field = cast(Descriptor, message.DESCRIPTOR).fields_by_number.get(part.field_number)
        if field is None or not isinstance(part.data, bytes):
            continue
        at = f"{path}{field.name}"
        if field.message_type is None:
            yield at, field, part.data
        else:
            yield from _contents(part.data, post_pb2.Image(), f"{at}[{seen}].")
            seen += 1
