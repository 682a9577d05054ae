"""Reads a post's images and gives the model pictures. All image bytes are untrusted.

fetching.py gets the bytes. decoder_pool.py turns them into pictures, in other processes and under one deadline for each
post: no decoder runs in this process. An image that cannot be read becomes a Problem, and hides neither the text nor
other images.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass

from moderation.media.byte_budget import ByteBudget
from moderation.media.decoder_pool import DecoderPool, Decoding
from moderation.media.fetching import Fetcher, is_reference
from moderation.media.pixels import PIXEL_BYTES
from moderation.media.sources import MediaSource
from moderation.media.text import text_of
from moderation.observability import phases, traces
from moderation.observability.phases import Phase
from moderation.settings import MediaSettings
from moderation.types import Content, Post, Problem

SMALL_SHARE = 128  # of the byte budget: a post with one picture that takes no more is decoded without a second question
LARGE_BYTES = 256 << 10  # files that are hashed on a thread: the event loop would stand still for a millisecond


@dataclass(frozen=True, slots=True)
class Read:
    """What can be read of a post, what cannot, and the seconds spent on fetching and decoding."""

    content: Content
    fetch: float
    decode: float
    images: tuple[int, ...] = ()  # for each picture, the index of its image
    problems: tuple[Problem, ...] = ()  # parts that were not read, in the order of the post

    @property
    def nothing(self) -> bool:
        """Whether there is something in the post, and nothing of it could be read."""
        return bool(self.problems) and not self.content.pictures and not self.content.text.strip()


@dataclass(frozen=True, slots=True)
class Unread:
    """An image whose bytes could not be had, and what is known of it in their place."""

    sent: tuple[bytes, bytes, bytes]  # reference, bytes, and why they cannot be read


class Media:
    """Reads the content of posts."""

    def __init__(self, settings: MediaSettings, sources: Mapping[str, MediaSource] | None = None) -> None:
        """`sources`: by URI scheme. Default: those of the settings. Raises ConfigError."""
        self._settings = settings
        self._decoded = ByteBudget(settings.max_decoded_bytes)
        self._fetched = ByteBudget(settings.max_decoded_bytes // 4)  # of referenced files, until they are decoded
        self._fetcher = Fetcher(settings, sources)
        self.decoders = DecoderPool(settings)

    async def __aenter__(self) -> Media:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._fetcher.close()
        await self.decoders.close()

    @asynccontextmanager
    async def opened(self, post: Post) -> AsyncIterator[Read]:
        """Reads what can be read of the post. Holds its share of the byte budget until the context is left.

        Waiting for a decoder or for the byte budget does not count towards the post's deadline. What was not read at
        the deadline is a problem. Raises DeviceError when no decoder can be started.
        """
        text, cut = text_of(post, self._settings)
        if not post.images:  # the most common post needs no decoder
            content = Content(text, (), digest(post.text, ()))
            yield Read(content, 0.0, 0.0, (), cut)
            return
        references = sum(is_reference(image) for image in post.images)
        async with AsyncExitStack() as stack:
            phases.enter(Phase.FETCH)
            async with self._fetched.reserve(references * self._settings.max_bytes) if references else nullcontext():
                started = time.perf_counter()
                fetched = await self._fetcher.fetch(post)
                ended = time.perf_counter()
                phases.enter(Phase.DECODE)
                async with self.decoders.opened(fetched.files) as decoding:
                    begun = await self._decode(decoding, stack)
                content_digest = await _digested(post, fetched.files)
                done = time.perf_counter()
                problems = fetched.problems | decoding.problems
                del fetched
            traces.phase(Phase.FETCH, started, ended)
            traces.phase(Phase.DECODE, begun, done)
            images = tuple(index for index, _ in decoding.pictures)
            content = Content(text, tuple(picture for _, picture in decoding.pictures), content_digest)
            unread = (*cut, *(problems[index] for index in sorted(problems)))
            yield Read(content, ended - started, done - begun, images, tuple(dict.fromkeys(unread)))

    async def _decode(self, decoding: Decoding, stack: AsyncExitStack) -> float:
        """Decodes a post's files. Puts their share of the byte budget on the stack. Returns when decoding began."""
        small = self._settings.max_decoded_bytes // SMALL_SHARE
        held = await stack.enter_async_context(AsyncExitStack())
        reservation = await held.enter_async_context(self._decoded.reserve(small))
        begun = time.perf_counter()
        if (size := await decoding.begin(small)) > small:
            await held.aclose()  # first: a post that waits holds nothing that others wait for
            reservation = await held.enter_async_context(self._decoded.reserve(size))
        await decoding.decode()
        reservation.shrink(sum(PIXEL_BYTES * picture.width * picture.height for _, picture in decoding.pictures))
        return begun


async def _digested(post: Post, files: Mapping[int, bytes]) -> str:
    """The digest of a post, on a thread if it takes long."""
    if sum(map(len, files.values())) > LARGE_BYTES:
        return await asyncio.to_thread(digest_of, post, files)
    return digest_of(post, files)


def digest_of(post: Post, files: Mapping[int, bytes]) -> str:
    """The digest of a post of which these files could be had, by the index of their image."""
    parts: list[bytes | Unread] = []
    for index, image in enumerate(post.images):
        if index in files:
            parts.append(files[index])
        else:
            uri = (image.uri or "").encode("utf-8", "surrogatepass")  # a reference may be refused for half a character
            parts.append(Unread((uri, image.data or b"", f"{image.problem}".encode())))
    return digest(post.text, parts, [image.alt for image in post.images])


def digest(text: str, files: Sequence[bytes | Unread], alts: Sequence[str] = ()) -> str:
    """Hashes the text and the bytes of each image, in order: SHA-256 in hex. Each part is preceded by its length.

    A post with alternative texts, or with images whose bytes could not be had, has a form of its own, which no other
    post can take.
    """
    parts: list[bytes] = [text.encode()]
    if any(alts) or any(isinstance(file, Unread) for file in files):
        whole = hashlib.sha256(b"moderation.v1.content.parts\0")
        for file, alt in zip(files, alts or [""] * len(files), strict=True):
            parts += [b"unread", *file.sent] if isinstance(file, Unread) else [b"file", file]
            parts.append(alt.encode())
    else:
        whole = hashlib.sha256(b"moderation.v1.content\0")
        parts += [file for file in files if not isinstance(file, Unread)]
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()
