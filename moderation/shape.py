"""How many parts a Protobuf message has, seen before it is parsed.

Two bytes on the wire may become an object of a hundred: whoever parses first and counts then has the objects already.
"""

from __future__ import annotations

from collections.abc import Mapping

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_VARINT = 10  # bytes

Nested = Mapping[int, "Nested"]  # by field number: a message within the message


class ShapeError(ValueError):
    """The bytes are no message, or have too many fields."""


def check(body: bytes, nested: Nested, most: int) -> None:
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
                raise ShapeError(f"the request has more than {most} fields")
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
                raise ShapeError("the request is not well-formed")
            if at > end:
                raise ShapeError("the request is not well-formed")


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 7 * MAX_VARINT:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ShapeError("the request is not well-formed")
