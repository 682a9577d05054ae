"""The prefix that serializers of a schema registry put in front of a value: a zero byte and the schema's id.

In front of Protobuf, a list follows that says which message of its schema the value is. The id needs no registry here,
since reading is strict: a value of another schema is refused.
"""

from __future__ import annotations

from moderation.types import Detail, Reason
from moderation.wire.formats import Format
from moderation.wire.json_posts import BOM
from moderation.wire.refusals import refusal

MAGIC = b"\0"
PREFIX_BYTES = 5  # the magic byte, and an id of four bytes


def has_prefix(value: bytes) -> bool:
    """Whether a value has the prefix. Neither JSON nor Protobuf begins with a zero byte, but JSON in UTF-16 may."""
    return value.startswith(MAGIC) and len(value) > PREFIX_BYTES and value[1:3] != b"{\0"


def unwrapped(value: bytes, format: Format | None) -> tuple[bytes, Format]:
    """The value behind its prefix. `format`: None where no header names it; most of these serializers write none.

    Raises PostError if the value is not the first message of its schema, which Post is in post.proto.
    """
    payload = value[PREFIX_BYTES:]
    format = format or ("json" if payload.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") else "protobuf")
    if format == "protobuf":
        first = _behind_indexes(payload)
        if first is None:
            raise refusal(Reason.NOT_DECODABLE, None, Detail.OTHER_MESSAGE)
        payload = payload[first:]
    return payload, format


def _behind_indexes(payload: bytes) -> int | None:
    """Where the message begins, behind the list of indexes that means the first message: 0, or one item that is 0."""
    return next((len(indexes) for indexes in (b"\0", b"\2\0") if payload.startswith(indexes)), None)
