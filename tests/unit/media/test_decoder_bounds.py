"""Decoders keep to their bounds: of memory for each file, and of what they cost beside decoding itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from io import BytesIO

import pytest
from PIL import Image as pil
from PIL import ImageOps

from moderation.media import decoder_pool
from moderation.media.reader import Media, digest
from moderation.settings import MediaSettings
from moderation.types import Image, Post
from tests.support.builders import a_file, a_post, an_image

SIDE = 4_500
ROUNDS = 5
LEAST = 0.6  # of the pictures a second of CPU that threads decoded: 0.8 alone on two cores, less beside other work


def turned() -> pil.Exif:
    exif = pil.Exif()
    exif[0x0112] = 6
    return exif


def large() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Files of the kinds that take most memory."""
    size = SIDE, SIDE
    yield "turned", lambda: a_file(an_image(*size), "JPEG", progressive=True, subsampling=0, exif=turned())
    yield "cmyk", lambda: a_file(an_image(*size, colour=(1, 99, 30, 7), mode="CMYK"), "JPEG")
    yield "alpha", lambda: a_file(an_image(*size, colour=(1, 99, 30, 7), mode="RGBA"), compress_level=1)
    yield "palette", lambda: a_file(an_image(*size, colour=3, mode="P"), transparency=3, compress_level=1)
    yield (
        "webp",
        lambda: a_file(an_image(*size, colour=(1, 99, 30, 7), mode="RGBA"), "WEBP", lossless=True, quality=0, method=0),
    )


@pytest.mark.parametrize(("kind", "make"), [*large()], ids=[kind for kind, _ in large()])
async def test_decoding_takes_no_more_memory_than_the_header_announces(
    kind: str, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_pool, "RESERVE_BYTES", 0)
    file = make()
    async with Media(MediaSettings(max_bytes=1 << 30)) as media, media.opened(a_post(images=(Image(file),))) as read:
        assert read.problems == ()
        assert all(picture.size == (SIDE, SIDE) for picture in read.content.pictures)


def photographs() -> list[Post]:
    """Posts with a JPEG of 640 x 480 each, as sharp as a photograph."""
    made = []
    for number in range(8):
        small = [pil.effect_noise((320, 240), 60 + number) for _ in range(3)]
        planes = [plane.resize((640, 480), pil.Resampling.BICUBIC) for plane in small]
        made.append(a_file(pil.merge("RGB", planes), "JPEG", quality=80))
    return [Post(str(number), images=(Image(made[number % 8]),)) for number in range(160)]


async def at_once(read: Callable[[Post], Awaitable[None]], posts: Sequence[Post]) -> None:
    left = iter(posts)

    async def next_ones() -> None:
        for post in left:
            await read(post)

    await asyncio.gather(*(next_ones() for _ in range(16)))


def cpu_s(pids: Sequence[int]) -> float:
    """Seconds of CPU of this process and of these."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            ticks += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


async def test_processes_cost_little_more_than_threads_in_the_worker() -> None:
    """The old way, on threads, beside the new one, in turns. Seconds of CPU: they count on a busy machine, too."""
    settings, posts = MediaSettings(), photographs()

    def on_a_thread(post: Post) -> None:
        """As the worker did before it had decoder processes."""
        file = post.images[0].data or b""
        with pil.open(BytesIO(file)) as image:
            assert image.size == (640, 480)
        with pil.open(BytesIO(file)) as image:
            assert ImageOps.exif_transpose(image).convert("RGB").size == (640, 480)
        digest(post.text, [file])

    async def old(post: Post) -> None:
        await asyncio.to_thread(on_a_thread, post)

    async with Media(settings) as media:

        async def new(post: Post) -> None:
            async with media.opened(post) as read:
                assert len(read.content.pictures) == 1

        await at_once(new, posts)
        pids = [each._process.pid for each in media.decoders._running]
        spent: dict[str, list[float]] = {"threads": [], "processes": []}
        for _ in range(ROUNDS):
            for name, way in (("threads", old), ("processes", new)):
                begun = cpu_s(pids)
                await at_once(way, posts)
                spent[name].append((cpu_s(pids) - begun) / len(posts) * 1000)
    rate = min(spent["threads"]) / min(spent["processes"])
    print(f"ms of CPU a picture: {spent}; processes decode {rate:.2f} of what threads do")
    assert rate >= LEAST
