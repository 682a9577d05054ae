"""Colours are what a browser shows. What is stored is a view of its own where it is another picture."""

from __future__ import annotations

import time
import zlib
from io import BytesIO
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from PIL import ImageCms, ImageFilter

from moderation.errors import PostError
from moderation.media.colours.chunks import MAX_PROFILE_BYTES
from moderation.media.colours.colour import colour_of, shown, visibly_differs
from moderation.media.decoding import decode
from moderation.settings import MediaSettings
from moderation.types import Reason
from tests.support import icc_profiles as icc
from tests.support.coloured import (
    EXCHANGED_XY,
    a_chart,
    a_file,
    a_jpeg,
    a_png,
    chrm,
    chunk,
    cicp,
    gama,
    iccp,
    segment,
    srgb,
    writing_in_the_lowest_bit,
)

CHART = a_chart()
LIMITS = MediaSettings()
EXCHANGED = icc.rgb(icc.EXCHANGED)
# The colours of a test chart for cameras: skin, sky, leaves, a flower, and the strongest paints (sRGB).
NATURAL = [
    *((115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170)),
    *((214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46)),
    *((56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161)),
    *((243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52)),
]
DECEPTIONS = {
    "gamma 1000": a_png(CHART, gama(1_000)),
    "gamma 10000": a_png(CHART, gama(10_000)),
    "gamma 100000": a_png(CHART, gama(100_000)),
    "gamma 400000": a_png(CHART, gama(400_000)),
    "exchanged by cHRM": a_png(CHART, gama(45_455), chrm(EXCHANGED_XY)),
    "exchanged by a profile": a_png(CHART, iccp(EXCHANGED)),
    "exchanged in a JPEG": a_file(CHART, "JPEG", EXCHANGED),
    "exchanged in a WebP": a_file(CHART, "WEBP", EXCHANGED),
    "power of 22": a_file(CHART, "JPEG", icc.rgb(icc.SRGB, icc.gamma(22))),
    "negative": a_file(CHART, "JPEG", icc.inverted_table()),
    "PQ": a_png(CHART, cicp(1, 16)),
    "linear by cICP": a_png(CHART, cicp(1, 8)),
    "lowest bit": a_png(writing_in_the_lowest_bit(), iccp(icc.lowest_bit())),
}


def seen(file: bytes) -> list[pil.Image]:
    return list(decode(file, LIMITS))


def first(file: bytes) -> list[tuple[int, ...]]:
    """The colours of a picture of few pixels, as browsers show it."""
    (picture, *_) = seen(file)
    return [tuple(pixel) for pixel in np.asarray(picture)[0].tolist()]


def a_photograph(profile: bytes, seed: int) -> bytes:
    """Soft areas of natural colours, grain, and small things in the strongest of them, kept in a wide gamut."""
    random = Random(seed)
    areas = pil.new("RGB", (6, 4))
    areas.putdata(random.sample(NATURAL, 24))
    picture = areas.resize((384, 256), pil.Resampling.BICUBIC)
    for _ in range(40):
        box = (x := random.randrange(370), y := random.randrange(240), x + 14, y + 14)
        picture.paste(random.choice(NATURAL), box)
    grain = pil.effect_noise(picture.size, 24).filter(ImageFilter.GaussianBlur(0.6))
    picture = pil.blend(picture, pil.merge("RGB", [grain] * 3), 0.06)
    to, of = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    stored = ImageCms.profileToProfile(picture, of, to, outputMode="RGB")
    assert stored is not None
    return a_file(stored, "JPEG", profile, quality=90)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "profile", [icc.rgb(icc.DISPLAY_P3), icc.rgb(icc.ADOBE_RGB, icc.gamma(2.19921875))], ids=["p3", "adobe"]
)
def test_a_photograph_of_a_wide_gamut_is_one_picture(profile: bytes, seed: int) -> None:
    file = a_photograph(profile, seed)
    assert colour_of(file, pil.open(BytesIO(file))) is not None
    assert len(seen(file)) == 1


