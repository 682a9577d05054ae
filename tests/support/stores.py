"""What every object store must do, whoever made it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import obstore
from pydantic import SecretStr

from moderation.media.reader import Media, Read
from moderation.media.sources.store_clients import client_of
from moderation.settings import MediaSettings, StoreSettings
from moderation.types import Image, Problem, Reason
from tests.support.builders import a_file, a_post, an_image

NAMES = ("a.png", "deep/er/a b.png", "ü/100%.png", "a+b&c=d?e#f.png", "a%20b.png")


UNSIGNED: dict[str, Any] = {"credentials": "anonymous", "secret": SecretStr("")}


Put = Callable[[str, bytes], Awaitable[object]]  # key, data


async def check(store: StoreSettings, *wrong: dict[str, Any], put: Put | None = None) -> None:
    """Puts objects into the store's bucket, which is empty, and reads posts that refer to them.

    wrong: settings with each of which the store refuses. put: default: as the library does.
    """
    put = put or partial(obstore.put_async, client_of("STORE", store.url.partition("://")[2], store, 10.0))
    files = [a_file(an_image(10 + index, 10)) for index in range(len(NAMES))]
    for name, file in zip(NAMES, files, strict=True):
        await put(f"uploads/{name}", file)
    await put("private/a.png", files[0])
    await put("uploads/large.png", b"x" * 100_001)
    await put("uploads/empty.png", b"")

    uploads = store.model_copy(update={"url": f"{store.url}/uploads"})
    read = await read_of(uploads, *(f"uploads/{name}" for name in NAMES))
    assert [picture.size for picture in read.content.pictures] == [(10 + index, 10) for index in range(len(NAMES))]
    assert read.problems == ()

    read = await read_of(uploads, "uploads/gone.png", "private/a.png", "uploads/large.png", "uploads/empty.png")
    assert [(problem.reason, problem.path) for problem in read.problems] == [
        (Reason.IMAGE_NOT_FOUND, "images[0].uri"),
        (Reason.IMAGE_FORBIDDEN, "images[1].uri"),
        (Reason.IMAGE_TOO_LARGE, "images[2].uri"),
        (Reason.IMAGE_UNSUPPORTED, "images[3]"),
    ]
    await check_changes(uploads, put, files)
    for update in wrong:
        read = await read_of(uploads.model_copy(update=update), "uploads/a.png")
        assert read.problems == (Problem(Reason.IMAGE_UNAVAILABLE, "images[0].uri"),), (list(update), read.problems)


async def check_changes(store: StoreSettings, put: Put, files: Sequence[bytes]) -> None:
    """An object that is overwritten all the time is one of its versions whenever it is read, or unavailable."""
    done = asyncio.Event()

    async def overwrite() -> None:
        while not done.is_set():
            for file in files:
                await put("uploads/changing.png", file)

    await put("uploads/changing.png", files[0])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(overwrite())
        reads = [await read_of(store, "uploads/changing.png") for _ in range(20)]
        done.set()
    whole = [read for read in reads if read.content.pictures]
    assert whole
    assert {problem.reason for read in reads for problem in read.problems} <= {Reason.IMAGE_UNAVAILABLE}


async def read_of(store: StoreSettings, *keys: str) -> Read:
    settings = MediaSettings(stores={"pictures": store}, max_bytes=100_000, timeout_s=20.0)
    bucket = "/".join(store.url.split("/")[:3])
    post = a_post(images=tuple(Image(uri=f"{bucket}/{key}") for key in keys))
    async with Media(settings) as media, media.opened(post) as read:
        return read
