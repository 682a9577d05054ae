"""Files that Pillow writes, and pieces that are put into them."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

from PIL import Image as pil

ORIENTATION = 0x0112
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'
)


def saved(picture: pil.Image, format: str, **options: Any) -> bytes:
    """The picture as a file."""
    file = BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def exif_of(orientation: int, *, big: bool = True, kind: int = 3, start: int = 8) -> bytes:
    """A TIFF block that holds an orientation alone. `kind`: 3 of two bytes, 4 of four. `start`: of its directory."""
    order, head = (">", b"MM\0\x2a") if big else ("<", b"II\x2a\0")
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    directory = struct.pack(order + "HHHI", 1, ORIENTATION, kind, 1) + value + bytes(4)
    return head + struct.pack(order + "I", start) + bytes(start - 8) + directory


def xmp_of(orientation: int) -> bytes:
    """An XMP packet that holds an orientation alone."""
    return XMP.format(orientation).encode()


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """The JPEG file with segments behind its beginning."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]
