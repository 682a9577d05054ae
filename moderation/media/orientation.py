"""Turns that files ask for: those that browsers heed, and those that other viewers may.

A browser turns a JPEG by its EXIF, a PNG by an eXIf chunk before its data, an AVIF by its boxes; and nothing by XMP, by
texts, or by the EXIF of a WebP.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from PIL import Image as pil

from moderation.media.formats.png import Marks

ORIENTATION = 0x0112
SHORT = 3  # TIFF's type of two bytes
EXIF = b"Exif\0\0"
TURNS = {
    2: pil.Transpose.FLIP_LEFT_RIGHT,
    3: pil.Transpose.ROTATE_180,
    4: pil.Transpose.FLIP_TOP_BOTTOM,
    5: pil.Transpose.TRANSPOSE,
    6: pil.Transpose.ROTATE_270,
    7: pil.Transpose.TRANSVERSE,
    8: pil.Transpose.ROTATE_90,
}


def turns_of(image: pil.Image, marks: Marks) -> tuple[pil.Transpose | None, ...]:
    """The browser's turn of a file's pictures, then others that viewers may show. None: as stored.

    `image`: of the file, not decoded yet. `marks`: of a PNG file.
    """
    browser = TURNS.get(_heeded(image, marks))
    others = [TURNS.get(turn) for turn in (_of_pillow(image), _of_tiff(marks.late_exif))]
    return (browser, *dict.fromkeys(turn for turn in others if turn not in (None, browser)))


def _heeded(image: pil.Image, marks: Marks) -> int:
    if image.format == "PNG":
        return _of_tiff(marks.exif)
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return 1
    # Of an AVIF, Pillow puts the turn of its boxes there.
    return _of_tiff(exif.removeprefix(EXIF)) if image.format in ("JPEG", "MPO", "AVIF") else 1


def _of_tiff(exif: bytes) -> int:
    """The orientation of a TIFF block, as browsers read it: of two bytes, in the first directory. 1 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    with suppress(struct.error):
        if order and struct.unpack_from(f"{order}H", exif, 2) == (42,):
            (place,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, place)
            for entry in range(place + 2, place + 2 + 12 * count, 12):
                tag, kind, values, value = struct.unpack_from(f"{order}HHIHxx", exif, entry)
                if (tag, kind, values) == (ORIENTATION, SHORT, 1):
                    return int(value)
    return 1


def _of_pillow(image: pil.Image) -> int:
    """What Pillow finds, which looks at XMP and texts, too. A PNG's own method would decode the picture first."""
    try:
        value = pil.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  broken EXIF: viewers show such a picture as it is stored
        return 1
    return value if isinstance(value, int) else 1
