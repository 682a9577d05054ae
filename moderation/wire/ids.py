"""Rules for the ids of posts and for the short labels beside them."""

from __future__ import annotations

import re

from moderation.types import Source

MAX_ID_BYTES = 512
MAX_LABEL_BYTES = 128  # tenant, language, surface

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def id_problem(id: str) -> str:
    """Why a string cannot be a post id, or the empty string."""
    return "is empty" if not id else string_problem(id, MAX_ID_BYTES)


def label_problem(value: str) -> str:
    """Why a string cannot be a tenant, a language, a surface or a policy id, or the empty string."""
    return string_problem(value, MAX_LABEL_BYTES)


def string_problem(value: str, max_bytes: int) -> str:
    """Why a string breaks the rules of ids and labels, or the empty string."""
    if len(value.encode()) > max_bytes:
        return f"is longer than {max_bytes} bytes"
    return "holds a control character" if _CONTROL.search(value) else ""


def id_in_key(key: bytes | None) -> str:
    """The post id that a record's key holds, or the empty string if the key cannot be one."""
    try:
        id = (key or b"").decode()
    except UnicodeDecodeError:
        return ""
    return "" if id_problem(id) else id


def post_id_for(key: bytes | None, source: Source) -> str:
    """An id for a post that cannot be read: the record's key if that can be an id, else the record's position."""
    return id_in_key(key) or f"kafka:{source.topic}/{source.partition}/{source.offset}"
