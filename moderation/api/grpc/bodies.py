"""Reads request bodies: how many at once, how large they may be, and how long they may take.

gRPC holds a sender at HTTP/2's stream window (64 KiB) until its body is read. A read may then take memory up to the
largest message of the server, for every method. So reads are counted. A post keeps its share of the memory until it is
on its topic.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moderation.api.errors import RefusalKind, RefusedError, exhausted
from moderation.api.grpc.status import Context
from moderation.observability import metrics

SHARE = 2  # a caller may hold at most this multiple of the free bytes: alone at most two thirds of all
WAIT_S = 2.0  # for memory to read a body with
LOOKUP_S = 5.0  # within which the body of a lookup has to be complete
GRACE_S = 0.25  # after which the body of a lookup is slow, and makes room for others
SWEEP_S = 0.1
MAX_WAITING = 512  # reads of all callers, where `max_waiting` holds; a caller with none waiting may still add one
COPIES = 3  # of a post on its way to the topic: the message, the record, the producer's batch

Task = asyncio.Task[Any] | None


class EndedError(RefusedError):
    """A call has no message, or no further one."""

    def __init__(self) -> None:
        super().__init__(RefusalKind.INVALID, "INVALID_FIELD", "the call has no request")


class Bodies:
    """Reads the bodies of one kind of methods, within a budget of bytes that callers share."""

    def __init__(
        self,
        budget: int,
        largest: int,
        longest_s: float,
        max_slow: int | None = None,
        *,
        max_waiting: int | None = None,
    ) -> None:
        """`budget`: bytes. A read takes `largest` of them and has to end within `longest_s`.

        `max_slow`: how many reads may take longer than GRACE_S at a time; None: all. `max_waiting`: how many reads of a
        caller may wait at a time; None: all, because something else bounds the calls.
        """
        self._max_slow = max_slow
        self._max_waiting = max_waiting
        self._free = max(budget, largest)
        self._largest = largest
        self._longest_s = longest_s
        self._held: dict[str, int] = {}  # bytes, by caller
        self._reads: dict[Task, tuple[float, str]] = {}  # oldest first: since when, for which caller
        self._waiting: dict[str, deque[tuple[float, asyncio.Future[None]]]] = {}  # by caller: since when

    async def read(self, context: Context, caller: str, limit: int) -> bytes:
        """Reads the message of a call of this caller, up to `limit` bytes. Stops counting its memory once it is read.

        Raises RefusedError: the message is too large or too slow, it is missing, or there is no memory for it now.
        Runs for every call, so `_fits` and `_take` are written out here.
        """
        largest, held = self._largest, self._held
        size = held.get(caller, 0)
        if self._waiting or self._free < largest or size >= SHARE * self._free:
            await self._wait_for_turn(caller)
        else:
            self._free -= largest
            held[caller] = size + largest
        task = asyncio.current_task()
        self._reads[task] = time.monotonic(), caller
        try:
            body = await context.read()
        except asyncio.CancelledError:
            if task in self._reads or task is None:  # the caller has left; else `_cut` has cancelled the read
                raise
            task.uncancel()
            text = "the request did not arrive in time"
            raise RefusedError(RefusalKind.TOO_SLOW, "SLOW_BODY", text) from None
        finally:
            self._reads.pop(task, None)
            self._give_back(caller, largest)
        if type(body) is not bytes:  # gRPC's EOF: the caller has ended its side, or has left
            raise EndedError
        if len(body) > limit:
            text = f"the request is larger than {limit} bytes"
            raise RefusedError(RefusalKind.EXHAUSTED, "TOO_LARGE", text)
        return body

    @contextmanager
    def held(self, caller: str, size: int) -> Iterator[None]:
        """Counts the memory of a post of `size` bytes while the block runs. Never waits, so reads may have to."""
        self._take(caller, COPIES * size)
        try:
            yield
        finally:
            self._give_back(caller, COPIES * size)

    async def sweep(self) -> None:
        """Cuts late bodies, until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            while self._reads and (oldest := next(iter(self._reads.items())))[1][0] < now - self._longest_s:
                self._cut(oldest[0])
            if self._max_slow is not None:
                slow = [task for task, (began, _) in self._reads.items() if began < now - GRACE_S]
                for task in slow[: max(0, len(slow) - self._max_slow)]:
                    self._cut(task)
            if self._waiting:
                self._refuse_waiting(now - WAIT_S)
                for caller in list(self._waiting):
                    self._make_room(caller)

    def _fits(self, caller: str) -> bool:
        """Whether this caller may take the memory of a read now."""
        return self._free >= self._largest and self._held.get(caller, 0) < SHARE * self._free

    def _take(self, caller: str, size: int) -> None:
        self._free -= size
        self._held[caller] = self._held.get(caller, 0) + size

    def _give_back(self, caller: str, size: int) -> None:
        self._free += size
        left = self._held[caller] - size
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]
        if self._waiting:
            self._call_next()

    async def _wait_for_turn(self, caller: str) -> None:
        """Waits until the caller has the memory of a read. Raises RefusedError."""
        if self._max_waiting is not None and self._crowded(caller, self._max_waiting):
            raise too_many_bodies()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((time.monotonic(), turn))
        self._call_next()
        self._make_room(caller)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():  # it has got the memory already
                self._give_back(caller, self._largest)
            raise

    def _crowded(self, caller: str, limit: int) -> bool:
        """Whether no further read of this caller may wait."""
        queue = self._waiting.get(caller)
        if queue is None:
            return False
        if len(queue) >= limit:  # some of these may have left
            waiting = [(since, turn) for since, turn in queue if not turn.done()]
            queue.clear()
            queue.extend(waiting)
        return len(queue) >= limit or sum(map(len, self._waiting.values())) >= MAX_WAITING

    def _refuse_waiting(self, before: float) -> None:
        """Refuses reads that have waited since before this time."""
        for caller, queue in list(self._waiting.items()):
            while queue and (queue[0][0] < before or queue[0][1].done()):
                turn = queue.popleft()[1]
                if not turn.done():
                    turn.set_exception(too_many_bodies())
            if not queue:
                del self._waiting[caller]

    def _call_next(self) -> None:
        """Starts the reads that memory is left for. The caller that holds the least goes first; equals take turns."""
        while self._waiting:
            caller = min(self._waiting, key=lambda name: self._held.get(name, 0))
            if not self._fits(caller):
                return
            queue = self._waiting.pop(caller)
            turn = queue.popleft()[1]
            if queue:
                self._waiting[caller] = queue  # behind the others
            if not turn.done():
                self._take(caller, self._largest)
                turn.set_result(None)

    def _make_room(self, caller: str) -> None:
        """Cuts the oldest read for a caller that waits, if the read is slow and another caller's. Lookups only."""
        if self._longest_s > LOOKUP_S or caller not in self._waiting or not self._reads:
            return
        task, (began, other) = next(iter(self._reads.items()))
        if other != caller and began < time.monotonic() - GRACE_S:
            self._cut(task)

    def _cut(self, task: Task) -> None:
        del self._reads[task]
        metrics.BODIES_CUT.inc()
        if task:
            task.cancel()


def too_many_bodies() -> RefusedError:
    """There is no memory to read a body with now."""
    return exhausted("OVERLOADED", "too many request bodies at once; try again later", WAIT_S)
