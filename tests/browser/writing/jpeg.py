"""JPEG files put together from segments: colours in scans of their own, and other pictures behind the first."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from PIL import Image as pil

from tests.browser.writing.saved import saved, segment

SOF0, SOF1, DHT, DQT, SOS = 0xC0, 0xC1, 0xC4, 0xDB, 0xDA


def parts_of(jpeg: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The segments before the first scan's data, with their markers; and the data, without the end mark."""
    place, found = 2, []
    while True:
        marker, length = struct.unpack_from(">xBH", jpeg, place)
        found.append((marker, jpeg[place + 4 : place + 2 + length]))
        place += 2 + length
        if marker == SOS:
            return found, jpeg[place:-2]


def in_scans(
    picture: pil.Image, factors: Sequence[tuple[int, int]], *, sof: int = SOF0, identifiers: bytes = b"\1\2\3"
) -> bytes:
    """A file with a scan for each component. `factors`: of each one's sampling, across and down."""
    width, height = picture.size
    across, down = max(factor[0] for factor in factors), max(factor[1] for factor in factors)
    tables: list[bytes] = []
    scans: list[bytes] = []
    components = b""
    for band, identifier, (right, below) in zip(picture.convert("YCbCr").split(), identifiers, factors, strict=False):
        size = -(-width * right // across), -(-height * below // down)
        found, data = parts_of(saved(band.resize(size), "JPEG", quality=90))
        if not tables:
            tables = [segment(marker, body) for marker, body in found if marker in (DQT, DHT)]
        components += bytes([identifier, right << 4 | below, 0])
        scans.append(segment(SOS, bytes([1, identifier, 0, 0, 63, 0])) + data)
    frame = segment(sof, struct.pack(">BHHB", 8, height, width, len(scans)) + components)
    jfif = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    return b"".join([b"\xff\xd8", jfif, *tables, frame, *scans, b"\xff\xd9"])


def with_gain_map(base: bytes, gain_map: bytes) -> bytes:
    """An Ultra HDR file: the gain map lies behind the base picture, and XMP and MPF say so."""
    xmp = (
        b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/'
        b'02/22-rdf-syntax-ns#"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
        b'hdrgm:Version="1.0" hdrgm:GainMapMin="0" hdrgm:GainMapMax="3" hdrgm:HDRCapacityMin="0" '
        b'hdrgm:HDRCapacityMax="3" hdrgm:Gamma="1" hdrgm:OffsetSDR="0.01" hdrgm:OffsetHDR="0.01" '
        b'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"><Container:Directory><rdf:Seq>'
        b'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>'
        b'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" '
        b'Item:Length="%d"/></rdf:li></rdf:Seq></Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>'
    )
    gain_map = gain_map[:2] + segment(0xE1, xmp % 0) + gain_map[2:]
    entries = struct.pack(">IIIHH", 0x030000, 0, 0, 0, 0) + struct.pack(">IIIHH", 0, len(gain_map), 0, 0, 0)
    directory = (
        b"MPF\0MM\0\x2a\0\0\0\x08\0\3"
        + struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
        + struct.pack(">HHII", 0xB001, 4, 1, 2)
        + struct.pack(">HHII", 0xB002, 7, 32, 50)
        + bytes(4)
    )
    head = segment(0xE1, xmp % len(gain_map)) + segment(0xE2, directory + entries)
    size = len(base) + len(head)
    begin = base[:2] + segment(0xE1, xmp % len(gain_map))
    offset = size - (len(begin) + 8)  # from the TIFF mark of the MPF segment
    entries = struct.pack(">IIIHH", 0x030000, size, 0, 0, 0) + struct.pack(">IIIHH", 0, len(gain_map), offset, 0, 0)
    return begin + segment(0xE2, directory + entries) + base[2:] + gain_map
