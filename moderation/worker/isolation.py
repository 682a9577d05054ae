"""Posts run together, except a post that must run alone: then no other post is decoded, encoded or scored.

- While a post runs alone, no other post starts.
- If posts of both kinds wait, SHARE posts run together between two that run alone, so that neither kind starves.
- If a post has waited PATIENCE_S to run alone, other posts may start for the same time: a post that is stuck must not
  block the whole process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

SHARE = 32
PATIENCE_S = 10.0
_ALL = 1 << 62


class Isolation:
    """Decides which posts may run. Belongs to one event loop."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._running = 0  # posts that run together
        self._occupied = False  # a post runs alone
        self._closed = False
        self._share = SHARE  # posts that may still run together before the next one that runs alone
        self._together: deque[asyncio.Future[None]] = deque()
        self._alone: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap
        self._arrivals = count()
        self._patience: asyncio.TimerHandle | None = None  # while posts wait to run alone

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Runs together with other posts."""
        if self._closed or self._occupied or self._together or self._alone:
            place = asyncio.get_running_loop().create_future()
            self._together.append(place)
            self._admit()
            await self._admitted(place, self._leave_others)
        else:
            self._running += 1
        try:
            yield
        finally:
            self._leave_others()

    @asynccontextmanager
    async def alone(self, rank: int = 0) -> AsyncIterator[None]:
        """Runs when no other post runs. Of posts that wait for this, the lowest rank is first, then the earliest."""
        place = asyncio.get_running_loop().create_future()
        heappush(self._alone, (rank, next(self._arrivals), place))
        self._admit()
        self._patience = self._patience or asyncio.get_running_loop().call_later(self._patience_s, self._alternate)
        await self._admitted(place, self._leave_alone)
        try:
            yield
        finally:
            self._leave_alone()

    def close(self) -> None:
        """Admits no further post. Posts that wait do so until they are cancelled."""
        self._closed = True

    async def _admitted(self, place: asyncio.Future[None], leave: Callable[[], None]) -> None:
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                leave()  # admitted and cancelled at the same time
            else:
                self._admit()
            raise

    def _alternate(self) -> None:
        """Admits other posts, or stops admitting them, while a post waits to run alone."""
        waits = bool(self._alone) and not self._closed
        self._patience = asyncio.get_running_loop().call_later(self._patience_s, self._alternate) if waits else None
        if not waits:
            self._share = SHARE
        elif not self._occupied:
            self._share = 0 if self._share > SHARE else _ALL
            self._admit()

    def _leave_others(self) -> None:
        self._running -= 1
        self._admit()

    def _leave_alone(self) -> None:
        self._occupied = False
        self._share = SHARE
        self._admit()

    def _admit(self) -> None:
        if self._closed or self._occupied:
            return
        while self._alone and self._alone[0][2].done():
            heappop(self._alone)
        while self._together and (self._share or not self._alone):
            place = self._together.popleft()
            if not place.done():
                self._share -= bool(self._alone)
                self._running += 1
                place.set_result(None)
        if self._alone and not self._running:
            self._occupied = True
            heappop(self._alone)[2].set_result(None)
