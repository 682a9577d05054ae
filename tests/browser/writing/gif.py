"""GIF files, with frames anywhere on any screen."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

PASSES = ((0, 8), (4, 8), (2, 4), (1, 2))  # first row and step of an interlaced frame


def a_gif(
    screen: tuple[int, int], frames: Iterable[bytes], colours: bytes = b"", *, background: int = 0, aspect: int = 0
) -> bytes:
    """`colours`: the global palette, RGB; its length is a power of two."""
    flags = 0x80 | (len(colours) // 3 - 1).bit_length() - 1 if colours else 0
    return b"GIF89a" + struct.pack("<HHBBB", *screen, flags, background, aspect) + colours + b"".join(frames) + b";"


def a_frame(
    indices: npt.NDArray[np.integer],
    bits: int,
    colours: bytes = b"",
    *,
    place: tuple[int, int] = (0, 0),
    interlaced: bool = False,
    clear: int | None = None,
    hundredths: int = 0,
    disposal: int = 0,
) -> bytes:
    """One frame. `colours`: its own palette. `clear`: a transparent index. `hundredths`: of a second, that it lasts."""
    height, width = indices.shape
    flags = (0x80 | (len(colours) // 3 - 1).bit_length() - 1 if colours else 0) | (0x40 if interlaced else 0)
    control = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, disposal << 2 | (clear is not None), hundredths, clear or 0, 0)
    rows = [row for first, step in PASSES for row in range(first, height, step)] if interlaced else range(height)
    data = _lzw([int(index) for row in rows for index in indices[row]], max(2, bits))
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    head = struct.pack("<BHHHHB", 0x2C, *place, width, height, flags)
    return control + head + colours + bytes([max(2, bits)]) + blocks + b"\0"


def _lzw(indices: Sequence[int], bits: int) -> bytes:
    """GIF's LZW."""
    first, end = 1 << bits, (1 << bits) + 1
    codes: dict[tuple[int, ...], int] = {}
    out, filled, size = 0, 0, bits + 1
    packed = bytearray()

    def put(code: int) -> None:
        nonlocal out, filled
        out |= code << filled
        filled += size
        while filled >= 8:
            packed.append(out & 255)
            out >>= 8
            filled -= 8

    def reset() -> None:
        nonlocal size
        codes.clear()
        codes.update({(index,): index for index in range(first)})
        size = bits + 1

    put(first)
    reset()
    free = end + 1
    run: tuple[int, ...] = ()
    for index in indices:
        longer = (*run, index)
        if longer in codes:
            run = longer
            continue
        put(codes[run])
        codes[longer] = free
        if free == 1 << size and size < 12:
            size += 1
        free += 1
        if free == 1 << 12:
            put(first)
            reset()
            free = end + 1
        run = (index,)
    put(codes[run])
    put(end)
    return bytes(packed) + (bytes([out & 255]) if filled else b"")
