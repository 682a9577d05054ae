"""Bounds on a value before it is parsed: 18 MB of `[0,0,...]` would become gigabytes, and hold the interpreter's lock.

What we read has few elements, however long its texts are. Counting takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

FIRST_BYTES = 64 << 10
LONGEST_NUMBER = 100  # characters; a conversion takes more than linear time

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10  # bytes

Nested = Mapping[int, "Nested"]  # by field number: a message within the message

_MARKS = (b",", b":", b"[", b"{")


class ShapeError(ValueError):
    """The bytes are no message, or have too many fields."""


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


def nested(message: type[Message]) -> Nested:
    """The fields of a message type that are messages themselves, and theirs. Not for a type that holds itself."""
    return _nested(cast(Descriptor, message.DESCRIPTOR))


def _nested(message: Descriptor) -> Nested:
    return {field.number: _nested(field.message_type) for field in message.fields if field.message_type is not None}


def check_protobuf(body: bytes, nested: Nested, most: int) -> None:
    """Walks over the fields, and into those whose numbers `nested` has. Raises ShapeError: more than `most` fields.

    Costs a step for each field, whatever their sizes are.
    """
    left = most
    spans: list[tuple[int, int, Nested]] = [(0, len(body), nested)]
    while spans:
        at, end, inside = spans.pop()
        while at < end:
            left -= 1
            if left < 0:
                raise ShapeError(f"the message has more than {most} fields")
            key, at = _varint(body, at, end)
            number, kind = key >> 3, key & 7
            if kind == LENGTH:
                size, at = _varint(body, at, end)
                if number in inside:
                    spans.append((at, at + size, inside[number]))
                at += size  # beyond `end`: refused below, before that span is walked
            elif kind == VARINT:
                _, at = _varint(body, at, end)
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            else:
                raise ShapeError("the message is not well-formed")
            if at > end:
                raise ShapeError("the message is not well-formed")


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 7 * MAX_VARINT:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ShapeError("the message is not well-formed")
