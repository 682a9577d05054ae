"""AVIF as browsers show it, where Pillow's decoder differs: alpha, and crops."""

from __future__ import annotations

import struct

from PIL import Image as pil

HEAD_BYTES = 8_192  # in which a file's boxes are; behind them is what was coded
PREMULTIPLIED = b"prem"  # the reference from the alpha to the colours that were multiplied by it
CLEAR_TO, OPAQUE_FROM = 16, 235  # of alpha, as Chromium reads it: the limited range of video, whatever the file says
APERTURE = b"\0\0\0\x28clap"
BRANDS = slice(8, 64)  # where a file says what it is, the first brand before all others
FORMS = (b"avif", b"avis")


def with_first_brand(file: bytes) -> bytes:
    """An AVIF file that has another name first: browsers look at all of its names, Pillow at the first."""
    length = int.from_bytes(file[:4], "big")
    names = [file[place : place + 4] for place in range(8, min(length, BRANDS.stop), 4)]
    known = [name for name in names[2:] if name in FORMS]
    return file[:8] + known[0] + file[12:] if known and names[0] not in FORMS else file


def with_browsers_alpha(frame: pil.Image, file: bytes) -> pil.Image:
    """A decoded frame of mode RGBA, with the alpha that a browser gives it."""
    spread = [round((level - CLEAR_TO) * 255 / (OPAQUE_FROM - CLEAR_TO)) for level in range(256)]
    alpha = frame.getchannel("A").point([min(255, max(0, level)) for level in spread])
    if PREMULTIPLIED in file[:HEAD_BYTES]:  # Pillow has divided its levels by the alpha that the file says
        return pil.merge("RGBa", [*frame.convert("RGBa").split()[:3], alpha]).convert("RGBA")
    layered = frame.copy()
    layered.putalpha(alpha)
    return layered


def crop_of(file: bytes, size: tuple[int, int]) -> tuple[int, int] | None:
    """The size of the part in the upper left corner that a browser shows alone. It heeds no crop of another place.

    `size`: of the coded picture.
    """
    place = file.find(APERTURE, 0, HEAD_BYTES)
    if place < 0 or len(file) < place + 40:
        return None
    numbers = struct.unpack_from(">IIIIiIiI", file, place + len(APERTURE))
    parts: list[int] = []
    for whole, at in zip(size, (0, 2), strict=True):
        width, width_by, offset, offset_by = *numbers[at : at + 2], *numbers[at + 4 : at + 6]
        # Its middle is `offset` from the picture's: (whole - width) / 2 + offset is where it begins.
        if not (width_by and offset_by) or width % width_by or not 0 < width // width_by <= whole:
            return None
        parts.append(width // width_by)
        if (whole - parts[-1]) * offset_by + 2 * offset:
            return None
    return (parts[0], parts[1]) if tuple(parts) != size else None
