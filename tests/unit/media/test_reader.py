"""A post's images become its content, within a deadline and a byte budget."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from moderation.errors import ConfigError, DeviceError
from moderation.media.decoding import decoded_bytes
from moderation.media.reader import Media, Read, digest
from moderation.media.sources import MediaSource
from moderation.media.sources.files import LocalFiles
from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Problem, Reason
from tests.support.builders import a_file, a_post, an_image, inline

LIMITS = MediaSettings()
Make = Callable[..., Media]


@pytest.fixture
async def a_media() -> AsyncIterator[Make]:
    """Makes readers that are closed at the end: they have processes."""
    async with AsyncExitStack() as opened:
        made: list[Media] = []

        def make(settings: MediaSettings, sources: Mapping[str, MediaSource] | None = None) -> Media:
            made.append(Media(settings, sources))
            opened.push_async_exit(made[-1])
            return made[-1]

        yield make


async def read_of(media: Media, *images: Image, **fields: Any) -> Read:
    async with media.opened(a_post(images=images, **fields)) as read:
        return read


def sizes(read: Read) -> list[tuple[int, int]]:
    return [picture.size for picture in read.content.pictures]


@pytest.mark.parametrize("uri", ["https://example.org/x.png", "/etc/passwd", "data:image/png;base64,AA=="])
async def test_other_schemes_are_refused(a_media: Make, uri: str) -> None:
    read = await read_of(a_media(LIMITS), Image(uri=uri))
    assert read.problems == (Problem(Reason.IMAGE_FORBIDDEN, "images[0].uri", Detail.SCHEME),)


async def test_an_image_that_cannot_be_read_hides_no_other(a_media: Make, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(a_file(an_image(10, 10)))
    base64 = Problem(Reason.NOT_DECODABLE, "images[4].data", Detail.BASE64)
    read = await read_of(
        a_media(MediaSettings(roots=(tmp_path,))),
        Image(data=b"x"),
        inline(an_image(20, 20)),
        Image(uri=f"file://{tmp_path}/gone.png"),
        Image(uri=f"file://{tmp_path}/there.png"),
        Image(problem=base64),
        Image(problem=Problem(Reason.TOO_MANY_IMAGES, "images[5]")),
    )
    assert (sizes(read), read.images) == ([(20, 20), (10, 10)], (1, 3))
    assert read.problems == (
        Problem(Reason.IMAGE_UNSUPPORTED, "images[0]", Detail.NO_PICTURE),
        Problem(Reason.IMAGE_NOT_FOUND, "images[2].uri"),
        base64,
        Problem(Reason.TOO_MANY_IMAGES, "images[5]"),
    )


async def test_pictures_beyond_the_pixels_of_a_post_are_a_problem_and_the_first_are_judged(
    a_media: Make,
) -> None:
    read = await read_of(
        a_media(MediaSettings(max_post_pixels=150)), *(inline(an_image(10, size)) for size in (10, 9, 5))
    )
    assert sizes(read) == [(10, 10), (10, 5)]
    assert read.problems == (Problem(Reason.IMAGE_TOO_LARGE, "images[1]"),)


async def test_nothing_of_a_post_is_read_only_where_there_was_something(a_media: Make) -> None:
    broken, blank = Image(data=b"x"), "  "
    assert (await read_of(a_media(LIMITS), broken, text=blank)).nothing
    assert not (await read_of(a_media(LIMITS), broken, text="words")).nothing
    assert not (await read_of(a_media(LIMITS), Image(data=b"x", alt="words"), text="")).nothing
    assert not (await read_of(a_media(LIMITS), broken, inline(), text="")).nothing
    assert not (await read_of(a_media(LIMITS), text="")).nothing


class Slow(LocalFiles):
    """Local files whose reads end when they are released, as those of a network file system that is away."""

    def __init__(self, settings: MediaSettings) -> None:
        super().__init__(settings)
        self.released = threading.Event()

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()

    def _read(self, uri: str) -> bytes:
        self.released.wait()
        return a_file()


async def test_references_that_take_too_long_hide_neither_the_others_nor_other_posts(
    a_media: Make,
) -> None:
    settings = MediaSettings(timeout_s=1.0, posts_at_once=2)
    with Slow(settings) as slow:
        media = a_media(settings, {"slow": slow})
        read = await read_of(media, Image(uri="slow:1"), inline())
        assert (sizes(read), read.images) == ([(64, 48)], (1,))
        assert read.problems == (Problem(Reason.DEADLINE_EXCEEDED, "images[0].uri"),)
        assert sizes(await read_of(media, inline())) == [(64, 48)]


async def test_when_all_threads_hang_the_process_is_at_fault_and_every_caller_gets_the_error(
    a_media: Make,
) -> None:
    settings = MediaSettings(timeout_s=0.2, posts_at_once=2)
    with Slow(settings) as slow:
        media = a_media(settings, {"slow": slow})
        images = [Image(uri=f"slow:{number}") for number in range(8)]
        outcomes = await asyncio.gather(*(read_of(media, image) for image in images), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(DeviceError) == 3, "the last thread's, and those that wait"
        assert {type(outcome) for outcome in outcomes} == {Read, DeviceError}
        with pytest.raises(DeviceError, match="all threads that read image files are stuck"):
            await read_of(media, Image(uri="slow:7"))


async def test_an_error_that_no_source_should_raise_is_its_images_fault(a_media: Make) -> None:
    class Panicking(Slow):
        async def read(self, uri: str) -> bytes:
            raise BaseException("secret")  # noqa: TRY002

    media = a_media(LIMITS, {"slow": Panicking(LIMITS)})
    with capture_logs() as events:
        read = await read_of(media, Image(uri="slow:1"), inline())
    assert read.problems == (Problem(Reason.IMAGE_UNAVAILABLE, "images[0].uri"),)
    assert len(read.content.pictures) == 1
    assert [event["event"] for event in events] == ["image_failed"]
    assert "secret" not in f"{events} {read}"


async def test_content_has_the_pictures_in_order_and_a_digest_over_the_bytes(a_media: Make, tmp_path: Path) -> None:
    (tmp_path / "second.png").write_bytes(a_file(an_image(10, 10)))
    post = a_post(images=(inline(an_image(20, 20)), Image(uri=f"file://{tmp_path}/second.png")))
    async with a_media(MediaSettings(roots=(tmp_path,))).opened(post) as opened:
        read = opened
    assert [picture.size for picture in read.content.pictures] == [(20, 20), (10, 10)]
    assert read.content.digest == digest(post.text, [a_file(an_image(20, 20)), a_file(an_image(10, 10))])


def test_the_digest_differs_when_a_part_ends_elsewhere() -> None:
    assert len({digest("ab", []), digest("a", [b"b"]), digest("", [b"a", b"b"]), digest("", [b"ab"])}) == 4


async def test_alternative_texts_follow_the_text_and_are_part_of_the_digest(a_media: Make) -> None:
    media, images = a_media(LIMITS), [Image(data=a_file(), alt="a lake"), Image(data=b"x", alt="a sea"), inline()]
    read = await read_of(media, *images, text="words")
    assert read.content.text == ("words\n\nAlternative text of image 1: a lake\n\nAlternative text of image 2: a sea")
    others = [read.content.digest]
    for alts in (("a lake", "", ""), ("", "a lake", ""), ("", "", "a lake"), ("", "", "")):
        post = [replace(image, alt=alt) for image, alt in zip(images, alts, strict=True)]
        others.append((await read_of(media, *post, text="words")).content.digest)
    assert len(set(others)) == 5
    assert others[-1] == digest("words", [image.data or b"" for image in images]), "as it was before there were any"


async def test_no_two_contents_that_were_not_read_have_one_digest(a_media: Make, tmp_path: Path) -> None:
    media = a_media(MediaSettings(roots=(tmp_path,)))
    gone = f"file://{tmp_path}/gone"
    base64 = Problem(Reason.NOT_DECODABLE, "images[0].data", Detail.BASE64)
    reads = [
        await read_of(media),
        await read_of(media, Image(uri=gone)),
        await read_of(media, Image(uri=f"{gone}?")),
        await read_of(media, Image(data=gone.encode())),
        await read_of(media, Image(data=b"x")),
        await read_of(media, Image(data=b"y")),
        await read_of(media, Image(problem=base64)),
        await read_of(media, Image(data=b"x", problem=base64)),
        await read_of(media, Image(data=b"unread")),
        await read_of(media, Image(data=b"b\0c", uri="a", problem=base64)),
        await read_of(media, Image(data=b"c", uri="a\0b", problem=base64)),
        await read_of(media, Image(uri="\ud800", problem=base64)),
        await read_of(media, Image(uri="\udc00", problem=base64)),
    ]
    assert len({read.content.digest for read in reads}) == len(reads)
    assert reads[4].content.digest == digest("a quiet day at the lake", [b"x"]), "bytes that were had and refused"


async def test_pictures_are_decoded_within_the_byte_budget(a_media: Make) -> None:
    post = a_post(images=(inline(an_image(100, 100)),))
    size = decoded_bytes(post.images[0].data or b"", MediaSettings())
    media = a_media(MediaSettings(max_decoded_bytes=2 * size))
    inside, highest, pair = 0, 0, asyncio.Barrier(2)

    async def visit() -> None:
        nonlocal inside, highest
        async with media.opened(post):
            inside += 1
            highest = max(highest, inside)
            await pair.wait()
            inside -= 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(visit() for _ in range(6)))
    assert highest == 2


def test_a_root_that_is_not_a_folder_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MODERATION_MEDIA__ROOTS"):
        Media(MediaSettings(roots=(tmp_path / "unmounted",)))