@pytest.mark.parametrize("name", DECEPTIONS)
def test_another_picture_is_judged_as_browsers_show_it_and_as_stored(name: str) -> None:
    browsers, stored = seen(DECEPTIONS[name])
    plain = pil.open(BytesIO(DECEPTIONS[name])).convert("RGB")
    assert np.array_equal(np.asarray(stored), np.asarray(plain))
    assert visibly_differs(browsers, stored)


def test_writing_of_which_browsers_show_nothing_is_judged() -> None:
    """Thin letters in green on red: by this profile, all is one colour."""
    flat = icc.rgb(icc.SRGB, icc.table([0, 0]), icc.table([0, 0]), icc.gamma(2.2))
    page = pil.new("RGB", (160, 120), (200, 0, 90))
    page.paste((0, 200, 90), mask=writing_in_the_lowest_bit(120).getchannel(0).point([255, 0] * 128).resize((160, 120)))
    browsers, stored = seen(a_png(page, iccp(flat)))
    assert len(set(browsers.get_flattened_data())) == 1
    assert np.array_equal(np.asarray(stored), np.asarray(page))


def test_what_is_shown_of_writing_in_the_lowest_bits_is_black_and_white() -> None:
    picture = writing_in_the_lowest_bit(400)
    expected = np.asarray(picture.point([255 * (level % 2) for level in range(256)] * 3)).astype(int)
    for profile in (icc.lowest_bit(), icc.lowest_bit_table()):
        browsers = np.asarray(seen(a_png(picture, iccp(profile)))[0]).astype(int)
        assert np.abs(browsers - expected).max() <= 9


def test_code_points_stand_before_a_profile_and_it_before_srgb_and_gamma() -> None:
    red = pil.new("RGB", (2, 1), (188, 0, 0))
    assert first(a_png(red, gama(100_000)))[0] == (223, 0, 0)
    assert first(a_png(red, gama(100_000), srgb()))[0] == (188, 0, 0)
    assert first(a_png(red, gama(100_000), srgb(), iccp(EXCHANGED)))[0] == (0, 188, 0)
    assert first(a_png(red, gama(100_000), srgb(), iccp(EXCHANGED), cicp(1, 8)))[0] == (223, 0, 0)


def test_what_viewers_show_that_know_no_code_points_is_judged() -> None:
    """A browser shows the first, older viewers the picture by its profile, and others the samples."""
    exchanged = np.asarray(CHART)[..., [1, 0, 2]].astype(int)
    for file, expected in (
        (a_png(CHART, cicp(1, 13), iccp(EXCHANGED)), [np.asarray(CHART), exchanged]),
        (a_png(CHART, cicp(1, 8), iccp(EXCHANGED)), [None, exchanged, np.asarray(CHART)]),
        (a_png(CHART, iccp(icc.rgb(icc.EXCHANGED, cicp=icc.code_points(1, 13)))), [np.asarray(CHART), exchanged]),
    ):
        views = seen(file)
        assert len(views) == len(expected)
        for view, right in zip(views, expected, strict=True):
            assert right is None or np.abs(np.asarray(view).astype(int) - right).max() <= 1


def test_a_broken_chunk_counts_as_not_there() -> None:
    red = pil.new("RGB", (2, 1), (188, 0, 0))
    broken = chunk(b"cICP", bytes([1, 8, 0, 1]), checksum=7)
    assert first(a_png(red, broken, iccp(EXCHANGED)))[0] == (0, 188, 0)
    assert first(a_png(red, chunk(b"iCCP", b"p\0\0not zlib"), gama(100_000)))[0] == (223, 0, 0)


