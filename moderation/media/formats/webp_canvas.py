"""The size of a WebP picture, by its header: Pillow takes memory for all pixels before it says how many there are."""

from __future__ import annotations

from dataclasses import dataclass

VERY_LITTLE = 30  # bytes that hold each kind of header


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the header of a WebP file announces, in pixels."""

    size: tuple[int, int]
    animated: bool


def canvas_of(file: bytes) -> Canvas | None:
    """The canvas of a WebP file; None: the bytes are none. Source: RFC 9649 2.6, 2.7 and 3.4; RFC 6386 9.1."""
    if file[:4] != b"RIFF" or file[8:12] != b"WEBP" or len(file) < VERY_LITTLE:
        return None
    kind, data = file[12:16], file[20:30]
    if kind == b"VP8X":
        size = _number(data[4:7]) + 1, _number(data[7:10]) + 1
        return Canvas(size, animated=bool(data[0] & 0b10))
    if kind == b"VP8L":
        bits = _number(data[1:5])
        return Canvas(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), animated=False)
    if kind == b"VP8 ":
        return Canvas((_number(data[6:8]) & 0x3FFF, _number(data[8:10]) & 0x3FFF), animated=False)
    return None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
