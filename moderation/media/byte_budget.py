"""A shared budget of bytes, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Bounds the bytes that are held at the same time. A larger reservation takes the whole budget."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Waits for `size` bytes, behind all earlier callers. Frees the bytes when the context is left."""
        size = min(size, self._size)
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            self._admit()
            await granted
            yield
        finally:
            granted.cancel()  # does nothing if the bytes were granted
            if not granted.cancelled():
                self._left += size
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, granted = self._waiting[0]
            if not granted.cancelled():
                if size > self._left:
                    return
                self._left -= size
                granted.set_result(None)
            self._waiting.popleft()