@pytest.mark.parametrize(
    "file",
    [
        a_file(CHART, "JPEG"),
        a_file(CHART, "JPEG", icc.rgb()),
        a_file(CHART, "WEBP", icc.rgb(version=4)),
        a_file(CHART, "GIF"),
        a_png(CHART, srgb()),
        a_png(CHART, gama(45_455)),
        a_png(CHART, cicp(1, 13)),
    ],
)
def test_colours_of_srgb_cost_nothing(file: bytes) -> None:
    assert colour_of(file, pil.open(BytesIO(file))) is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"])
def test_frames_of_all_modes_are_shown(mode: str) -> None:
    file = a_png(CHART, gama(100_000))
    colour = colour_of(file, pil.open(BytesIO(file)))
    assert colour is not None
    frame = pil.new("I;16", (9, 9), 128 << 8) if mode == "I;16" else pil.new("RGBA", (9, 9), (128, 128, 128, 77))
    frame = (
        frame if mode == "I;16" else frame.convert("RGB").convert(mode) if mode in ("1", "P") else frame.convert(mode)
    )
    picture = shown(frame, colour)
    assert (picture.mode, picture.size) == ("RGBA" if mode in ("LA", "PA", "RGBA") else "RGB", (9, 9))
    if mode not in ("1", "P", "PA"):
        assert picture.getpixel((4, 4))[:3] == (188, 188, 188)  # type: ignore[index]
    if picture.mode == "RGBA":
        assert picture.getchannel("A").getextrema() == (77, 77)


def test_dark_light_of_16_bits_is_judged_as_browsers_show_it_and_exactly() -> None:
    """Browsers take the upper bytes: what is below one level of eight bits is black there."""
    dark = pil.new("I;16", (16, 16), 250)
    assert [picture.getpixel((0, 0)) for picture in seen(a_png(dark, gama(220_000)))] == [(0,) * 3, (80,) * 3]
    assert first(a_png(pil.new("I;16", (2, 1), 100), gama(100_000)))[0] == (0, 0, 0)


def test_alpha_stays_as_it_is() -> None:
    clear = pil.new("RGBA", (2, 1), (255, 0, 0, 0))
    assert first(a_png(clear, iccp(EXCHANGED)))[0] == (255, 255, 255)


def test_each_frame_of_an_animation_is_shown_in_its_colours() -> None:
    frames = [pil.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (100, 0, 200))]
    file = BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True, icc_profile=EXCHANGED)
    pixels = [picture.getpixel((4, 4)) for picture in seen(file.getvalue())]
    assert {(0, 200, 0), (200, 0, 0), (0, 100, 200)} <= set(pixels)


def test_the_base_picture_of_a_file_of_several_has_its_own_profile() -> None:
    file = BytesIO()
    base, gain = pil.new("RGB", (16, 16), (200, 0, 0)), pil.new("RGB", (16, 16), (90, 90, 90))
    base.save(file, "MPO", save_all=True, append_images=[gain], icc_profile=EXCHANGED, quality=95, subsampling=0)
    browsers, stored = seen(file.getvalue())
    assert np.abs(np.asarray(browsers)[8, 8].astype(int) - (0, 200, 0)).max() <= 3
    assert np.abs(np.asarray(stored)[8, 8].astype(int) - (200, 0, 0)).max() <= 3


def test_a_large_profile_of_a_png_is_applied() -> None:
    profile = icc.rgb(icc.EXCHANGED, junk=bytes(3 << 20))
    assert first(a_png(pil.new("RGB", (2, 1), (188, 0, 0)), iccp(profile)))[0] == (0, 188, 0)


def test_inks_become_what_their_profile_says() -> None:
    """The black of these inks is a dark grey. Without the profile it is black, which is no other picture."""
    black = pil.new("CMYK", (16, 16), (0, 0, 0, 255))
    (picture,) = seen(a_file(black, "JPEG", icc.inks()))
    assert 9 < np.asarray(picture).mean() < 17


