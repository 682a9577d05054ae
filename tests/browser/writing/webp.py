"""WebP files put together from chunks."""

from __future__ import annotations

import struct
from collections.abc import Mapping

ALPHA = 0x10  # the flag of a picture with alpha


def chunks_of(file: bytes) -> dict[bytes, bytes]:
    """The data of each chunk of a file that has none twice."""
    found, place = {}, 12
    while place + 8 <= len(file):
        kind, size = struct.unpack_from("<4sI", file, place)
        found[kind] = file[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return found


def a_file(chunks: Mapping[bytes, bytes]) -> bytes:
    """The file of these chunks, in their order."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks.items())
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def header(flags: int, size: tuple[int, int]) -> bytes:
    """The data of the VP8X chunk."""
    return bytes([flags, 0, 0, 0]) + b"".join(struct.pack("<I", side - 1)[:3] for side in size)
