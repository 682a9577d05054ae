"""The chunks of WebP files: makes those that are cut readable, as decoders take whole files only."""

from __future__ import annotations

import struct
from collections.abc import Iterator

MARKS = (b"RIFF", b"WEBP")
PADDING = 8 << 20  # bytes that are put in place of missing ones; a decoder fails where they end too early
PICTURES = (b"VP8 ", b"VP8L")
FILLINGS = (0x00, 0xA5)
ALPHA = 0x10  # a flag of the header that larger files have


def mended(file: bytes) -> tuple[list[bytes], bool] | None:
    """Whole files of what is there, and whether the pictures need no more. None: the file is not cut.

    Of an animation, the frames that are whole are kept. Of a still picture, what is missing is filled in: once by each
    of FILLINGS, so that two files are returned. Where their pictures differ, the file is cut.
    """
    if (file[:4], file[8:12]) != MARKS or len(file) < 16 or len(file) >= 8 + struct.unpack_from("<I", file, 4)[0]:
        return None
    kept: list[bytes] = []
    for kind, data, size in chunks(file):
        missing = size - len(data)
        if kind in PICTURES and missing > 0:
            return [_file([*kept, _chunk(kind, data + bytes([filling]) * PADDING)]) for filling in FILLINGS], False
        if missing:
            return [_file(kept)], any(chunk[:4] in PICTURES for chunk in kept)
        kept.append(_chunk(kind, data))
    return [_file(kept)], any(chunk[:4] in PICTURES for chunk in kept)


def is_opaque(file: bytes) -> bool:
    """Whether its header says that the file has no alpha. Its pictures may have some."""
    return file[:4] == MARKS[0] and file[8:16] == MARKS[1] + b"VP8X" and len(file) > 20 and not file[20] & ALPHA


def with_alpha(file: bytes) -> bytes:
    """A file with such a header that says that it has alpha."""
    return file[:20] + bytes([file[20] | ALPHA]) + file[21:]


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Kind and data of each chunk, and how many bytes of data it says it has: of the last one, some may be missing."""
    place = 12
    while place + 8 <= len(file):
        kind, size = struct.unpack_from("<4sI", file, place)
        yield kind, file[place + 8 : place + 8 + size], size
        place += 8 + size + size % 2


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(data)) + data + bytes(len(data) % 2)


def _file(chunks: list[bytes]) -> bytes:
    body = b"".join(chunks)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WEBP") + body
