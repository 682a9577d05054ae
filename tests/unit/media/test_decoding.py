"""What users see is what is judged. A file that cannot be read is refused with a reason."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media import decoding
from moderation.media.decoding import decoded_bytes
from moderation.media.limits import Spent
from moderation.media.pixels import PIXEL_BYTES
from moderation.settings import MediaSettings
from moderation.types import Detail, Reason
from tests.support.builders import a_file, an_image

LIMITS = MediaSettings()


def decode(file: bytes, limits: MediaSettings = LIMITS, pixels: int = 0) -> tuple[pil.Image, ...]:
    return tuple(decoding.decode(file, limits, Spent(pixels)))


def refused(file: bytes, limits: MediaSettings = LIMITS) -> Reason:
    with pytest.raises(PostError) as caught:
        decode(file, limits)
    return caught.value.reason


def pixel(picture: pil.Image) -> tuple[int, ...]:
    return tuple(np.asarray(picture)[0, 0].tolist())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"])
def test_the_formats_decode_to_rgb(format: str) -> None:
    (picture,) = decode(a_file(an_image(), format), LIMITS)
    assert (picture.mode, picture.size) == ("RGB", (64, 48))
    assert np.allclose(pixel(picture), (200, 30, 30), atol=6)


def test_a_picture_is_turned_upright() -> None:
    exif = pil.Exif()
    exif[0x0112] = 6
    (picture,) = decode(a_file(an_image(64, 48), "JPEG", exif=exif), LIMITS)
    assert picture.size == (48, 64)


def test_broken_exif_leaves_the_picture_as_stored() -> None:
    (picture,) = decode(a_file(an_image(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), LIMITS)
    assert picture.size == (64, 48)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = pil.fromarray(np.full((8, 8), 0x4000, np.uint16))
    (picture,) = decode(a_file(grey), LIMITS)
    assert pixel(picture) == (64, 64, 64)


def test_transparency_is_judged_on_white_and_on_black() -> None:
    hidden = an_image(colour=(255, 255, 255, 0), mode="RGBA")
    hidden.putpixel((0, 0), (255, 255, 255, 255))  # white writing: a reader with a dark screen sees it
    light, dark = decode(a_file(hidden), LIMITS)
    assert np.asarray(light).min() == 255
    assert pixel(dark) == (255, 255, 255)
    assert np.asarray(dark)[1, 1].tolist() == [0, 0, 0]


def test_an_opaque_alpha_channel_is_one_picture() -> None:
    assert len(decode(a_file(an_image(colour=(1, 2, 3, 255), mode="RGBA")), LIMITS)) == 1


def test_cmyk_and_palettes_become_rgb() -> None:
    assert decode(a_file(an_image(colour=(0, 255, 255, 0), mode="CMYK"), "JPEG"), LIMITS)[0].mode == "RGB"
    assert decode(a_file(an_image().convert("P")), LIMITS)[0].mode == "RGB"


def a_png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", Reason.IMAGE_UNSUPPORTED),
        (b"<svg/>", Reason.IMAGE_UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0", Reason.IMAGE_UNSUPPORTED),
        (a_file(format="TIFF"), Reason.IMAGE_UNSUPPORTED),
        (a_file(format="JPEG")[:400], Reason.IMAGE_CORRUPT),
        (a_file()[:60], Reason.IMAGE_CORRUPT),
        (a_png_header(100_000, 100_000), Reason.IMAGE_TOO_LARGE),
        (a_png_header(1, 19_999), Reason.IMAGE_SHAPE),
        (a_png_header(1, 20_001), Reason.IMAGE_TOO_LARGE),
        (a_png_header(0, 5), Reason.IMAGE_UNSUPPORTED),
    ],
)
def test_a_bad_file_has_its_reason(file: bytes, reason: Reason) -> None:
    assert refused(file) is reason


def test_a_small_file_that_unpacks_to_a_hundred_megapixels_is_refused_before_it_is_decoded() -> None:
    bomb = a_file(pil.new("1", (10_000, 10_000)))
    assert len(bomb) < 20_000
    assert refused(bomb) is Reason.IMAGE_TOO_LARGE


def test_a_large_file_is_refused() -> None:
    assert refused(a_file(), MediaSettings(max_bytes=50)) is Reason.IMAGE_TOO_LARGE


def read(
    file: bytes, limits: MediaSettings = LIMITS, spent: Spent | None = None
) -> tuple[list[pil.Image], Reason | None]:
    """The pictures that were read, and why not more."""
    pictures: list[pil.Image] = []
    try:
        for picture in decoding.decode(file, limits, spent or Spent()):
            pictures.append(picture)
    except PostError as error:
        return pictures, error.reason
    return pictures, None


@pytest.mark.parametrize(("size", "padded"), [((600, 1), (600, 6)), ((1, 101), (2, 101)), ((5_000, 1), (5_000, 50))])
def test_a_thin_picture_lies_unscaled_on_a_ground(size: tuple[int, int], padded: tuple[int, int]) -> None:
    (picture,) = decode(a_file(an_image(*size, (200, 30, 30))))
    assert picture.size == padded
    colours = {colour: count for count, colour in picture.getcolors() or ()}
    assert colours == {(200, 30, 30): size[0] * size[1], (255, 255, 255): (padded[0] * padded[1] - size[0] * size[1])}


def test_a_thin_picture_that_shows_its_ground_has_a_margin_of_that_ground() -> None:
    grounds = decode(a_file(an_image(1, 101, (0, 0, 0, 0), "RGBA")))
    assert [picture.getcolors() for picture in grounds] == [[(202, (255, 255, 255))], [(202, (0, 0, 0))]]


def test_a_picture_within_the_aspect_has_no_margin() -> None:
    assert decode(a_file(an_image(100, 1)))[0].size == (100, 1)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"]))
def test_any_bytes_become_pictures_or_a_reason(data: st.DataObject, format: str) -> None:
    file = bytearray(a_file(an_image(16, 16), format))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        pictures = decode(bytes(file), LIMITS)
    except PostError as error:
        assert error.reason in (
            Reason.IMAGE_CORRUPT,
            Reason.IMAGE_UNSUPPORTED,
            Reason.IMAGE_TOO_LARGE,
            Reason.IMAGE_SHAPE,
        )
    else:
        assert all(picture.mode == "RGB" for picture in pictures)


def test_a_post_of_too_many_pixels_is_refused() -> None:
    limits = MediaSettings(max_post_pixels=2 * 64 * 48)
    assert len(decode(a_file(), limits, pixels=64 * 48)) == 1
    assert read(a_file(), limits, Spent(64 * 48 + 1)) == ([], Reason.IMAGE_TOO_LARGE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_the_bytes_of_decoding_are_estimated_beforehand(mode: str) -> None:
    file = a_file(an_image(300, 200).convert(mode))
    pictures = decode(file, LIMITS)
    held = sum(PIXEL_BYTES * picture.width * picture.height for picture in pictures)
    assert held < decoded_bytes(file, LIMITS) <= held + 40 * 300 * 200


@pytest.mark.parametrize("file", [b"", b"not a picture", a_file()[:20]])
def test_a_file_that_will_be_refused_reserves_no_bytes(file: bytes) -> None:
    assert decoded_bytes(file, LIMITS) == 0


@pytest.mark.parametrize(
    ("file", "detail"),
    [
        (b"x", Detail.NO_PICTURE),
        (b"hello", Detail.NO_PICTURE),
        (bytes(2_000), Detail.NO_PICTURE),
        (a_file(format="TIFF"), None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"\n<!--" + b" " * 2_000 + b"--><svg/>", None),
        ("\ufeff<svg/>".encode("utf-16-be"), None),
        (gzip.compress(b"<svg/>", mtime=0), None),
        (b"\0\0\0\x20ftypheic", None),
        (b"\xff\xd8\xff", None),
    ],
)
def test_bytes_that_no_viewer_shows_are_told_from_kinds_of_pictures(file: bytes, detail: Detail | None) -> None:
    """A picture of another kind may hide something, so it is REVIEW at least; other bytes count as on_error."""
    with pytest.raises(PostError) as caught:
        list(decode(file, MediaSettings()))
    problem = caught.value.problem
    assert (problem.reason, problem.detail, problem.limit) == (Reason.IMAGE_UNSUPPORTED, detail, detail is None)
