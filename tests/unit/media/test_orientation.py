"""A picture is turned as browsers turn it, and judged a second time where other viewers turn it otherwise."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image as pil

from moderation.media.decoding import decode, decoded_bytes
from moderation.media.formats.png import marks_of
from moderation.media.orientation import turns_of
from moderation.media.pixels import PIXEL_BYTES
from moderation.settings import MediaSettings
from tests.browser.corpus.orientation import with_exif
from tests.browser.writing.pictures import a_scene, samples
from tests.browser.writing.png import RGB, a_png, chunk
from tests.browser.writing.saved import exif_of, saved, segment, with_segments, xmp_of

SCENE = a_scene(60, 40)
UPRIGHT, TURNED = (60, 40), (40, 60)
JPEG = saved(SCENE, "JPEG")


def sizes(file: bytes) -> list[tuple[int, int]]:
    return [picture.size for picture in decode(file, MediaSettings())]


def a_png_with(*chunks: bytes) -> bytes:
    return a_png(samples(SCENE, 8), RGB, 8, chunks)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (with_exif(JPEG, exif_of(6)), [TURNED]),
        (with_exif(JPEG, exif_of(6, big=False)), [TURNED]),
        (with_exif(JPEG, exif_of(1)), [UPRIGHT]),
        (with_exif(JPEG, exif_of(6, kind=4)), [UPRIGHT, TURNED]),
        (with_segments(JPEG, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of(6))), [UPRIGHT, TURNED]),
        (a_png_with(chunk(b"eXIf", exif_of(6))), [TURNED]),
        (a_png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of(6))), [UPRIGHT, TURNED]),
        (saved(SCENE, "WEBP", exif=exif_of(6)), [UPRIGHT, TURNED]),
        (saved(SCENE, "WEBP", exif=exif_of(1)), [UPRIGHT]),
        (saved(SCENE, "AVIF", exif=exif_of(6)), [TURNED]),
    ],
)
def test_the_browsers_turn_comes_first(file: bytes, shown: list[tuple[int, int]]) -> None:
    assert sizes(file) == shown
    assert decoded_bytes(file, MediaSettings()) >= PIXEL_BYTES * 60 * 40 * (4 + len(shown))


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_is_the_one_that_exif_means(turn: int) -> None:
    """Held against Pillow, which has all eight of them."""
    from PIL import ImageOps

    exif = pil.Exif()
    exif[0x0112] = turn
    file = a_png_with(chunk(b"eXIf", exif_of(turn)))
    (picture,) = decode(file, MediaSettings())
    stored = SCENE.copy()
    stored.info["exif"] = exif.tobytes()
    assert np.array_equal(np.asarray(picture), np.asarray(ImageOps.exif_transpose(stored)))


def test_turns_are_known_before_anything_is_decoded() -> None:
    """A header of a few bytes may announce a picture that takes seconds."""
    file = a_png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of(6)))
    with pil.open(BytesIO(file)) as image:
        assert turns_of(image, marks_of(file)) == (None, pil.Transpose.ROTATE_270)
        assert image.tile
