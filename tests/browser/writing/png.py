"""PNG files, with any header, any chunks and any samples."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
FILTERS = 5

Samples = npt.NDArray[np.integer]


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One chunk, with its right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int, colour: int, interlaced: bool = False) -> bytes:
    """The IHDR chunk."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced)))


def a_png(
    samples: Samples,
    colour: int,
    depth: int,
    chunks: Iterable[bytes] = (),
    *,
    interlaced: bool = False,
    filter: int | None = 0,
    pieces: int = 1 << 30,
) -> bytes:
    """`samples`: height x width x channels, of that depth. `filter`: of all rows, None: another for each.

    `chunks`: between header and data. `pieces`: bytes of each IDAT.
    """
    height, width = samples.shape[:2]
    data = zlib.compress(b"".join(_rows(samples, depth, interlaced, filter)))
    parts = [chunk(b"IDAT", data[at : at + pieces]) for at in range(0, len(data), pieces)]
    return b"".join([SIGNATURE, header(width, height, depth, colour, interlaced), *chunks, *parts, chunk(b"IEND")])


def palette(colours: Sequence[Sequence[int]]) -> bytes:
    """The PLTE chunk."""
    return chunk(b"PLTE", bytes(level for colour in colours for level in colour))


def _rows(samples: Samples, depth: int, interlaced: bool, filter: int | None) -> Iterator[bytes]:
    number = 0
    for x, y, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = samples[y::down, x::right]
        before = b""
        bytes_per_pixel = max(1, samples.shape[2] * depth // 8)
        for row in part if part.shape[1] else ():
            packed = _packed(row.ravel(), depth)
            kind = number % FILTERS if filter is None else filter
            yield bytes([kind]) + _filtered(packed, before or bytes(len(packed)), kind, bytes_per_pixel)
            before, number = packed, number + 1


def _packed(row: Samples, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def _filtered(row: bytes, before: bytes, kind: int, step: int) -> bytes:
    up = np.frombuffer(before, np.uint8).astype(int)
    here = np.frombuffer(row, np.uint8).astype(int)
    left = np.concatenate([np.zeros(step, int), here])[: len(here)]
    corner = np.concatenate([np.zeros(step, int), up])[: len(up)]
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    guess = (np.zeros_like(here), left, up, (left + up) // 2, paeth)[kind]
    return bytes(((here - guess) % 256).tolist())
