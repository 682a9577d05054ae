"""From a post's images to pictures a model can look at. Every byte here comes from a stranger.

What users see is what is judged: upright, on white *and* on black where a picture is transparent, several frames of an
animation. What cannot be read as users would see it is refused with a Reason, never guessed at.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from PIL import Image as pil
from PIL import ImageOps, UnidentifiedImageError

from moderation.errors import ConfigError, ModerationError, PostError
from moderation.inference.deadline_pool import DeadlinePool, LateError
from moderation.media.byte_budget import ByteBudget
from moderation.observability import phases, traces
from moderation.observability.logs import frames
from moderation.observability.phases import Phase
from moderation.settings import MediaSettings
from moderation.types import Content, Image, Post, Reason

T = TypeVar("T")

log = structlog.get_logger()

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MOST_FRAMES = 1_000  # of an animation; each must be decoded to reach the next
WORKING_BYTES = 12  # a pixel, on the way from its file to RGB: as stored, upright, with alpha
MOST_ANIMATED_PIXELS = 25  # times max_pixels, over all frames: some seconds of one core

# Pillow's own limit warns at one size and raises at another; `_fits` holds ours, before anything is decoded.
pil.MAX_IMAGE_PIXELS = None
# Of strangers' metadata: nothing that an operator could act on.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


class Store(Protocol):
    """Where the bytes of a reference come from: the seam that remote stores will fit."""

    def read(self, uri: str) -> bytes:
        """The bytes; called on a thread. Raises PostError (IMAGE_FORBIDDEN, _NOT_FOUND, _UNAVAILABLE, _TOO_LARGE)."""


@dataclass(frozen=True, slots=True)
class Read:
    """A post's content, and the seconds it took to get and to decode it."""

    content: Content
    fetch: float
    decode: float


