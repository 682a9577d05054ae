"""Bounds on a value before it is parsed: 18 MB of `[0,0,...]` would become gigabytes, and hold the interpreter's lock.

What we read has few elements, however long its texts are. Counting takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

FIRST_BYTES = 64 << 10
LONGEST_NUMBER = 100  # characters; a conversion takes more than linear time

_MARKS = (b",", b":", b"[", b"{")


def check_json(value: bytes, most: int) -> None:
    """Raises ValueError if a JSON value has more than `most` elements (members, items, arrays and objects).

    That also bounds how deep it is nested. Of what is no JSON the parser says so.
    """
    for part in (value[:FIRST_BYTES], value):  # the first bytes of most that are refused are enough
        if sum(map(part.count, _MARKS)) > most:  # also those that are within strings
            _check_bare(part, most)


def _check_bare(value: bytes, most: int) -> None:
    bare = value.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * most:  # each element has two strings at the most
        raise ValueError("too many strings")
    if sum(outside.count(mark) for outside in bare.split(b'"')[::2] for mark in _MARKS) > most:
        raise ValueError("too many elements")


def number(literal: str) -> float:
    """For json's parse_int and parse_float. Raises ValueError for a literal that is too long."""
    if len(literal) > LONGEST_NUMBER:
        raise ValueError("too long a number")
    return float(literal)


def check_protobuf(value: bytes, messages: frozenset[int], most: int) -> None:
    """Raises ValueError if a message has more than `most` fields, itself and in its fields of these numbers.

    Of what is no Protobuf the parser says so.
    """
    left = most
    inner = [memoryview(value)]
    while inner:
        for number, content in _fields(inner.pop()):
            left -= 1
            if left < 0:
                raise ValueError("too many fields")
            if number in messages:
                inner.append(content)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field, as far as they can be told apart; content: of what has a length."""
    at, nothing = 0, message[:0]
    while at < len(message):
        tag, at = _varint(message, at)
        kind, size = tag & 7, {1: 8, 5: 4}.get(tag & 7, 0)
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
        yield tag >> 3, message[at : at + size] if kind == 2 else nothing
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at
