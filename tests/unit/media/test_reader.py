from __future__ import annotations

import asyncio
import os
import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from structlog.testing import capture_logs

from moderation.errors import ConfigError, DeviceError, PostError
from moderation.media.reader import LocalFiles, Media, decode, decoded_bytes, digest
from moderation.settings import MediaSettings
from moderation.types import Image, Reason
from tests.support.builders import a_file, a_post, an_image, inline

LIMITS = MediaSettings()


def refused(file: bytes, limits: MediaSettings = LIMITS) -> Reason:
    with pytest.raises(PostError) as caught:
        decode(file, limits)
    return caught.value.reason


def pixel(picture: pil.Image) -> tuple[int, ...]:
    return tuple(np.asarray(picture)[0, 0].tolist())


# What users see is what is judged


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
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


@pytest.mark.parametrize(("format", "frames", "judged"), [("GIF", 200, 4), ("WEBP", 3, 3), ("PNG", 7, 4)])
def test_an_animation_is_judged_by_frames_spread_from_first_to_last(format: str, frames: int, judged: int) -> None:
    images = [an_image(16, 16, (number % 256, 0, 255)) for number in range(frames)]
    file = BytesIO()
    images[0].save(file, format, save_all=True, append_images=images[1:], lossless=True)
    pictures = decode(file.getvalue(), LIMITS)
    assert len(pictures) == judged
    assert abs(pixel(pictures[0])[0] - 0) <= 3
    assert abs(pixel(pictures[-1])[0] - (frames - 1) % 256) <= 3


# What cannot be read is refused


