"""Request bodies on their way in: how many are read at once, how large they may be, and how long they may take.

gRPC holds a sender at HTTP/2's stream window (64 KiB) until somebody reads. A read may then take memory up to the
largest message of the server, whatever method it is for: so reads are counted. A post keeps its share of the memory
until it is on its topic.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from moderation import metrics
from moderation.refusals import RefusedError, exhausted

SHARE = 2  # a caller may hold so many times what is left free: alone at most two thirds
WAIT_S = 2.0  # for memory to read a body with
LOOKUP_S = 5.0  # the bodies of lookups have to be complete within this
GRACE_S = 0.25  # a lookup's body that takes longer makes room for one that waits
SWEEP_S = 0.1
COPIES = 3  # a post on its way to the topic is held so often: the message, the record, the producer's batch
HEADER = 5  # bytes of a gRPC message's own header

Context = grpc.aio.ServicerContext[Any, Any]


class _Read:
    """A body that is being read, by a task that is cancelled when it takes too long."""

    __slots__ = ("began", "caller", "late", "task")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.began = time.monotonic()
        self.late = False
        self.task = asyncio.current_task()


class Bodies:
    """Reads the bodies of one kind of methods, within a budget of bytes that callers share."""

    def __init__(self, budget: int, largest: int, longest_s: float) -> None:
        """`budget`: bytes. A read takes `largest` of them; it has to end within `longest_s`."""
        self._budget = max(budget, largest)
        self._largest = largest
        self._longest_s = longest_s
        self._free = self._budget
        self._held: Counter[str] = Counter()  # bytes, by caller
        self._reads: dict[_Read, None] = {}  # oldest first
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by caller

    async def read(self, context: Context, caller: str, limit: int) -> bytes:
        """The message of a call of this caller, up to `limit` bytes. Its memory is not counted any more.

        Raises RefusedError: it is too large or too slow, it is missing, or there is no memory for it now.
        """
        body = await self.read_next(context, caller, limit)
        if body is None:  # the caller has ended its side, or has left
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "the call has no request")
        return body

    async def read_next(self, context: Context, caller: str, limit: int) -> bytes | None:
        """The next message of a stream, as above; None: there are no more."""
        body = await self._read(context, caller)
        self._give_back(caller, self._largest)
        if not isinstance(body, bytes):
            return None
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
            while self._reads and (oldest := next(iter(self._reads))).began < now - self._longest_s:
                self._cut(oldest)

    async def _read(self, context: Context, caller: str) -> Any:
        if not self._waiting and self._fits(caller):
            self._take(caller, self._largest)
        else:
            await self._turn(caller)
        read = _Read(caller)
        self._reads[read] = None
        try:
            body = await context.read()
        except BaseException as error:
            self._give_back(caller, self._largest)
            if read.late and isinstance(error, asyncio.CancelledError) and read.task:
                read.task.uncancel()
                raise slow_body() from None
            raise
        finally:
            self._reads.pop(read, None)
        return body

    def _fits(self, caller: str) -> bool:
        """Whether this caller may take the memory of a read now."""
        held = self._held.get(caller, 0)
        return self._free >= self._largest and held < SHARE * self._free

    def _take(self, caller: str, size: int) -> None:
        self._free -= size
        self._held[caller] += size

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
        """Waits until the caller has the memory of a read."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(caller, deque())
        queue.append(turn)
        self._call_next()
        self._make_room(caller)
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give_back(caller, self._largest)
            else:
                self._leave(caller, turn)
            if isinstance(error, TimeoutError):
                text = "too many request bodies at once; try again later"
                raise exhausted("OVERLOADED", text, WAIT_S) from None
            raise

    def _leave(self, caller: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(caller)
        if queue and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[caller]

    def _call_next(self) -> None:
        """Lets those in for whom there is memory: callers that hold the least go first."""
        while self._waiting:
            caller = min(self._waiting, key=lambda name: self._held.get(name, 0))
            if not self._fits(caller):
                return
            turn = self._waiting[caller].popleft()
            if not self._waiting[caller]:
                del self._waiting[caller]
            if not turn.done():
                self._take(caller, self._largest)
                turn.set_result(None)

    def _make_room(self, caller: str) -> None:
        """Cuts the oldest read for one that waits, where reads are short: another caller's, if it is a slow one."""
        if self._longest_s > LOOKUP_S or caller not in self._waiting or not self._reads:
            return
        oldest = next(iter(self._reads))
        if oldest.caller != caller and oldest.began < time.monotonic() - GRACE_S:
            self._cut(oldest)

    def _cut(self, read: _Read) -> None:
        self._reads.pop(read, None)
        read.late = True
        metrics.BODIES_CUT.inc()
        if read.task:
            read.task.cancel()


def slow_body() -> RefusedError:
    """A body did not come in time."""
    return RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "SLOW_BODY", "the request did not arrive in time")