class Media:
    """Reads the content of posts."""

    def __init__(self, settings: MediaSettings, stores: Mapping[str, Store] | None = None) -> None:
        """`stores`: by URI scheme; default: local files below the allowed roots."""
        self._settings = settings
        self._room = ByteBudget(settings.max_decoded_bytes)
        self._files = ByteBudget(settings.max_decoded_bytes // 4)  # bytes of files that references name, until decoded
        self._stores = stores if stores is not None else {"file": LocalFiles(settings)}
        late = f"no image is read any more: all threads have been at a post for {settings.timeout_s:g} s"
        self.pool = DeadlinePool("media", settings.posts_at_once, settings.timeout_s, late)

    @asynccontextmanager
    async def opened(self, post: Post) -> AsyncIterator[Read]:
        """Everything the model is shown of the post, for as long as it is needed: others may wait for its room.

        Raises PostError when any part of it cannot be read. The clock of a post stands while it waits for its turn.
        """
        if not post.images:  # no thread is asked for the most common post
            yield Read(Content(post.text, (), digest(post.text, ())), 0.0, 0.0)
            return
        most = sum(image.data is None for image in post.images) * self._settings.max_bytes
        async with AsyncExitStack() as stack:
            phases.enter(Phase.FETCH)
            async with self._files.of(most):
                started = time.perf_counter()
                files, size = await self._on_thread(partial(self._fetch_all, post), Reason.IMAGE_UNAVAILABLE)
                fetched = time.perf_counter()
                phases.enter(Phase.DECODE)
                await stack.enter_async_context(self._room.of(size))
                begun = time.perf_counter()
                content = await self._on_thread(partial(self._decode_all, post, files), Reason.IMAGE_CORRUPT)
                decoded = time.perf_counter()
                del files
            traces.phase(traces.FETCH, started, fetched)
            traces.phase(traces.DECODE, begun, decoded)
            yield Read(content, fetched - started, decoded - begun)

    async def _on_thread(self, work: Callable[[], T], reason: Reason) -> T:
        """Raises PostError when it takes too long, or fails (for this reason), DeviceError when no thread is left."""
        try:
            return await self.pool.run(work)
        except LateError:
            raise PostError(Reason.DEADLINE_EXCEEDED, "the post's images could not be read in time") from None
        except ModerationError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a decoder or a source raises is this post's fault
            cause = error
        log.warning("image_failed", error=type(cause).__name__, frames=frames(cause))
        raise PostError(reason, f"the post's images cannot be read ({type(cause).__name__})")

    def _fetch_all(self, post: Post) -> tuple[list[bytes], int]:
        """The files, and what they take decoded."""
        files = [self._fetch(image) for image in post.images]
        return files, sum(decoded_bytes(file, self._settings) for file in files)

    def _decode_all(self, post: Post, files: Sequence[bytes]) -> Content:
        pictures: list[pil.Image] = []
        for file in files:
            pictures += decode(file, self._settings, pixels=sum(one.width * one.height for one in pictures))
        return Content(post.text, tuple(pictures), digest(post.text, files))

    def _fetch(self, image: Image) -> bytes:
        if image.data is not None:
            return image.data
        scheme, separator, _ = (image.uri or "").partition(":")
        store = self._stores.get(scheme.lower()) if separator else None
        if store is None:
            raise PostError(Reason.IMAGE_FORBIDDEN, f"image references may be: {', '.join(self._stores) or 'none'}")
        return store.read(image.uri or "")


class LocalFiles:
    """file:// references below the allowed roots; a link that leads out of them is refused like any other path."""

    def __init__(self, settings: MediaSettings) -> None:
        self._roots = [Path(os.path.realpath(root.expanduser())) for root in settings.roots]
        for root in self._roots:
            if not root.is_dir():
                raise ConfigError(f"MODERATION_MEDIA__ROOTS: {root} is no folder")
        self._max_bytes = settings.max_bytes

    def read(self, uri: str) -> bytes:
        """See Store."""
        try:
            parts = urlsplit(uri)
            path = unquote(parts.path, errors="strict")
            real = Path(os.path.realpath(path))
        except ValueError:  # brackets that are no address, a character that is no text, a null
            raise PostError(Reason.IMAGE_FORBIDDEN, "the reference is no URI") from None
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise PostError(Reason.IMAGE_FORBIDDEN, "a file reference is file:///absolute/path, nothing more")
        if not path.startswith("/") or not any(real.is_relative_to(root) for root in self._roots):
            raise PostError(Reason.IMAGE_FORBIDDEN, "the file is not below an allowed root (MODERATION_MEDIA__ROOTS)")
        try:
            # no link at the last step (it was resolved), no waiting for a writer of a pipe
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise PostError(Reason.IMAGE_NOT_FOUND, "there is no such file below the allowed roots") from None
        except OSError as error:
            raise PostError(Reason.IMAGE_UNAVAILABLE, f"the file cannot be opened (errno {error.errno})") from None
        try:
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise PostError(Reason.IMAGE_FORBIDDEN, "the reference is not a regular file")
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise PostError(Reason.IMAGE_UNAVAILABLE, f"the file cannot be read (errno {error.errno})") from None
        if len(data) > self._max_bytes:
            raise PostError(Reason.IMAGE_TOO_LARGE, f"the file is larger than {self._max_bytes} bytes")
        return data


def digest(text: str, files: Sequence[bytes]) -> str:
    """SHA-256, hex, over the text and the bytes of each image, in order; each part is told from the next by length."""
    whole = hashlib.sha256(b"moderation.v1.content\0")
    for part in (text.encode(), *files):
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()


def decoded_bytes(file: bytes, settings: MediaSettings) -> int:
    """What `decode` takes, about, as the file's header tells; 0 where it will be refused. Decodes nothing."""
    try:
        with pil.open(BytesIO(file), formats=FORMATS) as image:
            _fits(image, settings)
            frames = settings.max_frames if getattr(image, "is_animated", False) and image.format != "MPO" else 1
            each = 6 if image.has_transparency_data else 3  # two pictures or one, of RGB
            return image.width * image.height * (WORKING_BYTES + each * frames)
    except Exception:  # noqa: BLE001  whatever it is, `decode` meets it and gives it a reason
        return 0


def decode(file: bytes, settings: MediaSettings, *, pixels: int = 0) -> tuple[pil.Image, ...]:
    """The pictures that users see of one image file: RGB, upright; of `max_frames` frames, each twice if transparent.

    `pixels`: what the post's other images have taken of max_post_pixels.

    Raises PostError: IMAGE_TOO_LARGE, IMAGE_UNSUPPORTED or IMAGE_CORRUPT.
    """
    if len(file) > settings.max_bytes:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the image is larger than {settings.max_bytes} bytes")
    try:
        with pil.open(BytesIO(file), formats=FORMATS) as image:
            _fits(image, settings)
            return tuple(_frames(image, settings, pixels))
    except PostError:
        raise
    except UnidentifiedImageError:
        reason = Reason.IMAGE_UNSUPPORTED if file else Reason.IMAGE_CORRUPT
        raise PostError(reason, f"the image is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001  the decoders raise what they like on hostile bytes: it is this file's fault
        raise PostError(Reason.IMAGE_CORRUPT, f"the image cannot be decoded ({type(error).__name__})") from None


def _fits(image: pil.Image, settings: MediaSettings) -> None:
    """Before anything is decoded: a header of some bytes may announce gigabytes."""
    width, height = image.size
    too_large = (
        width * height > settings.max_pixels
        or max(width, height) > settings.max_side
        or max(width, height) > settings.max_aspect * min(width, height)
    )
    if too_large:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the image is {width} x {height} pixels, more than the limits allow")


def _frames(image: pil.Image, settings: MediaSettings, pixels: int) -> Iterator[pil.Image]:
    count = getattr(image, "n_frames", 1) if getattr(image, "is_animated", False) and image.format != "MPO" else 1
    if count > MOST_FRAMES or count * image.width * image.height > MOST_ANIMATED_PIXELS * settings.max_pixels:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the animation has {count} frames, more than the limits allow")
    wanted = min(count, settings.max_frames)
    for number in range(wanted):
        if count > 1:
            image.seek(number * (count - 1) // max(1, wanted - 1))
            _fits(image, settings)  # a frame may be larger than the first
        image.load()
        for picture in _as_seen(image):
            pixels += picture.width * picture.height
            if pixels > settings.max_post_pixels:
                raise PostError(Reason.IMAGE_TOO_LARGE, f"the post has more than {settings.max_post_pixels} pixels")
            yield picture


def _as_seen(image: pil.Image) -> Iterator[pil.Image]:
    upright = _upright(image)
    if upright.mode == "I;16":  # convert() would clip instead of scale: all but the darkest turns white
        upright = upright.point(lambda value: value * (1 / 256), "L")
    elif upright.mode in ("I", "F"):
        raise PostError(Reason.IMAGE_UNSUPPORTED, f"the image's pixels are of mode {upright.mode}")
    if not upright.has_transparency_data:
        yield upright.convert("RGB")
        return
    layered = upright.convert("RGBA")
    opaque = layered.getchannel("A").getextrema() == (255, 255)
    for ground in ("white",) if opaque else ("white", "black"):  # users have light screens and dark ones
        yield pil.alpha_composite(pil.new("RGBA", layered.size, ground), layered).convert("RGB")


def _upright(image: pil.Image) -> pil.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  broken EXIF, of whatever kind: viewers show such a picture as it is stored
        return image.copy()
