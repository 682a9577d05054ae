"""A shared budget of bytes, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Reservation:
    """Bytes of a budget that one caller holds."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Frees what is more than `size`."""
        self._budget.free(max(0, self.size - size))
        self.size = min(self.size, size)


class ByteBudget:
    """Bounds the bytes that are held at the same time. A larger reservation takes the whole budget."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[Reservation]:
        """Waits for `size` bytes, behind all earlier callers. Frees the bytes when the context is left."""
        reservation = Reservation(self, min(size, self._size))
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((reservation.size, granted))
        try:
            self._admit()
            await granted
            yield reservation
        finally:
            granted.cancel()  # does nothing if the bytes were granted
            self.free(0 if granted.cancelled() else reservation.size)

    def free(self, size: int) -> None:
        """Gives bytes back, and wakes those that wait for them."""
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
