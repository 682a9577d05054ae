"""Where the bytes of image references come from: one module for each kind of source."""

from __future__ import annotations

from typing import Protocol


class MediaSource(Protocol):
    """Reads image references of one URI scheme. Remote stores will implement this protocol too."""

    def read(self, uri: str) -> bytes:
        """Returns the bytes. Runs on a thread.

        Raises PostError: IMAGE_FORBIDDEN, IMAGE_NOT_FOUND, IMAGE_UNAVAILABLE or IMAGE_TOO_LARGE.
        """