def a_png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", Reason.IMAGE_CORRUPT),
        (b"<svg/>", Reason.IMAGE_UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0", Reason.IMAGE_UNSUPPORTED),
        (a_file(format="BMP"), Reason.IMAGE_UNSUPPORTED),
        (a_file(format="JPEG")[:400], Reason.IMAGE_CORRUPT),
        (a_file()[:60], Reason.IMAGE_CORRUPT),
        (a_png_header(100_000, 100_000), Reason.IMAGE_TOO_LARGE),
        (a_png_header(1, 19_999), Reason.IMAGE_TOO_LARGE),
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


def test_an_endless_animation_is_refused() -> None:
    images = [an_image(2, 2, (number % 256, number // 256, 0)) for number in range(1_100)]
    file = BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    assert refused(file.getvalue()) is Reason.IMAGE_TOO_LARGE


@settings(deadline=None, max_examples=150)
@given(data=st.data(), format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
def test_whatever_bytes_come_the_answer_is_pictures_or_a_reason(data: st.DataObject, format: str) -> None:
    file = bytearray(a_file(an_image(16, 16), format))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        pictures = decode(bytes(file), LIMITS)
    except PostError as error:
        assert error.reason in (Reason.IMAGE_CORRUPT, Reason.IMAGE_UNSUPPORTED, Reason.IMAGE_TOO_LARGE)
    else:
        assert all(picture.mode == "RGB" for picture in pictures)


# References


def test_a_file_below_a_root_is_read(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"bytes")
    store = LocalFiles(MediaSettings(roots=(tmp_path,)))
    assert store.read(f"file://{tmp_path}/a%20b.png") == b"bytes"
    assert store.read(f"file://localhost{tmp_path}/./a%20b.png") == b"bytes"


def test_nothing_outside_the_roots_is_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    outside.write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe")
    store = LocalFiles(MediaSettings(roots=(root,)))
    for uri in (
        f"file://{outside}",
        f"file://{root}/../secret",
        f"file://{root}/%2e%2e/secret",
        f"file://{root}/link",
        f"file://{root}/pipe",
        f"file://{root}",
        f"file://elsewhere{root}/x",
        f"file://{root}/x?y",
        f"file://{root}/x%00",
        "file://[x/a.png",
        "file:secret",
        f"file://{tmp_path}/root-of-another",
    ):
        with pytest.raises(PostError) as caught:
            store.read(uri)
        assert caught.value.reason in (Reason.IMAGE_FORBIDDEN, Reason.IMAGE_UNAVAILABLE), uri
        assert "secret" not in str(caught.value)


def test_without_roots_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(PostError) as caught:
        LocalFiles(LIMITS).read(f"file://{tmp_path}/x")
    assert caught.value.reason is Reason.IMAGE_FORBIDDEN


def test_a_root_that_is_no_folder_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MODERATION_MEDIA__ROOTS"):
        Media(MediaSettings(roots=(tmp_path / "unmounted",)))


def test_missing_and_large_files_have_their_reason(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 11)
    store = LocalFiles(MediaSettings(roots=(tmp_path,), max_bytes=10))
    for name, reason in (("large", Reason.IMAGE_TOO_LARGE), ("missing", Reason.IMAGE_NOT_FOUND)):
        with pytest.raises(PostError) as caught:
            store.read(f"file://{tmp_path}/{name}")
        assert caught.value.reason is reason


@pytest.mark.parametrize("uri", ["https://example.org/x.png", "/etc/passwd", "data:image/png;base64,AA=="])
async def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(PostError) as caught:
        async with Media(LIMITS).opened(a_post(images=(Image(uri=uri),))):
            pass
    assert caught.value.reason is Reason.IMAGE_FORBIDDEN


@given(st.one_of(st.text(), st.text(alphabet="/.%0[]@:?#℀\\").map("file://".__add__)))
def test_whatever_a_reference_says_it_is_read_or_refused(uri: str) -> None:
    with pytest.raises(PostError):
        LocalFiles(MediaSettings(roots=(Path(__file__).parent,))).read(uri)


class Slow:
    """A store whose reads end when they are let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()

    def read(self, uri: str) -> bytes:
        self.asked.set()
        self.let_go.wait()
        return a_file()


async def test_a_post_whose_images_take_too_long_is_refused_and_others_go_on() -> None:
    with Slow() as slow:
        media = Media(MediaSettings(timeout_s=0.2, posts_at_once=2), {"slow": slow})
        with pytest.raises(PostError) as caught:
            await sizes(media, Image(uri="slow:1"))
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
        assert await sizes(media, inline()) == [(64, 48)]


async def test_when_all_threads_hang_the_process_is_at_fault_and_everybody_hears_of_it() -> None:
    with Slow() as slow:
        media = Media(MediaSettings(timeout_s=0.2, posts_at_once=2), {"slow": slow})
        images = [*(Image(uri=f"slow:{number}") for number in range(6)), inline(), inline()]
        outcomes = await asyncio.gather(*(sizes(media, image) for image in images), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[:6]].count(DeviceError) == 1, "the last one, with the spare ones"
        assert {type(outcome) for outcome in outcomes} == {PostError, DeviceError}
        with pytest.raises(DeviceError, match="no image is read"):
            await sizes(media, inline())


async def test_an_error_that_no_source_should_raise_is_its_posts_fault() -> None:
    class Panicking(Slow):
        def read(self, uri: str) -> bytes:
            raise BaseException("secret")  # noqa: TRY002

    media = Media(MediaSettings(), {"slow": Panicking()})
    with capture_logs() as events, pytest.raises(PostError) as caught:
        await sizes(media, Image(uri="slow:1"))
    assert caught.value.reason is Reason.IMAGE_UNAVAILABLE
    assert [event["event"] for event in events] == ["image_failed"]
    assert "secret" not in f"{events} {caught.value}"


async def sizes(media: Media, image: Image) -> list[tuple[int, int]]:
    async with media.opened(a_post(images=(image,))) as read:
        return [picture.size for picture in read.content.pictures]


def test_a_post_of_too_many_pixels_is_refused() -> None:
    limits = MediaSettings(max_post_pixels=2 * 64 * 48)
    assert len(decode(a_file(), limits, pixels=64 * 48)) == 1
    with pytest.raises(PostError) as caught:
        decode(a_file(), limits, pixels=64 * 48 + 1)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


# Content


async def test_content_has_the_pictures_in_order_and_a_digest_over_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "second.png").write_bytes(a_file(an_image(10, 10)))
    post = a_post(images=(inline(an_image(20, 20)), Image(uri=f"file://{tmp_path}/second.png")))
    async with Media(MediaSettings(roots=(tmp_path,))).opened(post) as opened:
        read = opened
    assert [picture.size for picture in read.content.pictures] == [(20, 20), (10, 10)]
    assert read.content.digest == digest(post.text, [a_file(an_image(20, 20)), a_file(an_image(10, 10))])


def test_the_digest_tells_where_one_part_ends() -> None:
    assert len({digest("ab", []), digest("a", [b"b"]), digest("", [b"a", b"b"]), digest("", [b"ab"])}) == 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_what_decoding_takes_is_known_before_it_is_done(mode: str) -> None:
    file = a_file(an_image(300, 200).convert(mode))
    pictures = decode(file, LIMITS)
    held = sum(3 * picture.width * picture.height for picture in pictures)
    assert held < decoded_bytes(file, LIMITS) <= held + 15 * 300 * 200


@pytest.mark.parametrize("file", [b"", b"no picture", a_file()[:20]])
def test_what_will_be_refused_waits_for_no_room(file: bytes) -> None:
    assert decoded_bytes(file, LIMITS) == 0


async def test_pictures_are_decoded_within_the_room_there_is() -> None:
    post = a_post(images=(inline(an_image(100, 100)),))
    size = decoded_bytes(post.images[0].data or b"", MediaSettings())
    media = Media(MediaSettings(max_decoded_bytes=2 * size))
    inside, most = 0, 0

    async def visit() -> None:
        nonlocal inside, most
        async with media.opened(post):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(visit() for _ in range(6)))
    assert most == 2
