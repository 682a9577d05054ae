"""Samples mean what browsers take them for. tests/browser holds all of them against one."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media.decoding import decode
from moderation.media.formats.png import marks_of, without_texts
from moderation.settings import MediaSettings
from moderation.types import Reason
from tests.browser.writing import avif
from tests.browser.writing.pictures import a_scene
from tests.browser.writing.png import GREY, PALETTE, RGB, a_png, chunk, palette
from tests.browser.writing.saved import saved
from tests.browser.writing.webp import ALPHA, a_file, chunks_of, header

RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def pictures(file: bytes) -> list[pil.Image]:
    return list(decode(file, MediaSettings()))


def ends(picture: pil.Image) -> list[tuple[int, ...]]:
    """Its first and last pixel."""
    rows = np.asarray(picture)
    return [tuple(rows[0, 0].tolist()), tuple(rows[-1, -1].tolist())]


def halves(first: int, second: int, channels: int = 1) -> np.ndarray:
    samples = np.full((4, 4, channels), first)
    samples[2:] = second
    return samples


@pytest.mark.parametrize(("colour", "channels"), [(GREY, 1), (RGB, 3)])
def test_a_clear_colour_of_sixteen_bits_is_that_colour_alone(colour: int, channels: int) -> None:
    """Another one, whose upper byte is the same, is not: what is hidden so would be judged, and what is shown not."""
    mark = chunk(b"tRNS", struct.pack(">H", 0x1234) * channels)
    light, dark = pictures(a_png(halves(0x1234, 0x12FF, channels), colour, 16, [mark]))
    assert ends(light) == [WHITE, (0x12,) * 3]
    assert ends(dark) == [BLACK, (0x12,) * 3]


def test_a_clear_grey_of_few_bits_is_a_sample_and_not_a_level() -> None:
    light, dark = pictures(a_png(halves(1, 3), GREY, 2, [chunk(b"tRNS", struct.pack(">H", 1))]))
    assert (ends(light), ends(dark)) == ([WHITE, WHITE], [BLACK, WHITE])


def test_an_index_beyond_the_palette_is_shown_as_viewers_do() -> None:
    """Browsers take the last colour, others black."""
    browser, other = pictures(a_png(halves(0, 9), PALETTE, 8, [palette([RED, GREEN])]))
    assert (ends(browser), ends(other)) == ([RED, GREEN], [RED, BLACK])
    assert len(pictures(a_png(halves(0, 1), PALETTE, 8, [palette([RED, GREEN])]))) == 1


@pytest.mark.parametrize("name", ["interlace", "transparency", "exif", "icc_profile", "gamma"])
def test_a_text_is_not_taken_for_a_field_of_the_header(name: str) -> None:
    """Pillow keeps both under one name: such a file showed the model another picture than its readers."""
    plain = a_png(halves(10, 200, 3), RGB, 8)
    named = a_png(halves(10, 200, 3), RGB, 8, [chunk(b"tEXt", name.encode() + b"\0text")])
    assert [ends(picture) for picture in pictures(named)] == [ends(picture) for picture in pictures(plain)]


def test_texts_in_which_viewers_find_an_orientation_stay() -> None:
    turning, other = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<xmp/>"), chunk(b"tEXt", b"Title\0text")
    file = a_png(halves(0, 1), GREY, 8, [turning, other])
    assert without_texts(file) == a_png(halves(0, 1), GREY, 8, [turning])
    assert without_texts(file[:60]) == file[:60]


@pytest.mark.parametrize("cut", range(8, 70, 3))
def test_marks_are_read_up_to_where_the_file_breaks(cut: int) -> None:
    file = a_png(halves(0, 1), PALETTE, 4, [palette([RED, GREEN]), chunk(b"tRNS", b"\x01")])
    assert marks_of(file).clear == b"\x01"
    assert marks_of(file[:cut]).depth in (0, 4)
    assert len(marks_of(file[:20] + b"\xff" * 40).palette) == 0


def test_of_a_cropped_avif_the_part_and_the_whole_are_judged() -> None:
    """Browsers heed a crop in the corner alone; other viewers all of them, or none."""
    scene = a_scene(140, 100)
    for place, sizes in ((-20, [(100, 60), (140, 100)]), (0, [(140, 100)]), (90, [(140, 100)])):
        file = avif.a_file([avif.coded(scene, avif.cropped(100, 60, (place, 1), (place, 1)))])
        assert [picture.size for picture in pictures(file)] == sizes
    for numbers in ((0, 0, 0, 0, 0, 0, 0, 0), (100, 0, 60, 1, -20, 1, -20, 1), (100, 1, 60, 1, -20, 0, -20, 1)):
        crop = avif.box(b"clap", struct.pack(">IIIIiIiI", *numbers))
        assert [picture.size for picture in pictures(avif.a_file([avif.coded(scene, crop)]))] == [(140, 100)]


def test_the_alpha_of_an_avif_is_a_browsers() -> None:
    layered = pil.new("RGBA", (64, 64), (0, 0, 0, 64))
    light, dark = pictures(saved(layered, "AVIF", quality=100))
    assert [picture.getpixel((9, 9)) for picture in (light, dark)] == [(199, 199, 199), (0, 0, 0)]


def test_an_avif_is_read_whatever_name_it_has_first() -> None:
    """Browsers look at all of its names."""
    file = avif.a_file([avif.coded(a_scene(64, 64))])
    (plain,) = pictures(file)
    (renamed,) = pictures(file[:8] + b"heic" + file[12:])
    assert np.array_equal(np.asarray(renamed), np.asarray(plain))


def test_alpha_that_stands_before_its_palette_is_heeded_by_no_viewer() -> None:
    alpha = chunk(b"tRNS", bytes([0, 0]))
    assert len(pictures(a_png(halves(0, 1), PALETTE, 8, [alpha, palette([RED, GREEN])]))) == 1
    assert len(pictures(a_png(halves(0, 1), PALETTE, 8, [palette([RED, GREEN]), alpha]))) == 2


BARE = a_file(
    {
        b"VP8X": header(0, (8, 6)),
        b"VP8L": chunks_of(saved(pil.new("RGBA", (8, 6), (0, 0, 255, 0)), "WEBP", lossless=True, exact=True))[b"VP8L"],
    }
)


def test_alpha_that_the_header_of_a_webp_does_not_say_hides_nothing() -> None:
    """Clear blue. Browsers show it white on white, and blue on black; other viewers show nothing of it."""
    assert [ends(picture)[0] for picture in pictures(BARE)] == [WHITE, (0, 0, 255), WHITE]


def test_of_an_animated_webp_with_such_alpha_the_first_frame_is_judged() -> None:
    frame = pil.new("RGBA", (8, 6), (0, 0, 255, 77))
    file = saved(frame, "WEBP", lossless=True, save_all=True, append_images=[pil.new("RGBA", (8, 6), (9, 9, 9, 77))])
    assert file[20] & ALPHA
    decoding = decode(file[:20] + bytes([file[20] & ~ALPHA]) + file[21:], MediaSettings())
    assert [ends(next(decoding))[0] for _ in range(3)] == [(178, 178, 255), (0, 0, 255), (178, 178, 255)]
    with pytest.raises(PostError) as caught:
        next(decoding)
    assert caught.value.reason is Reason.IMAGE_CORRUPT


def test_an_animated_webp_without_alpha_has_one_view_for_each_frame() -> None:
    red, green = (pil.new("RGB", (8, 6), colour) for colour in (RED, GREEN))
    file = saved(red, "WEBP", lossless=True, save_all=True, append_images=[green])
    assert not file[20] & ALPHA
    assert [ends(picture)[0] for picture in pictures(file)] == [RED, GREEN]


def test_rows_that_the_data_of_a_png_lack_are_missing() -> None:
    """No chunk is cut, and the data have an end of their own."""
    pixels = np.full((8, 6, 3), 200)
    file = a_png(pixels, RGB, 8)
    few = zlib.compress((b"\0" + bytes([200] * 18)) * 5)
    begin, end = file.index(b"IDAT") - 4, len(file) - 12
    seen = decode(file[:begin] + chunk(b"IDAT", few) + file[end:], MediaSettings())
    assert ends(next(seen)) == [(200,) * 3, WHITE]
    with pytest.raises(PostError, match="missing"):
        next(seen)
    assert len(pictures(a_png(pixels * 0, RGB, 8))) == 1
