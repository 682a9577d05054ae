"""Decodes image files to the pictures that users see. All bytes are untrusted.

Pictures are upright. A transparent picture is shown on white and on black. An animation becomes several frames. A thin
picture gets a margin, because models refuse extreme shapes or scale them away. What cannot be shown as users would see
it has a Reason.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from PIL import Image as pil
from PIL import UnidentifiedImageError

from moderation.errors import PostError
from moderation.media.colours.colour import Colour, colours_of, says_colours, shown, visibly_differs
from moderation.media.formats.avif import with_first_brand
from moderation.media.formats.mending import Opened, opened
from moderation.media.formats.png import MARK, PALETTE, Marks, marks_of, without_texts
from moderation.media.formats.samples import eight_bits, otherwise
from moderation.media.formats.webp_canvas import Canvas, canvas_of
from moderation.media.frames import is_animated, judged
from moderation.media.limits import Spent, check_sides, check_size, within
from moderation.media.orientation import turns_of
from moderation.media.pixels import PIXEL_BYTES
from moderation.media.views import padded_size, views_of
from moderation.types import Detail, Reason

if TYPE_CHECKING:  # pydantic is not needed to decode, and a decoder process starts faster without it
    from moderation.settings import MediaSettings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
HEAD_BYTES = 1_024  # in which a file says what it is
OTHER_MARKS = (b"ftyp", b"<svg", b"\xff\x0a", b"JXL ")  # AVIF and HEIC, SVG, JPEG XL
SVG_BEGINNINGS = (b"<?xml", b"<!--", b"<!DOCTYPE", b"\x1f\x8b")  # before a <svg that is far behind, or compressed
WORKING_BYTES = 36  # a pixel, on the way from its file to RGB. A decoder gets no more memory: WebP with alpha takes 33
KEPT_BYTES = PIXEL_BYTES  # a pixel of each frame of an animation, while the others are looked at

# Of Pillow's own limit, at least. Pillow warns at it and raises at twice as many, before it takes memory for a frame: a
# GIF of a hundred bytes may ask for gigabytes when it is opened. `check_size` enforces our limit before decoding.
PILLOWS_PIXELS = 50_000_000
warnings.filterwarnings("ignore", category=pil.DecompressionBombWarning)
# Pillow warns about metadata in untrusted files. An operator cannot act on these warnings.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def decoded_bytes(file: bytes, settings: MediaSettings) -> int:
    """Estimates from the file's header the bytes that `decode` takes; 0 if the file will be refused."""
    try:
        if canvas := canvas_of(file):
            return _webp_bytes(canvas, settings)
        return _bytes_of(_opened(_readable(file), settings), file, settings)
    except Exception:  # noqa: BLE001  `decode` fails in the same way and gives a reason
        return 0


def _bytes_of(found: Opened, file: bytes, settings: MediaSettings) -> int:
    image = found.image
    frames = _frames(settings) if is_animated(image) else len(found.files)
    marks = marks_of(found.file) if image.format == "PNG" else Marks()
    unpaletted = image.mode == "P" and image.palette is None  # Pillow asserts that there is one
    grounds = 2 if marks.clear or (not unpaletted and image.has_transparency_data) else 1
    others = {"BMP": 2, "AVIF": 1}.get(image.format or "", int(marks.colour == PALETTE))
    others += (2 + (image.mode == "I;16")) * says_colours(file, image)
    views = grounds + len(turns_of(image, marks)) - 1 + others
    return _estimate(image.size, views, frames, settings, animated=is_animated(image))


def _webp_bytes(canvas: Canvas, settings: MediaSettings) -> int:
    """The same, before anything is taken for its pixels. Most it could be: transparent, turned, with a profile."""
    check_sides(canvas.size, settings)
    frames = _frames(settings) if canvas.animated else 1
    return _estimate(canvas.size, 6, frames, settings, animated=canvas.animated)


def _estimate(size: tuple[int, int], views: int, frames: int, settings: MediaSettings, *, animated: bool) -> int:
    """Bytes for frames of this size on their way from the file, and for the views of each, margins included."""
    working = WORKING_BYTES + (KEPT_BYTES * frames if animated else 0)
    return math.prod(size) * working + math.prod(padded_size(size, settings)) * PIXEL_BYTES * views * frames


