"""BMP files, with any header and any samples."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

RGB, RLE8, RLE4, BITFIELDS, RLE24, ALPHA_BITFIELDS = 0, 1, 2, 3, 4, 6  # compressions
V1, OS2_V2, V2, V3, V4, V5 = 40, 64, 52, 56, 108, 124  # sizes of headers; 12 is OS/2's first
OS2 = 12

Samples = npt.NDArray[np.integer]


def a_bmp(
    data: bytes,
    size: tuple[int, int],
    bits: int,
    *,
    header: int = V1,
    compression: int = RGB,
    colours: Sequence[Sequence[int]] = (),
    used: int | None = None,
    masks: Sequence[int] = (),
    gap: int = 0,
    top_down: bool = False,
    profile: bytes = b"",
) -> bytes:
    """`data`: as it stands in the file. `colours`: RGB. `used`: the number of them that the header tells.

    `masks`: red, green, blue, alpha. `gap`: bytes before the data. `profile`: of a V5 header, from its colour space on.
    """
    width, height = size
    height = -height if top_down else height
    if header == OS2:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
        table = b"".join(bytes(colour[::-1]) for colour in colours)
    else:
        told = len(colours) if used is None else used
        head = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 2835, 2835, told, 0)
        fields = struct.pack(f"<{len(masks)}I", *masks)
        if header in (V2, V3, V4, V5):
            head = (head + fields + bytes(16 - len(fields)) + (profile or struct.pack("<I", 0x73524742)))[:header]
            head += bytes(header - len(head))
        else:
            head = (head + bytes(max(0, header - 40)))[:header] + fields
        table = b"".join(bytes(colour[::-1]) + b"\0" for colour in colours)
    start = 14 + len(head) + len(table) + gap
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + table + bytes(gap) + data


def rows(samples: Samples, bits: int, *, top_down: bool = False) -> bytes:
    """Rows of samples of that many bits, each filled up to four bytes. `samples`: height x width, or x channels."""
    whole = []
    for row in samples if top_down else samples[::-1]:
        if bits < 8:
            packed = np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel()).tobytes()
        elif bits == 24:
            packed = row.astype(np.uint8)[:, ::-1].tobytes()
        else:
            packed = row.astype(f"<u{bits // 8}").tobytes()
        whole.append(packed + bytes(-len(packed) % 4))
    return b"".join(whole)


def fields(levels: Samples, masks: Sequence[int]) -> Samples:
    """One number for each pixel, of 8-bit levels: height x width x channels."""
    numbers = np.zeros(levels.shape[:2], np.uint64)
    for channel, mask in enumerate(masks):
        if mask:
            shift = (mask & -mask).bit_length() - 1
            most = mask >> shift
            numbers |= (levels[:, :, channel].astype(np.uint64) * most // 255) << shift
    return numbers


def rle8(indices: Samples) -> bytes:
    """Runs, then pixels one by one, in turn; with the marks that end lines and the picture."""
    out = bytearray()
    for number, row in enumerate(indices[::-1].tolist()):
        if number % 2:
            for at in range(0, len(row), 200):
                part = bytes(row[at : at + 200])
                out += bytes([0, len(part)]) + part + bytes(len(part) % 2) if len(part) > 2 else _single(part)
        else:
            out += _runs(row)
        out += b"\0\0"
    return bytes(out[:-2]) + b"\0\1"


def rle4(indices: Samples) -> bytes:
    """The same, of two pixels a byte."""
    out = bytearray()
    for number, row in enumerate(indices[::-1].tolist()):
        for at in range(0, len(row), 60):
            part = row[at : at + 60]
            if number % 2 and len(part) > 2:
                pairs = bytes(a << 4 | b for a, b in zip(part[::2], [*part[1::2], 0], strict=False))
                out += bytes([0, len(part)]) + pairs + bytes(len(pairs) % 2)
            else:
                for first in range(0, len(part), 2):
                    pair = (part[first : first + 2] * 2)[:2]
                    out += bytes([len(part[first : first + 2]), pair[0] << 4 | pair[1]])
        out += b"\0\0"
    return bytes(out[:-2]) + b"\0\1"


def _single(part: Iterable[int]) -> bytes:
    return b"".join(bytes([1, value]) for value in part)


def _runs(row: Sequence[int]) -> bytes:
    out, at = bytearray(), 0
    while at < len(row):
        length = 1
        while at + length < len(row) and row[at + length] == row[at] and length < 255:
            length += 1
        out += bytes([length, row[at]])
        at += length
    return bytes(out)
