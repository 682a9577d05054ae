"""A post's images become its content, within a deadline and a byte budget."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from moderation.errors import ConfigError, DeviceError, PostError
from moderation.media.decoding import decoded_bytes
from moderation.media.reader import Media, digest
from moderation.settings import MediaSettings
from moderation.types import Image, Reason
from tests.support.builders import a_file, a_post, an_image, inline

LIMITS = MediaSettings()


@pytest.mark.parametrize("uri", ["https://example.org/x.png", "/etc/passwd", "data:image/png;base64,AA=="])
async def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(PostError) as caught:
        async with Media(LIMITS).opened(a_post(images=(Image(uri=uri),))):
            pass
    assert caught.value.reason is Reason.IMAGE_FORBIDDEN


class Slow:
    """A source whose reads end when they are released."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()

    def read(self, uri: str) -> bytes:
        self.asked.set()
        self.released.wait()
        return a_file()


async def test_a_post_whose_images_take_too_long_is_refused_and_others_go_on() -> None:
    with Slow() as slow:
        media = Media(MediaSettings(timeout_s=0.2, posts_at_once=2), {"slow": slow})
        with pytest.raises(PostError) as caught:
            await sizes(media, Image(uri="slow:1"))
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
        assert await sizes(media, inline()) == [(64, 48)]


async def test_when_all_threads_hang_the_process_is_at_fault_and_every_caller_gets_the_error() -> None:
    with Slow() as slow:
        media = Media(MediaSettings(timeout_s=0.2, posts_at_once=2), {"slow": slow})
        images = [*(Image(uri=f"slow:{number}") for number in range(6)), inline(), inline()]
        outcomes = await asyncio.gather(*(sizes(media, image) for image in images), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[:6]].count(DeviceError) == 1, "the last one, with the spare ones"
        assert {type(outcome) for outcome in outcomes} == {PostError, DeviceError}
        with pytest.raises(DeviceError, match="all image readers are stuck"):
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


async def test_content_has_the_pictures_in_order_and_a_digest_over_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "second.png").write_bytes(a_file(an_image(10, 10)))
    post = a_post(images=(inline(an_image(20, 20)), Image(uri=f"file://{tmp_path}/second.png")))
    async with Media(MediaSettings(roots=(tmp_path,))).opened(post) as opened:
        read = opened
    assert [picture.size for picture in read.content.pictures] == [(20, 20), (10, 10)]
    assert read.content.digest == digest(post.text, [a_file(an_image(20, 20)), a_file(an_image(10, 10))])


def test_the_digest_differs_when_a_part_ends_elsewhere() -> None:
    assert len({digest("ab", []), digest("a", [b"b"]), digest("", [b"a", b"b"]), digest("", [b"ab"])}) == 4


async def test_pictures_are_decoded_within_the_byte_budget() -> None:
    post = a_post(images=(inline(an_image(100, 100)),))
    size = decoded_bytes(post.images[0].data or b"", MediaSettings())
    media = Media(MediaSettings(max_decoded_bytes=2 * size))
    inside, highest = 0, 0

    async def visit() -> None:
        nonlocal inside, highest
        async with media.opened(post):
            inside += 1
            highest = max(highest, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(visit() for _ in range(6)))
    assert highest == 2


def test_a_root_that_is_not_a_folder_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MODERATION_MEDIA__ROOTS"):
        Media(MediaSettings(roots=(tmp_path / "unmounted",)))