def _frames(settings: MediaSettings) -> int:
    """Of an animation, at most: an APNG may have a still picture that is none of its frames."""
    return 1 + settings.max_frames


def decode(
    file: bytes,
    settings: MediaSettings,
    spent: Spent | None = None,
    announce: Callable[[int], None] = lambda _: None,
) -> Iterator[pil.Image]:
    """Yields the pictures of one image file that users see: RGB, upright, at most `max_frames` frames.

    A transparent frame becomes two pictures. `spent`: by the post's earlier images; this one is added to it.
    `announce` is called with what `decoded_bytes` returns, before memory is taken for the pixels.

    Raises PostError where the file cannot be read any further: IMAGE_TOO_LARGE, IMAGE_SHAPE, IMAGE_UNSUPPORTED or
    IMAGE_CORRUPT; and FRAMES_UNSEEN where frames were left out. The pictures before it are good.
    """
    if len(file) > settings.max_bytes:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the image is larger than {settings.max_bytes} bytes")
    try:
        if canvas := canvas_of(file):
            announce(_webp_bytes(canvas, settings))
        readable = _readable(file)
        found = _opened(readable, settings)
        if canvas is None:
            announce(_bytes_of(found, file, settings))
        colours = colours_of(file, found.image)
        spent = spent or Spent()
        yield from within(_views(found, readable, colours, settings, spent), settings.max_post_pixels, spent)
    except PostError:
        raise
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise PostError(Reason.IMAGE_TOO_LARGE, "the image has more pixels than the limits allow") from None
    except UnidentifiedImageError:
        problem = f"the image must be one of {', '.join(FORMATS)}"
        detail = None if _is_known(file) else Detail.NO_PICTURE
        raise PostError(Reason.IMAGE_UNSUPPORTED, problem, detail=detail) from None
    except MemoryError:
        text = "decoding the image takes more memory than its header announces"
        raise PostError(Reason.IMAGE_TOO_LARGE, text, detail=Detail.MEMORY) from None
    except Exception as error:  # noqa: BLE001  decoders raise any error on hostile bytes: this file is at fault
        raise PostError(Reason.IMAGE_CORRUPT, f"the image cannot be decoded ({type(error).__name__})") from None


def _opened(file: bytes, settings: MediaSettings) -> Opened:
    """Opens a file whose size is within the limits. Raises PostError, or what Pillow raises."""
    pil.MAX_IMAGE_PIXELS = max(PILLOWS_PIXELS, settings.max_pixels)
    found = opened(file, FORMATS)
    check_size(found.image, settings)
    return found


def _readable(file: bytes) -> bytes:
    """The file as Pillow reads it rightly."""
    if file.startswith(MARK):
        return without_texts(file)
    return with_first_brand(file) if file[4:8] == b"ftyp" else file


def _views(
    found: Opened, file: bytes, colours: Sequence[Colour | None], settings: MediaSettings, spent: Spent
) -> Iterator[pil.Image]:
    marks = marks_of(found.file) if found.image.format == "PNG" else Marks()
    turns = turns_of(found.image, marks)
    for frame in judged(file, found, FORMATS, settings, spent):
        stored = eight_bits(frame, found.file, marks)
        ways = [(stored, colour) for colour in colours]
        if frame.mode == "I;16" and not marks.clear:  # of which browsers take the upper bytes
            ways.append((frame, colours[0]))
        seen: list[pil.Image] = []
        for samples, colour in ways:
            levels = stored if colour is None else shown(samples, colour)
            if all(visibly_differs(levels, one) for one in seen):
                seen.append(levels)
        read = otherwise(frame, found.file, marks)
        others = read if colours[0] is None else (shown(other, colours[0]) for other in read)
        yield from views_of(seen[0], chain(seen[1:], others), turns, settings)


def _is_known(file: bytes) -> bool:
    """Whether the bytes begin as an image file of some format, which a viewer may show."""
    pil.init()  # the rules of all formats, of which none is decoded here
    head = file[:HEAD_BYTES]
    for _, accept in pil.OPEN.values():
        with suppress(Exception):  # a rule that fails on hostile bytes
            if accept and accept(head):
                return True
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # SVG may be in UTF-16
    return any(mark in head or mark in text for mark in OTHER_MARKS) or text.startswith(SVG_BEGINNINGS)
