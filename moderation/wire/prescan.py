"""Bounds on a value before it is parsed: 18 MB of `[0,0,...]` would become gigabytes and hold the interpreter's lock.

Posts and verdicts have few elements, even when their texts are long. Counting elements takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

FIRST_BYTES = 64 << 10
MAX_NUMBER_CHARS = 100  # a conversion takes more than linear time

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10  # bytes

Nested = Mapping[int, "Nested"]  # by field number: a message within the message

_MARKS = (b",", b":", b"[", b"{")


class ShapeError(ValueError):
    """The bytes are not a message, or have too many fields."""


class TooManyError(ShapeError):
    """The value has too many elements or fields."""


class LongNumberError(ValueError):
    """A number in JSON has too many digits."""


def check_json(value: bytes, max_elements: int) -> None:
    """Raises TooManyError if a JSON value has too many elements: members, items, arrays and objects together.

    This also bounds how deep the value is nested. Bytes that are not JSON pass: the parser refuses them.
    """
    for part in (value[:FIRST_BYTES], value):  # for most bad values the first bytes are enough
        if sum(map(part.count, _MARKS)) > max_elements:  # marks within strings count here
            _check_outside_strings(part, max_elements)


def _check_outside_strings(value: bytes, max_elements: int) -> None:
    bare = value.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * max_elements:  # each element has at most two strings
        raise TooManyError("too many strings")
    if sum(outside.count(mark) for outside in bare.split(b'"')[::2] for mark in _MARKS) > max_elements:
        raise TooManyError("too many elements")


def number(literal: str) -> float:
    """For json's parse_int and parse_float. Raises LongNumberError for a literal that is too long."""
    if len(literal) > MAX_NUMBER_CHARS:
        raise LongNumberError("too long a number")
    return float(literal)


def nested(message: type[Message]) -> Nested:
    """The fields of a message type that are messages, at every depth. Not for a type that holds itself."""
    return _nested(cast(Descriptor, message.DESCRIPTOR))


def _nested(message: Descriptor) -> Nested:
    return {field.number: _nested(field.message_type) for field in message.fields if field.message_type is not None}


def check_protobuf(body: bytes, nested: Nested, max_fields: int) -> None:
    """Walks over the fields of a message, and into the fields that `nested` names. Raises ShapeError.

    The cost is one step for each field, independent of the field's size.
    """
    left = max_fields
    spans: list[tuple[int, int, Nested]] = [(0, len(body), nested)]
    while spans:
        at, end, inside = spans.pop()
        while at < end:
            left -= 1
            if left < 0:
                raise TooManyError(f"the message has more than {max_fields} fields")
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
