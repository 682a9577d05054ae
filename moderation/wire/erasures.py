"""Erasures: a record without a value, keyed by a post's id, asks for the post's verdict to be forgotten."""

from __future__ import annotations

import re

from moderation.types import Source
from moderation.wire.formats import Headers
from moderation.wire.ids import id_in_key

# Header of an erasure on the verdicts topic: the record of the posts topic that asked for it, TOPIC/PARTITION/OFFSET.
ERASED_BY = "erased-by"

_POSITION = re.compile(rb"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")


def erased_id(key: bytes | None, value: bytes | None) -> str | None:
    """The id of the post that a record of the posts topic asks to erase; None if the record is no erasure."""
    return (id_in_key(key) or None) if value is None else None


def erasure_headers(request: Source) -> list[tuple[str, bytes]]:
    """Headers of the erasure on the verdicts topic. `request`: the record of the posts topic that asked for it."""
    return [(ERASED_BY, f"{request.topic}/{request.partition}/{request.offset}".encode())]


def erased_source(headers: Headers) -> tuple[str, int, int] | None:
    """Topic, partition and offset of the record that asked for an erasure; None if the headers do not name one."""
    position = next((value for name, value in headers if name == ERASED_BY and value), None)
    match = _POSITION.fullmatch(position) if position else None
    return (match[1].decode(), int(match[2]), int(match[3])) if match else None
