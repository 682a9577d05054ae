"""The chunks of a PNG file, and what they say of its samples.

Pillow's `info` may hold anything instead: texts have any name.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MARK = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COLOURS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")  # colours/chunks.py reads them; Pillow fails on some
TURNING = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
GREY, RGB, PALETTE = 0, 2, 3  # colour types that have no alpha of their own


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of the file, without a copy of its bytes."""

    kind: bytes
    data: memoryview
    checksum: memoryview
    begin: int  # in the file
    end: int  # behind its checksum; of a chunk that is cut, behind the file

    @property
    def whole(self) -> bool:
        """Whether all of its data are there."""
        return len(self.data) == self.end - self.begin - 12

    @property
    def sound(self) -> bool:
        """Whether its checksum is right."""
        return self.checksum == struct.pack(">I", zlib.crc32(self.data, zlib.crc32(self.kind)))

    @property
    def packed(self) -> bytes:
        """The chunk as it stands in a file, with a right checksum."""
        return packed(self.kind, self.data)


def packed(kind: bytes, *data: bytes | memoryview) -> bytes:
    """A chunk as it stands in a file."""
    body = b"".join((kind, *data))
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def chunks(file: bytes) -> Iterator[Chunk]:
    """The chunks, to the end mark or to where the file ends."""
    view, place, kind = memoryview(file), len(MARK), b""
    while place + 8 <= len(file) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", file, place)
        end = place + 12 + length
        yield Chunk(kind, view[place + 8 : end - 4], view[end - 4 : end], place, end)
        place = end


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands before the samples."""

    depth: int = 8  # bits of a sample
    colour: int = RGB
    palette: bytes = b""  # RGB
    clear: bytes = b""  # the tRNS chunk
    exif: bytes = b""  # TIFF
    late_exif: bytes = b""  # behind the samples, where browsers do not heed it


def without_texts(file: bytes) -> bytes:
    """A PNG file without its texts and colours: Pillow takes a text for the header's field of the same name.

    Those stay in which viewers may find an orientation.
    """
    parts, kept = [], 0
    for chunk in chunks(file):
        if chunk.kind in (*TEXTS, *COLOURS) and not file.startswith(TURNING, chunk.begin + 8):
            parts.append(file[kept : chunk.begin])
            kept = chunk.end
    return b"".join([*parts, file[kept:]]) if parts else file


def marks_of(file: bytes) -> Marks:
    """Reads chunks without their checksums, up to where the file breaks."""
    found: dict[bytes, bytes] = {}
    late = b""
    samples = False
    for chunk in chunks(file):
        kind = chunk.kind
        samples = samples or kind == b"IDAT"
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"eXIf"):
            if samples and kind == b"eXIf":
                late = bytes(chunk.data)
            elif not samples and not (kind == b"tRNS" and _is_early(found)):
                found.setdefault(kind, bytes(chunk.data))
    header = found.get(b"IHDR", b"").ljust(10, b"\0")
    palette, clear, exif = (found.get(kind, b"") for kind in (b"PLTE", b"tRNS", b"eXIf"))
    return Marks(header[8], header[9], palette, clear, exif, late)


def _is_early(found: dict[bytes, bytes]) -> bool:
    """Whether the alpha of a palette's colours would stand before the palette, where no viewer heeds it."""
    return found.get(b"IHDR", b"")[9:10] == bytes([PALETTE]) and b"PLTE" not in found
