"""Rules for the ids of posts and for the short labels beside them."""

from __future__ import annotations

import re

from moderation.types import MAX_LABEL_BYTES, Detail, Source

MAX_ID_BYTES = 512

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def id_fault(id: str) -> Detail | None:
    """What is wrong with a string as a post id."""
    return string_fault(id, MAX_ID_BYTES) if id else Detail.MISSING


def label_fault(value: str) -> Detail | None:
    """What is wrong with a string as a tenant, a language, a surface or a policy id."""
    return string_fault(value, MAX_LABEL_BYTES)


def string_fault(value: str, max_bytes: int) -> Detail | None:
    """What is wrong with a string by the rules of ids and labels."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return Detail.LONE_SURROGATE
    if size > max_bytes:
        return Detail.TOO_LONG
    return Detail.CONTROL_CHARACTER if _CONTROL.search(value) else None


def id_problem(id: str) -> str:
    """Why a string cannot be a post id, in words, or the empty string."""
    return fault_in_words(id_fault(id), MAX_ID_BYTES)


def label_problem(value: str) -> str:
    """Why a string cannot be a tenant, a language, a surface or a policy id, in words, or the empty string."""
    return fault_in_words(label_fault(value), MAX_LABEL_BYTES)


def fault_in_words(fault: Detail | None, max_bytes: int) -> str:
    """The end of a sentence that begins with the name of the string, or the empty string."""
    match fault:
        case None:
            return ""
        case Detail.MISSING:
            return "is empty"
        case Detail.TOO_LONG:
            return f"is longer than {max_bytes} bytes"
        case _:
            return f"holds a {fault}"


def id_in_key(key: bytes | None) -> str:
    """The post id that a record's key holds, or the empty string if the key cannot be one."""
    try:
        id = (key or b"").decode()
    except UnicodeDecodeError:
        return ""
    return "" if id_fault(id) else id


def post_id_for(key: bytes | None, source: Source) -> str:
    """An id for a post that cannot be read: the record's key if that can be an id, else the record's position."""
    return id_in_key(key) or f"kafka:{source.topic}/{source.partition}/{source.offset}"
