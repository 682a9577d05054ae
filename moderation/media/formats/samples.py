"""From samples as they are stored to levels of 8 bits, with the alpha that a browser gives them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import reduce
from io import BytesIO

from PIL import Image as pil
from PIL import ImageChops

from moderation.errors import PostError
from moderation.media.formats.avif import crop_of, with_browsers_alpha
from moderation.media.formats.bmp import BmpFile
from moderation.media.formats.png import GREY, PALETTE, RGB, Marks
from moderation.media.formats.webp import is_opaque
from moderation.types import Reason

PLAIN = ("RGB", "L", "CMYK", "RGBA")


def eight_bits(frame: pil.Image, file: bytes, marks: Marks) -> pil.Image:
    """The decoded frame in mode L, RGB, CMYK or RGBA. `marks`: of a PNG file; `file` is read again for 16 bits.

    Raises PostError IMAGE_UNSUPPORTED where its pixels cannot be shown.
    """
    if frame.format == "AVIF":
        frame = with_browsers_alpha(frame, file) if frame.mode == "RGBA" else frame
        crop = crop_of(file, frame.size)
        return frame.crop((0, 0, *crop)) if crop else frame
    if has_unsaid_alpha(frame, file):
        return _lightened(frame)
    if frame.mode in ("I", "F"):
        raise PostError(Reason.IMAGE_UNSUPPORTED, f"the image's pixels are of mode {frame.mode}")
    if _is_indexed(frame, marks):
        return _of_palette(frame, marks)
    if frame.format == "PNG" and marks.clear and marks.colour in (GREY, RGB):
        return _without_clear(frame, file, marks)
    if frame.mode == "I;16":
        return _halves(frame)[0]
    if frame.mode in PLAIN and not (frame.format == "PNG" and frame.mode != "RGBA"):
        return frame.convert("RGBA") if frame.has_transparency_data else frame
    if frame.format == "PNG":  # its info may name a clear colour that no chunk does
        frame = frame.copy()
        frame.info.pop("transparency", None)
    if frame.has_transparency_data:
        return frame.convert("RGBA")
    return frame if frame.mode in PLAIN else frame.convert("L" if frame.mode == "1" else "RGB")


def otherwise(frame: pil.Image, file: bytes, marks: Marks) -> Iterator[pil.Image]:
    """Yields the frame as viewers show it that read its samples in another way than browsers."""
    if isinstance(frame, BmpFile):
        yield from frame.otherwise()
    if frame.format == "AVIF" and crop_of(file, frame.size):
        yield with_browsers_alpha(frame, file) if frame.mode == "RGBA" else frame
    if has_unsaid_alpha(frame, file):
        yield from (frame.convert("RGB"), frame)  # as browsers show it on black, and as others do
    if _is_indexed(frame, marks):
        beyond = len(marks.palette) // 3
        indices = pil.frombytes("L", frame.size, frame.tobytes())
        if beyond > 0 and any(indices.histogram()[beyond:]):
            yield _of_palette(frame, marks, beyond=b"\0\0\0\xff")


def has_unsaid_alpha(frame: pil.Image, file: bytes) -> bool:
    """Whether a WebP's frame has alpha that its header does not say. Alpha over black alone is the same either way."""
    if frame.format != "WEBP" or frame.mode != "RGBA" or not is_opaque(file):
        return False
    laid = pil.alpha_composite(pil.new("RGBA", frame.size, "black"), frame).convert("RGB")
    return ImageChops.difference(laid, frame.convert("RGB")).getbbox() is not None


def _lightened(frame: pil.Image) -> pil.Image:
    """On white, as browsers lay it there: they take its levels for those that were multiplied by the alpha."""
    missing = ImageChops.invert(frame.getchannel("A"))
    return ImageChops.add(frame.convert("RGB"), pil.merge("RGB", [missing] * 3))


def _is_indexed(frame: pil.Image, marks: Marks) -> bool:
    return frame.format == "PNG" and frame.mode == "P" and marks.colour == PALETTE


def _of_palette(frame: pil.Image, marks: Marks, beyond: bytes = b"") -> pil.Image:
    """`beyond`: RGBA of the indices beyond the palette. A browser gives them the last colour, if there is one."""
    count = min(256, len(marks.palette) // 3)
    alphas = (marks.clear if len(marks.clear) <= 256 else b"")[:count].ljust(count, b"\xff")
    colours = [marks.palette[3 * index : 3 * index + 3] + alphas[index : index + 1] for index in range(count)]
    colours += [beyond or (colours or [bytes(4)])[-1]] * (256 - count)
    indexed = pil.frombytes("P", frame.size, frame.tobytes())
    indexed.putpalette(b"".join(colours), "RGBA")
    return indexed.convert("RGBA" if marks.clear or not count else "RGB")


def _without_clear(frame: pil.Image, file: bytes, marks: Marks) -> pil.Image:
    """All samples of the one clear colour, and no others, are transparent."""
    count = 1 if marks.colour == GREY else 3
    if len(marks.clear) < 2 * count:
        return frame.convert("RGB")
    wanted = struct.unpack_from(f">{count}H", marks.clear)
    if marks.depth == 16:
        high, low = _halves(frame) if marks.colour == GREY else (frame, _low_bytes(file, frame))
        parts = [*high.split(), *low.split()]
        values = [value >> 8 for value in wanted] + [value & 255 for value in wanted]
    else:
        high = frame.convert("L" if marks.colour == GREY else "RGB")
        parts = list(high.split())
        values = [_scaled(value & 255, marks.depth) for value in wanted]
    shown = reduce(ImageChops.lighter, (_unlike(part, value) for part, value in zip(parts, values, strict=True)))
    return pil.merge("RGBA", [*(high.split() * 3)[:3], shown])


def _scaled(value: int, depth: int) -> int:
    """The level of a sample. Beyond 255 where the depth has no such sample."""
    most = (1 << depth) - 1
    return value * 255 // most if value <= most else 256


def _unlike(band: pil.Image, level: int) -> pil.Image:
    return band.point([0 if each == level else 255 for each in range(256)])


def _halves(frame: pil.Image) -> Sequence[pil.Image]:
    """The upper and the lower bytes of a grey image of 16 bits."""
    low, high = pil.frombytes("LA", frame.size, frame.tobytes()).split()
    return high, low


def _low_bytes(file: bytes, frame: pil.Image) -> pil.Image:
    """The lower bytes of an RGB image of 16 bits, of which Pillow keeps the upper ones."""
    again = pil.open(BytesIO(file), formats=["PNG"])
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
    try:
        again.load()
    except Exception:  # noqa: BLE001  a file that is cut: what is there counts
        again.tile = []
    return again if again.size == frame.size else frame
