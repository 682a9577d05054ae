"""Request bodies on their way in: how many are read at once, how large they may be, and how long they may take.

gRPC holds a sender at HTTP/2's stream window (64 KiB) until somebody reads. A read may then take memory up to the
largest message of the server, whatever method it is for: so reads are counted. A post keeps its share of the memory
until it is on its topic.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from moderation.api.grpc.status import RefusedError, exhausted
from moderation.observability import metrics

SHARE = 2  # a caller may hold so many times what is left free: alone at most two thirds
WAIT_S = 2.0  # for memory to read a body with
LOOKUP_S = 5.0  # the bodies of lookups have to be complete within this
GRACE_S = 0.25  # a lookup's body that takes longer is slow, and makes room for others
SWEEP_S = 0.1
MOST_WAITING = 512  # reads in all, where callers may have so many: then those who have none waiting may add one
COPIES = 3  # a post on its way to the topic is held so often: the message, the record, the producer's batch

Task = asyncio.Task[Any] | None
Context = grpc.aio.ServicerContext[Any, Any]


class EndedError(RefusedError):
    """A call has no message, or no more."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "the call has no request")


class Bodies:
    """Reads the bodies of one kind of methods, within a budget of bytes that callers share."""

    def __init__(
        self,
        budget: int,
        largest: int,
        longest_s: float,
        most_slow: int | None = None,
        *,
        most_waiting: int | None = None,
    ) -> None:
        """`budget`: bytes. A read takes `largest` of them; it has to end within `longest_s`.

        `most_slow`: reads that may take longer than GRACE_S at a time; None: all. `most_waiting`: reads of a caller
        that may wait at a time; None: all, as something else bounds the calls.
        """
        self._most_slow = most_slow
        self._most_waiting = most_waiting
        self._free = max(budget, largest)
        self._largest = largest
        self._longest_s = longest_s
        self._held: dict[str, int] = {}  # bytes, by caller
        self._reads: dict[Task, tuple[float, str]] = {}  # oldest first: since when, for which caller
        self._waiting: dict[str, deque[tuple[float, asyncio.Future[None]]]] = {}  # by caller: since when

    async def read(self, context: Context, caller: str, limit: int) -> bytes:
        """The message of a call of this caller, up to `limit` bytes. Its memory is not counted any more.

        Raises RefusedError: it is too large or too slow, it is missing, or there is no memory for it now. Runs for
        every call, and is written out for that.
        """
        largest, held = self._largest, self._held
        mine = held.get(caller, 0)
        if self._waiting or self._free < largest or mine >= SHARE * self._free:
            await self._turn(caller)
        else:
            self._free -= largest
            held[caller] = mine + largest
        task = asyncio.current_task()
        self._reads[task] = time.monotonic(), caller
        try:
            body = await context.read()
        except asyncio.CancelledError:
            if task in self._reads or task is None:  # it is the caller who has left
                raise
            task.uncancel()
            text = "the request did not arrive in time"
            raise RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "SLOW_BODY", text) from None
        finally:
            self._reads.pop(task, None)
            self._give_back(caller, largest)
        if type(body) is not bytes:  # the caller has ended its side, or has left
            raise EndedError
        if len(body) > limit:
            text = f"the request is larger than {limit} bytes"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", text)
        return body

    @contextmanager
    def held(self, caller: str, size: int) -> Iterator[None]:
        """Counts the memory of a post of `size` bytes while the block runs. Others may have to wait for it."""
        taken = COPIES * size
        self._take(caller, taken)
        try:
            yield
        finally:
            self._give_back(caller, taken)

    async def sweep(self) -> None:
        """Cuts bodies that are late, until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            while self._reads and (oldest := next(iter(self._reads.items())))[1][0] < now - self._longest_s:
                self._cut(oldest[0])
            if self._most_slow is not None:
                slow = [task for task, (began, _) in self._reads.items() if began < now - GRACE_S]
                for task in slow[: max(0, len(slow) - self._most_slow)]:
                    self._cut(task)
            if self._waiting:
                self._send_away(now - WAIT_S)
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

    async def _turn(self, caller: str) -> None:
        """Waits until the caller has the memory of a read. Raises RefusedError."""
        if self._most_waiting is not None and self._crowded(caller, self._most_waiting):
            raise too_many()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((time.monotonic(), turn))
        self._call_next()
        self._make_room(caller)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():  # it had been called
                self._give_back(caller, self._largest)
            raise

    def _crowded(self, caller: str, most: int) -> bool:
        """Whether as many reads wait as may."""
        queue = self._waiting.get(caller)
        if queue is None:
            return False
        if len(queue) >= most:  # of which some may have left
            left = [one for one in queue if not one[1].done()]
            queue.clear()
            queue.extend(left)
        return len(queue) >= most or sum(map(len, self._waiting.values())) >= MOST_WAITING

    def _send_away(self, before: float) -> None:
        """Refuses those who have waited since before then."""
        for caller, queue in list(self._waiting.items()):
            while queue and (queue[0][0] < before or queue[0][1].done()):
                turn = queue.popleft()[1]
                if not turn.done():
                    turn.set_exception(too_many())
            if not queue:
                del self._waiting[caller]

    def _call_next(self) -> None:
        """Lets those in for whom there is memory: callers that hold the least go first, of equals in turn."""
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
        """Cuts the oldest read for one that waits, where reads are short: another caller's, if it is a slow one."""
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


def too_many() -> RefusedError:
    """There is no memory to read a body with now."""
    return exhausted("OVERLOADED", "too many request bodies at once; try again later", WAIT_S)
