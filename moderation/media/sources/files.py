"""Images in local files below the allowed roots."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from moderation.errors import ConfigError, DeviceError, PostError
from moderation.inference.deadline_pool import DeadlinePool, LateError
from moderation.settings import MediaSettings
from moderation.types import Reason


class LocalFiles:
    """Reads file:// references below the allowed roots. A link that leads out of the roots is refused."""

    def __init__(self, settings: MediaSettings) -> None:
        self._roots = [Path(os.path.realpath(root.expanduser())) for root in settings.roots]
        for root in self._roots:
            if not root.is_dir():
                raise ConfigError(f"MODERATION_MEDIA__ROOTS: {root} is not a folder")
        self._max_bytes = settings.max_bytes
        all_late = f"all threads that read image files are stuck ({settings.timeout_s:g} s): restart the worker"
        self._pool = DeadlinePool("files", settings.posts_at_once, settings.timeout_s, all_late)

    async def read(self, uri: str) -> bytes:
        """See MediaSource."""
        try:
            return await self._pool.run(partial(self._read, uri))
        except LateError:
            raise TimeoutError from None

    async def close(self) -> None:
        """See MediaSource."""
        self._pool.close(DeviceError("the process ends"))

    def _read(self, uri: str) -> bytes:
        """Runs on a thread: a file system may be a network's."""
        try:
            parts = urlsplit(uri)
            path = unquote(parts.path, errors="strict")
            real = Path(os.path.realpath(path))
        except ValueError:  # a malformed host, a character that cannot be encoded, a null byte
            raise PostError(Reason.IMAGE_FORBIDDEN, "the reference is not a URI") from None
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise PostError(Reason.IMAGE_FORBIDDEN, "a file reference must be file:///absolute/path")
        if not path.startswith("/") or not any(real.is_relative_to(root) for root in self._roots):
            raise PostError(Reason.IMAGE_FORBIDDEN, "the file is not below an allowed root (MODERATION_MEDIA__ROOTS)")
        try:
            # The path is resolved: its last part must not be a link. Opening a pipe must not wait for a writer.
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
