"""Where the bytes of image references come from: one module for each kind of source."""

from __future__ import annotations

from typing import Protocol


class MediaSource(Protocol):
    """Reads image references. A constructor opens nothing."""

    async def read(self, uri: str) -> bytes:
        """Returns the bytes, at most media.max_bytes.

        Raises PostError: IMAGE_FORBIDDEN, IMAGE_NOT_FOUND, IMAGE_UNAVAILABLE or IMAGE_TOO_LARGE. Raises TimeoutError
        after media.timeout_s; waiting for a thread does not count. Raises DeviceError when no thread is left.
        """

    async def close(self) -> None:
        """Gives connections and threads back. Does not wait for reads."""
