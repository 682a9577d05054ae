"""Fetches the bytes of a post's image references, each from the source of its URI scheme.

The references of a post are fetched at the same time, so that a slow source does not hide the others. A reference that
cannot be read becomes a Problem, and hides neither the text nor other images.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from moderation.errors import ModerationError, PostError
from moderation.media.sources import MediaSource
from moderation.media.sources.files import LocalFiles
from moderation.observability.logs import frames
from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Post, Problem, Reason

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files of a post's images that could be had, and why others could not; by the index of the image."""

    files: dict[int, bytes] = field(default_factory=dict)
    problems: dict[int, Problem] = field(default_factory=dict)


class Fetcher:
    """Fetches image references from the sources that the settings allow."""

    def __init__(self, settings: MediaSettings, sources: Mapping[str, MediaSource] | None = None) -> None:
        """`sources`: by URI scheme. Default: those of the settings. Raises ConfigError."""
        self._sources = sources if sources is not None else sources_of(settings)

    async def fetch(self, post: Post) -> Fetched:
        """Returns the bytes of all images, inline ones included. Raises DeviceError when no thread is left."""
        fetched = Fetched()
        for index, image in enumerate(post.images):
            if image.problem is not None:
                fetched.problems[index] = image.problem
            elif image.data is not None:
                fetched.files[index] = image.data
        references = {index: image.uri or "" for index, image in enumerate(post.images) if is_reference(image)}
        reads = (self._fetch(index, uri, fetched) for index, uri in references.items())
        for error in await asyncio.gather(*reads, return_exceptions=True):  # all have ended
            if error is not None:
                raise error
        return fetched

    async def close(self) -> None:
        """Closes all sources. Does not wait for threads."""
        for source in self._sources.values():
            await source.close()

    async def _fetch(self, index: int, uri: str, fetched: Fetched) -> None:
        async with _noted(index, fetched):
            scheme, separator, _ = uri.partition(":")
            source = self._sources.get(scheme.lower()) if separator else None
            if source is None:
                text = f"image references may be: {', '.join(self._sources) or 'none'}"
                raise PostError(Reason.IMAGE_FORBIDDEN, text, detail=Detail.SCHEME)
            fetched.files[index] = await source.read(uri)


@asynccontextmanager
async def _noted(index: int, fetched: Fetched) -> AsyncIterator[None]:
    """Notes why the reference cannot be read."""
    path = f"images[{index}].uri"
    try:
        yield
    except PostError as error:
        fetched.problems[index] = Problem(error.reason, path, error.problem.detail)
    except TimeoutError:
        fetched.problems[index] = Problem(Reason.DEADLINE_EXCEEDED, path)
    except (ModerationError, asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  a library's panic is no Exception; this reference is at fault
        log.warning("image_failed", error=type(error).__name__, frames=frames(error))
        fetched.problems[index] = Problem(Reason.IMAGE_UNAVAILABLE, path)


def is_reference(image: Image) -> bool:
    """Whether the bytes of the image must be fetched."""
    return image.data is None and image.problem is None


def sources_of(settings: MediaSettings) -> dict[str, MediaSource]:
    """The source of each scheme that the settings allow. Raises ConfigError."""
    sources: dict[str, MediaSource] = {"file": LocalFiles(settings)}
    if settings.stores:
        from moderation.media.sources.object_stores import ObjectStores  # noqa: PLC0415  needs the extra `references`

        stores = ObjectStores(settings)
        sources |= dict.fromkeys(sorted({store.scheme for store in settings.stores.values()}), stores)
    if settings.https_hosts:
        from moderation.media.sources.https import HttpsServers  # noqa: PLC0415  needs the extra `references`

        sources["https"] = HttpsServers(settings)
    return sources
