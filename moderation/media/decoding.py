"""Decodes image files to the pictures that users see. All bytes are untrusted.

Pictures are upright. A transparent picture is shown on white and on black. An animation becomes several frames. A file
that cannot be shown as users would see it is refused with a Reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO

from PIL import Image as pil
from PIL import ImageOps, UnidentifiedImageError

from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_FRAMES = 1_000  # of an animation; each must be decoded to reach the next
WORKING_BYTES = 12  # a pixel, on the way from its file to RGB: as stored, upright, with alpha
MAX_ANIMATED_PIXELS = 25  # times max_pixels, over all frames: some seconds of one core

# Pillow's own limit warns at one size and raises at another. `_check_size` enforces our limit before decoding.
pil.MAX_IMAGE_PIXELS = None
# Pillow warns about metadata in untrusted files. An operator cannot act on these warnings.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def decoded_bytes(file: bytes, settings: MediaSettings) -> int:
    """Estimates from the file's header the bytes that `decode` takes; 0 if the file will be refused."""
    try:
        with pil.open(BytesIO(file), formats=FORMATS) as image:
            _check_size(image, settings)
            frames = settings.max_frames if getattr(image, "is_animated", False) and image.format != "MPO" else 1
            each = 6 if image.has_transparency_data else 3  # two pictures or one, of RGB
            return image.width * image.height * (WORKING_BYTES + each * frames)
    except Exception:  # noqa: BLE001  `decode` fails in the same way and gives a reason
        return 0


def decode(file: bytes, settings: MediaSettings, *, pixels: int = 0) -> tuple[pil.Image, ...]:
    """Decodes one image file to the pictures that users see: RGB, upright, at most `max_frames` frames.

    A transparent frame becomes two pictures. `pixels`: pixels of the post's other images; all count towards
    max_post_pixels.

    Raises PostError: IMAGE_TOO_LARGE, IMAGE_UNSUPPORTED or IMAGE_CORRUPT.
    """
    if len(file) > settings.max_bytes:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the image is larger than {settings.max_bytes} bytes")
    try:
        with pil.open(BytesIO(file), formats=FORMATS) as image:
            _check_size(image, settings)
            return tuple(_frames(image, settings, pixels))
    except PostError:
        raise
    except UnidentifiedImageError:
        reason = Reason.IMAGE_UNSUPPORTED if file else Reason.IMAGE_CORRUPT
        raise PostError(reason, f"the image must be one of {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001  decoders raise any error on hostile bytes: this file is at fault
        raise PostError(Reason.IMAGE_CORRUPT, f"the image cannot be decoded ({type(error).__name__})") from None


def _check_size(image: pil.Image, settings: MediaSettings) -> None:
    """Raises PostError before anything is decoded: a header of a few bytes may announce gigabytes."""
    width, height = image.size
    too_large = (
        width * height > settings.max_pixels
        or max(width, height) > settings.max_side
        or max(width, height) > settings.max_aspect * min(width, height)
    )
    if too_large:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the image is {width} x {height} pixels, more than the limits allow")


def _frames(image: pil.Image, settings: MediaSettings, pixels: int) -> Iterator[pil.Image]:
    count = getattr(image, "n_frames", 1) if getattr(image, "is_animated", False) and image.format != "MPO" else 1
    if count > MAX_FRAMES or count * image.width * image.height > MAX_ANIMATED_PIXELS * settings.max_pixels:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the animation has {count} frames, more than the limits allow")
    wanted = min(count, settings.max_frames)
    for number in range(wanted):
        if count > 1:
            image.seek(number * (count - 1) // max(1, wanted - 1))
            _check_size(image, settings)  # a frame may be larger than the first
        image.load()
        for picture in _as_seen(image):
            pixels += picture.width * picture.height
            if pixels > settings.max_post_pixels:
                raise PostError(Reason.IMAGE_TOO_LARGE, f"the post has more than {settings.max_post_pixels} pixels")
            yield picture


def _as_seen(image: pil.Image) -> Iterator[pil.Image]:
    upright = _upright(image)
    if upright.mode == "I;16":  # convert() clips and does not scale: all but the darkest pixels turn white
        upright = upright.point(lambda value: value * (1 / 256), "L")
    elif upright.mode in ("I", "F"):
        raise PostError(Reason.IMAGE_UNSUPPORTED, f"the image's pixels are of mode {upright.mode}")
    if not upright.has_transparency_data:
        yield upright.convert("RGB")
        return
    layered = upright.convert("RGBA")
    opaque = layered.getchannel("A").getextrema() == (255, 255)
    for ground in ("white",) if opaque else ("white", "black"):  # users have light screens and dark ones
        yield pil.alpha_composite(pil.new("RGBA", layered.size, ground), layered).convert("RGB")


def _upright(image: pil.Image) -> pil.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  broken EXIF: viewers show such a picture as it is stored
        return image.copy()
