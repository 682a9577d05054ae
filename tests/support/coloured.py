"""Pictures in files that say something of their colours: chunks, segments and boxes."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image as pil
from PIL import ImageChops, ImageDraw

SRGB_XY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue
EXCHANGED_XY = (0.3127, 0.3290, 0.30, 0.60, 0.64, 0.33, 0.15, 0.06)


def a_chart(side: int = 96) -> pil.Image:
    """All levels of grey, and colours of all kinds next to each other: RGB."""
    chart = pil.new("RGB", (side, side))
    for y in range(side):
        for x in range(side):
            across, down = 255 * x // (side - 1), 255 * y // (side - 1)
            quarter = 4 * y // side
            bands = (
                (across, across, across),
                (across, down, 255 - across),
                (255 - across, 40, down),
                (20, across, down),
            )
            chart.putpixel((x, y), bands[quarter])
    return chart


def writing_in_the_lowest_bit(side: int = 96) -> pil.Image:
    """A chart of which only the lowest bit of the samples holds writing."""
    writing = pil.new("L", (side, side), 1)
    ImageDraw.Draw(writing).text((4, side // 3), "buy it here", 0)
    even = a_chart(side).point([level & 0xFE for level in range(256)] * 3)
    return ImageChops.add(even, pil.merge("RGB", [writing] * 3))


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def gama(value: int) -> bytes:
    """100,000 is linear, 45,455 is sRGB's."""
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(xy: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in xy)))


def srgb() -> bytes:
    return chunk(b"sRGB", b"\0")


def cicp(primaries: int, transfer: int, coefficients: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, coefficients, full]))


def clli(nits: float) -> bytes:
    return chunk(b"cLLI", struct.pack(">II", round(nits * 10_000), 0))


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))


def a_file(picture: pil.Image, format: str, profile: bytes | None = None, **options: Any) -> bytes:
    """The picture with its samples as they are, as good as the format can."""
    best: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    file = BytesIO()
    picture.save(file, format, icc_profile=profile, **best.get(format, {}) | options)
    return file.getvalue()


def a_png(picture: pil.Image, *chunks: bytes) -> bytes:
    """A PNG file with these chunks before all others."""
    file = a_file(picture, "PNG")
    return file[:33] + b"".join(chunks) + file[33:]


def segment(number: int, count: int, part: bytes) -> bytes:
    """A part of a profile in a JPEG file."""
    body = b"ICC_PROFILE\0" + bytes([number, count]) + part
    return b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body


def a_jpeg(picture: pil.Image, *segments: bytes) -> bytes:
    file = a_file(picture, "JPEG")
    return file[:2] + b"".join(segments) + file[2:]


def an_avif(picture: pil.Image, primaries: int, transfer: int) -> bytes:
    """An AVIF file with these code points in its box."""
    file = a_file(picture, "AVIF")
    place = file.index(b"nclx") + 4
    return file[:place] + struct.pack(">HH", primaries, transfer) + file[place + 4 :]


def an_avif_of_its_stream(picture: pil.Image, transfer: int) -> bytes:
    """An AVIF file without such a box: the header of its AV1 stream alone says the transfer."""
    file = a_file(picture, "AVIF").replace(b"colr", b"free")
    bits = "".join(f"{byte:08b}" for byte in file)
    described = "1" + "".join(f"{value:08b}" for value in (1, 13, 6))  # primaries, transfer, coefficients
    assert described in bits
    bits = bits.replace(described, described[:9] + f"{transfer:08b}" + described[17:])
    return bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))


def a_bmp(picture: pil.Image, profile: bytes) -> bytes:
    """A BMP file of version 5, with its profile in it."""
    rows = picture.transpose(pil.Transpose.FLIP_TOP_BOTTOM)
    red, green, blue = rows.split()
    pixels = b"".join(
        line + bytes(-len(line) % 4)
        for line in (
            pil.merge("RGB", (blue, green, red)).crop((0, y, rows.width, y + 1)).tobytes() for y in range(rows.height)
        )
    )
    head = struct.pack("<IiiHHIIiiII", 124, *picture.size, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    head += bytes(16) + b"DEBM" + bytes(48) + struct.pack("<IIII", 4, 124 + len(pixels), len(profile), 0)
    size = 14 + len(head) + len(pixels) + len(profile)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, 14 + len(head)) + head + pixels + profile
