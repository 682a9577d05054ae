"""Reads a post's images and gives the model pictures. All image bytes are untrusted.

Sources give the bytes (sources/), decoding turns the bytes into pictures (decoding.py). Both run on threads under one
deadline for each post.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from PIL import Image as pil

from moderation.errors import ModerationError, PostError
from moderation.inference.deadline_pool import DeadlinePool, LateError
from moderation.media.byte_budget import ByteBudget
from moderation.media.decoding import decode, decoded_bytes
from moderation.media.sources import MediaSource
from moderation.media.sources.files import LocalFiles
from moderation.observability import phases, traces
from moderation.observability.logs import frames
from moderation.observability.phases import Phase
from moderation.settings import MediaSettings
from moderation.types import Content, Image, Post, Reason

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Read:
    """A post's content, and the seconds spent on fetching and decoding."""

    content: Content
    fetch: float
    decode: float


class Media:
    """Reads the content of posts."""

    def __init__(self, settings: MediaSettings, sources: Mapping[str, MediaSource] | None = None) -> None:
        """`sources`: by URI scheme. Default: local files below the allowed roots."""
        self._settings = settings
        self._decoded = ByteBudget(settings.max_decoded_bytes)
        self._fetched = ByteBudget(settings.max_decoded_bytes // 4)  # of referenced files, until they are decoded
        self._sources = sources if sources is not None else {"file": LocalFiles(settings)}
        all_late = f"all image readers are stuck ({settings.timeout_s:g} s): restart the worker"
        self.pool = DeadlinePool("media", settings.posts_at_once, settings.timeout_s, all_late)

    @asynccontextmanager
    async def opened(self, post: Post) -> AsyncIterator[Read]:
        """Reads all content of the post. Holds its share of the byte budget until the context is left.

        Raises PostError when any part cannot be read. Waiting for a thread or for the byte budget does not count
        towards the post's deadline.
        """
        if not post.images:  # the most common post needs no thread
            yield Read(Content(post.text, (), digest(post.text, ())), 0.0, 0.0)
            return
        fetched_bytes = sum(image.data is None for image in post.images) * self._settings.max_bytes
        async with AsyncExitStack() as stack:
            phases.enter(Phase.FETCH)
            async with self._fetched.reserve(fetched_bytes):
                started = time.perf_counter()
                files, size = await self._on_thread(partial(self._fetch_all, post), Reason.IMAGE_UNAVAILABLE)
                fetched = time.perf_counter()
                phases.enter(Phase.DECODE)
                await stack.enter_async_context(self._decoded.reserve(size))
                begun = time.perf_counter()
                content = await self._on_thread(partial(self._decode_all, post, files), Reason.IMAGE_CORRUPT)
                decoded = time.perf_counter()
                del files
            traces.phase(Phase.FETCH, started, fetched)
            traces.phase(Phase.DECODE, begun, decoded)
            yield Read(content, fetched - started, decoded - begun)

    async def _on_thread(self, work: Callable[[], T], reason: Reason) -> T:
        """Returns what `work` returns.

        Raises PostError when `work` is late, or fails (with this reason); DeviceError when no thread is left.
        """
        try:
            return await self.pool.run(work)
        except LateError:
            raise PostError(Reason.DEADLINE_EXCEEDED, "the post's images could not be read in time") from None
        except ModerationError:
            raise
        except Exception as error:  # noqa: BLE001  any other error of a decoder or a source is this post's fault
            cause = error
        log.warning("image_failed", error=type(cause).__name__, frames=frames(cause))
        raise PostError(reason, f"the post's images cannot be read ({type(cause).__name__})")

    def _fetch_all(self, post: Post) -> tuple[list[bytes], int]:
        """Returns the files, and the bytes that decoding them takes."""
        files: list[bytes] = []
        for index, image in enumerate(post.images):
            with _named(index):
                files.append(self._fetch(image))
        return files, sum(decoded_bytes(file, self._settings) for file in files)

    def _decode_all(self, post: Post, files: Sequence[bytes]) -> Content:
        pictures: list[pil.Image] = []
        for index, file in enumerate(files):
            pixels = sum(picture.width * picture.height for picture in pictures)
            with _named(index):
                pictures += decode(file, self._settings, pixels=pixels)
        return Content(post.text, tuple(pictures), digest(post.text, files))

    def _fetch(self, image: Image) -> bytes:
        if image.data is not None:
            return image.data
        scheme, separator, _ = (image.uri or "").partition(":")
        source = self._sources.get(scheme.lower()) if separator else None
        if source is None:
            raise PostError(Reason.IMAGE_FORBIDDEN, f"image references may be: {', '.join(self._sources) or 'none'}")
        return source.read(image.uri or "")


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Puts the place of an image in front of the message of its PostError."""
    try:
        yield
    except PostError as error:
        raise PostError(error.reason, f"images[{index}]: {error}", post_id=error.post_id) from None


def digest(text: str, files: Sequence[bytes]) -> str:
    """Hashes the text and the bytes of each image, in order: SHA-256 in hex. Each part is preceded by its length."""
    whole = hashlib.sha256(b"moderation.v1.content\0")
    for part in (text.encode(), *files):
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()
