"""Finds what an image file says of its colours, as Chromium does: chunks and segments. All bytes are untrusted."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from moderation.errors import PostError
from moderation.media.formats import png, webp
from moderation.types import Reason

MAX_PROFILE_BYTES = 4 << 20  # profiles of printers take up to 3 MiB
PNG_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cLLI", b"mDCV")
SEGMENT_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)  # but for those that no length follows
ICC_SEGMENT = b"ICC_PROFILE\0"
BMP_EMBEDDED = b"DEBM"  # of BITMAPV5HEADER: its profile is in the file


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of its colours. `icc`: a whole profile."""

    icc: bytes | None = None
    code_points: tuple[int, int] | None = None  # primaries and transfer, by H.273
    gamma: float | None = None
    primaries: tuple[float, ...] | None = None  # x and y of white, red, green and blue
    srgb: bool = False
    peak_nits: float | None = None


def bounded(profile: bytes) -> bytes:
    """Raises PostError IMAGE_TOO_LARGE: browsers use it, and the picture may look otherwise without it."""
    if len(profile) > MAX_PROFILE_BYTES:
        text = f"the image's colour profile is larger than {MAX_PROFILE_BYTES} bytes"
        raise PostError(Reason.IMAGE_TOO_LARGE, text)
    return profile


def of_png(file: bytes) -> Said:
    said: dict[bytes, bytes] = {}
    palette = False
    for chunk in png.chunks(file):
        name = chunk.kind
        if name in (b"IDAT", b"IEND"):
            break
        palette = palette or name == b"PLTE"
        if name not in PNG_CHUNKS or name in said or (name == b"cICP" and palette):
            continue
        if chunk.sound and _is_valid(name, chunk.data):
            said[name] = bytes(chunk.data)
    gamma = struct.unpack(">I", said[b"gAMA"])[0] / 100_000 if b"gAMA" in said else None
    chromaticities = struct.unpack(">8I", said[b"cHRM"]) if b"cHRM" in said else None
    points = said.get(b"cICP")
    return Said(
        icc=_inflated(said[b"iCCP"]) if b"iCCP" in said else None,
        code_points=(points[0], points[1]) if points and points[2:] == b"\0\1" else None,
        gamma=gamma or None,
        primaries=tuple(value / 100_000 for value in chromaticities) if chromaticities else None,
        srgb=b"sRGB" in said,
        peak_nits=_peak(said),
    )


def _is_valid(name: bytes, body: memoryview) -> bool:
    sizes = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cLLI": 8, b"mDCV": 24}
    if name == b"iCCP":
        return True
    return len(body) == sizes[name] and (name != b"sRGB" or body[0] <= 3)


def _inflated(body: bytes) -> bytes | None:
    """The profile of an iCCP chunk. None where it is torn: browsers ignore it then."""
    name, separator, rest = body.partition(b"\0")
    if not separator or not 1 <= len(name) <= 80 or rest[:1] != b"\0":
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    whole = bounded(profile)
    return whole if inflater.eof else None


def _peak(chunks: dict[bytes, bytes]) -> float | None:
    """The luminance of the brightest pixel, or of the screen on which the picture was made."""
    for name, offset in ((b"cLLI", 0), (b"mDCV", 16)):
        if name in chunks:
            (value,) = struct.unpack_from(">I", chunks[name], offset)
            if value:
                return float(value) / 10_000
    return None


def of_jpeg(file: bytes) -> Said:
    """The segments of the profile must be whole: browsers ignore it otherwise."""
    parts: dict[int, bytes] = {}
    count = 0
    for body in _jpeg_segments(file, 0xE2):
        if not body.startswith(ICC_SEGMENT) or len(body) <= len(ICC_SEGMENT) + 2:
            continue
        number, of = body[len(ICC_SEGMENT) : len(ICC_SEGMENT) + 2]
        count = count or of
        if of != count or not 1 <= number <= count or number in parts:
            return Said()
        parts[number] = body[len(ICC_SEGMENT) + 2 :]
        if len(parts) == count:
            return Said(icc=bounded(b"".join(parts[index] for index in sorted(parts))))
    return Said()


def _jpeg_segments(file: bytes, wanted: int) -> Iterator[bytes]:
    """The bodies of these segments, up to the pixels."""
    place = 2
    while (mark := SEGMENT_MARK.search(file, place)) and mark.end() + 2 <= len(file):
        kind = file[mark.end() - 1]
        if kind in (0xD9, 0xDA):  # the end, or the pixels
            return
        place = mark.end()
        (length,) = struct.unpack_from(">H", file, place)
        if kind == wanted:
            yield file[place + 2 : place + length]
        place += max(2, length)


def of_webp(file: bytes) -> Said:
    if file[12:16] != b"VP8X" or len(file) < 30 or not file[20] & 0x20:
        return Said()
    for kind, data, _ in webp.chunks(file):
        if kind == b"ICCP":
            return Said(icc=bounded(data))
    return Said()


def of_bmp(file: bytes) -> Said:
    if len(file) < 138 or struct.unpack_from("<I", file, 14)[0] < 124 or file[70:74] != BMP_EMBEDDED:
        return Said()
    offset, length = struct.unpack_from("<II", file, 14 + 112)
    return Said(icc=bounded(file[14 + offset : 14 + offset + length]))