def test_a_large_picture_is_shown_by_a_table_as_a_small_one_is() -> None:
    """Tables are applied quickly to many pixels, but for those with details that would be lost."""
    picture = a_chart(100)
    for profile in (icc.inverted_table(), icc.lowest_bit_table()):
        small, large = (
            np.asarray(seen(a_png(one, iccp(profile)))[0]).astype(int) for one in (picture, _tiled(picture))
        )
        assert np.abs(large[:100, :100] - small).max() <= 12


def _tiled(picture: pil.Image) -> pil.Image:
    large = pil.new("RGB", (picture.width * 6, picture.height * 6))
    for x in range(6):
        for y in range(6):
            large.paste(picture, (x * picture.width, y * picture.height))
    return large


@pytest.mark.parametrize("size", [MAX_PROFILE_BYTES + 1, 64 << 20])
def test_a_profile_that_is_too_large_is_refused_unread(size: int) -> None:
    packer = zlib.compressobj(1)
    body = b"p\0\0" + b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.compress(b"\0" * 9)
    file = a_png(pil.new("RGB", (8, 8)), chunk(b"iCCP", body + packer.flush()))
    begun = time.process_time()
    with pytest.raises(PostError) as caught:
        seen(file)
    assert caught.value.reason == Reason.IMAGE_TOO_LARGE
    assert time.process_time() - begun < 2


def test_a_profile_that_is_too_large_is_refused_in_a_jpeg() -> None:
    large = icc.rgb(icc.EXCHANGED, junk=bytes(MAX_PROFILE_BYTES))
    parts = [large[place : place + 65_000] for place in range(0, len(large), 65_000)]
    file = a_jpeg(CHART, *(segment(number + 1, len(parts), part) for number, part in enumerate(parts)))
    with pytest.raises(PostError) as caught:
        seen(file)
    assert caught.value.reason == Reason.IMAGE_TOO_LARGE


def test_a_file_of_nothing_but_marks_takes_no_time() -> None:
    image = pil.new("RGB", (8, 8))
    image.format = "JPEG"
    begun = time.process_time()
    assert colour_of(b"\xff\xd8" + b"\xff\x00" * 5_000_000, image) is None
    assert time.process_time() - begun < 1


def test_a_table_that_cannot_be_applied_is_refused() -> None:
    beyond = b"mAB \0\0\0\0\3\3\0\0" + (32).to_bytes(4) + bytes(16) + b"xxxx" * 5
    with pytest.raises(PostError) as caught:
        seen(a_png(CHART, iccp(icc.profile({b"A2B0": beyond}, pcs=b"Lab "))))
    assert caught.value.reason == Reason.IMAGE_UNSUPPORTED


FILES = [a_png(pil.new("RGB", (8, 8), "red"), iccp(profile)) for profile in (EXCHANGED, icc.inverted_table())]
PLACES = st.integers(0, 1 << 20)


@given(st.sampled_from([EXCHANGED, icc.inverted_table(), icc.rgb(cicp=icc.code_points(9, 16))]), st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_of_a_profile_leave_a_picture_or_a_reason(profile: bytes, data: st.DataObject) -> None:
    changed = bytearray(profile)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(PLACES) % min(len(changed), 600)] = data.draw(st.integers(0, 255))
    try:
        assert seen(a_png(pil.new("RGB", (8, 8), "red"), iccp(bytes(changed))))
    except PostError as error:
        assert error.reason == Reason.IMAGE_UNSUPPORTED


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "AVIF", "BMP"]), st.binary(max_size=300), st.integers(0, 300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_of_a_file_say_something_or_nothing(format: str, junk: bytes, place: int) -> None:
    whole = {"PNG": FILES[0], "JPEG": a_file(pil.new("RGB", (8, 8)), "JPEG", EXCHANGED)}.get(format, b"")
    image = pil.new("RGB", (8, 8))
    image.format = format
    colour_of(whole[:place] + junk + whole[place:], image)
