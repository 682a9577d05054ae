"""Consistency tokens and page tokens. Callers keep them as opaque bytes, so both are checked like any input."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

from google.protobuf.message import DecodeError

from moderation.kafka.topic_ids import as_printed, is_topic_id
from moderation.v1.moderation_service_pb2 import Position

MAX_BYTES = 64 << 10  # thousands of partitions


def of_record(partition: int, offset: int, topic_id: str = "") -> bytes:
    """The consistency token of a record of the posts topic. Lookups with this token do not miss the record.

    `topic_id`: of that topic; empty: of the one that exists when the token is used.
    """
    return Position(posts={partition: offset}, posts_topic_id=topic_id).SerializeToString()


def of_watch(positions: Mapping[int, int], topic_id: str = "") -> bytes:
    """The consistency token of a watch. `positions`: next offset, by partition of the verdicts topic."""
    return Position(verdicts=dict(positions), verdicts_topic_id=topic_id).SerializeToString()


def merged(*tokens: bytes) -> bytes:
    """One consistency token that is reached when all of these are.

    Raises ValueError, also for tokens of different topics.
    """
    merged = Position()
    for token in tokens:
        part = position(token)
        for topic_id in ("posts_topic_id", "verdicts_topic_id"):
            ids = {getattr(merged, topic_id), getattr(part, topic_id)} - {""}
            if len(ids) > 1:
                raise ValueError("tokens of different topics")
            setattr(merged, topic_id, "".join(ids))
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
    for topic_id in ("posts_topic_id", "verdicts_topic_id"):
        if id := as_printed(getattr(decoded, topic_id)):
            if not is_topic_id(id):
                raise ValueError("not a token")
            setattr(decoded, topic_id, id)
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
