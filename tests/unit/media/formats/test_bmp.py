"""BMP files are shown as browsers show them, and judged a second time where other viewers differ."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media.decoding import decode
from moderation.settings import MediaSettings
from moderation.types import Reason
from tests.browser.writing import bmp
from tests.browser.writing.bmp import V4, a_bmp, fields, rle8, rows
from tests.browser.writing.pictures import a_scene, samples

SIZE = (60, 40)
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def read(file: bytes) -> tuple[list[pil.Image], Reason | None]:
    pictures: list[pil.Image] = []
    try:
        pictures.extend(decode(file, MediaSettings()))
    except PostError as error:
        return pictures, error.reason
    return pictures, None


@pytest.mark.parametrize("masks", [(0x3FF00000, 0xFFC00, 0x3FF), (0xFF, 0xFF00, 0xFF0000), (0xF80000, 0x7C00, 0x3E)])
def test_any_masks_are_read(masks: tuple[int, ...]) -> None:
    file = a_bmp(rows(fields(samples(a_scene(*SIZE), 8), masks), 32), SIZE, 32, compression=bmp.BITFIELDS, masks=masks)
    ((picture,), _) = read(file)
    assert np.abs(np.asarray(picture, int) - np.asarray(a_scene(*SIZE), int)).max() <= 8


def test_alpha_is_heeded_and_what_it_hides_is_judged() -> None:
    """Browsers show nothing of a picture whose alpha is 0; others show it all."""
    pixels = fields(samples(a_scene(*SIZE), 8), MASKS[:3])
    file = a_bmp(rows(pixels, 32), SIZE, 32, header=V4, compression=bmp.BITFIELDS, masks=MASKS)
    (light, dark, stored), _ = read(file)
    assert (light.getextrema(), dark.getextrema()) == (((255, 255),) * 3, ((0, 0),) * 3)
    assert np.array_equal(np.asarray(stored), np.asarray(a_scene(*SIZE)))


@pytest.mark.parametrize("top_down", [False, True])
def test_what_compressed_data_leaves_out_is_black_and_for_others_white(top_down: bool) -> None:
    code = b"\x3c\1\0\0\x10\1\0\0\0\1"
    colours = [[0, 255, 0], [255, 0, 0]]
    file = a_bmp(code, SIZE, 8, compression=bmp.RLE8, colours=colours, top_down=top_down)
    (browser, other), _ = read(file)
    first = 0 if top_down else 39
    assert [browser.getpixel((50, y)) for y in (first, 20)] == [(255, 0, 0), (0, 0, 0)]
    assert [other.getpixel((50, y)) for y in (first, 20)] == [(255, 0, 0), (255, 255, 255)]


def test_of_a_cut_file_the_rows_that_are_there_are_judged() -> None:
    noise = np.asarray(pil.effect_noise(SIZE, 60).convert("RGB"))
    whole = a_bmp(rows(noise, 24), SIZE, 24)
    (picture, *_), reason = read(whole[: len(whole) // 2])
    assert reason is Reason.IMAGE_CORRUPT
    assert np.array_equal(np.asarray(picture)[25:], noise[25:])
    assert len(np.unique(np.asarray(picture)[:15])) == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [(14, 13), (14, 0), (14, 0xFFFFFFFF), (18, 0), (18, 0x80000000), (22, 0), (28, 3), (28, 64), (30, 5), (30, 77)],
)
def test_what_is_no_bmp_that_browsers_show_has_a_reason(place: int, value: int) -> None:
    file = bytearray(a_bmp(rows(samples(a_scene(*SIZE), 8), 24), SIZE, 24))
    struct.pack_into("<H" if place == 28 else "<I", file, place, value)
    assert read(bytes(file)) == ([], Reason.IMAGE_UNSUPPORTED)


@given(st.binary(max_size=400), st.sampled_from(["RLE8", "RLE4"]), st.integers(1, 40), st.integers(1, 40))
def test_any_compressed_data_gives_pictures_or_a_reason(data: bytes, kind: str, width: int, height: int) -> None:
    bits, compression = (8, bmp.RLE8) if kind == "RLE8" else (4, bmp.RLE4)
    pictures, reason = read(a_bmp(data, (width, height), bits, compression=compression, colours=[[9, 9, 9]] * 3))
    assert pictures or reason is Reason.IMAGE_CORRUPT
    assert all((picture.mode, picture.size) == ("RGB", (width, height)) for picture in pictures)


def test_compressed_data_is_read_in_bounded_time() -> None:
    """Each of the smallest codes is one step: the largest file takes seconds, and no more memory than its picture."""
    (picture, *_), _ = read(
        a_bmp(b"\0\2\0\0" * 250_000 + rle8(np.ones(SIZE[::-1], int)), SIZE, 8, compression=bmp.RLE8)
    )
    assert picture.size == SIZE
