"""Consistency tokens and page tokens: opaque to callers, and checked like all that comes from them."""

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
    """The token that a produce acknowledgement makes: lookups that accept it do not miss this record."""
    return Position(posts={partition: offset}).SerializeToString()


def of_watch(positions: Mapping[int, int]) -> bytes:
    """Where a watch is, by partition of the verdicts topic."""
    return Position(verdicts=dict(positions)).SerializeToString()


def merged(*tokens: bytes) -> bytes:
    """One token that is reached when all of them are. Raises ValueError."""
    whole = Position()
    for token in tokens:
        one = position(token)
        for mine, its in ((whole.posts, one.posts), (whole.verdicts, one.verdicts)):
            for partition, offset in its.items():
                mine[partition] = max(offset, mine.get(partition, offset))
    return whole.SerializeToString()


def position(token: bytes) -> Position:
    """What a token says. Raises ValueError."""
    if len(token) > MAX_BYTES:
        raise ValueError("too long")
    try:
        found = Position.FromString(token)
    except DecodeError:
        raise ValueError("not a token") from None
    for offsets in (found.posts, found.verdicts):
        if any(partition < 0 or offset < 0 for partition, offset in offsets.items()):
            raise ValueError("not a token")
    return found


def of_page(query: bytes, after: tuple[int, str]) -> str:
    """The token of the page after this verdict. `query`: what the pages of one listing have in common."""
    packed = json.dumps([_digest(query), *after], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def page(query: bytes, token: str) -> tuple[int, str]:
    """The verdict to go on after. Raises ValueError when it is no token, or that of another query."""
    if len(token) > 4096:
        raise ValueError("too long")
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, ms, post_id = json.loads(packed)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ValueError("not a token") from None
    if digest != _digest(query) or not isinstance(ms, int) or not isinstance(post_id, str) or abs(ms) > 1 << 62:
        raise ValueError("of another query")
    return ms, post_id


def _digest(query: bytes) -> str:
    return hashlib.sha256(query).hexdigest()[:16]
