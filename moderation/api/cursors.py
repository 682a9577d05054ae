"""Consistency tokens and page tokens. Callers keep them as opaque bytes, so both are checked like any input."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

from google.protobuf.message import DecodeError

from moderation.v1.moderation_service_pb2 import Position

MAX_BYTES = 64 << 10  # thousands of partitions


def of_record(partition: int, offset: int) -> bytes:
    """The consistency token of a record of the posts topic. Lookups with this token do not miss the record."""
    return Position(posts={partition: offset}).SerializeToString()


def of_watch(positions: Mapping[int, int]) -> bytes:
    """The consistency token of a watch. `positions`: next offset, by partition of the verdicts topic."""
    return Position(verdicts=dict(positions)).SerializeToString()


def merged(*tokens: bytes) -> bytes:
    """One consistency token that is reached when all of these are. Raises ValueError."""
    merged = Position()
    for token in tokens:
        part = position(token)
        for highest, offsets in ((merged.posts, part.posts), (merged.verdicts, part.verdicts)):
            for partition, offset in offsets.items():
                highest[partition] = max(offset, highest.get(partition, offset))
    return merged.SerializeToString()


def position(token: bytes) -> Position:
    """The positions of a consistency token. Raises ValueError."""
    if len(token) > MAX_BYTES:
        raise ValueError("too long")
    try:
        decoded = Position.FromString(token)
    except DecodeError:
        raise ValueError("not a token") from None
    for offsets in (decoded.posts, decoded.verdicts):
        if any(partition < 0 or offset < 0 for partition, offset in offsets.items()):
            raise ValueError("not a token")
    return decoded


def of_page(query: bytes, after: tuple[int, str]) -> str:
    """The token of the page after a verdict (decision time in ms, post id). `query`: key that all its pages share."""
    packed = json.dumps([_digest(query), *after], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def page(query: bytes, token: str) -> tuple[int, str]:
    """The verdict that a page starts after. Raises ValueError: it is not a token, or belongs to another query."""
    if len(token) > 4096:
        raise ValueError("too long")
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, ms, post_id = json.loads(packed)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ValueError("not a token") from None
    if digest != _digest(query) or not isinstance(ms, int) or not isinstance(post_id, str) or abs(ms) > 1 << 62:
        raise ValueError("token of another query")
    return ms, post_id


def _digest(query: bytes) -> str:
    return hashlib.sha256(query).hexdigest()[:16]
