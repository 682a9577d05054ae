"""Threads that work under a deadline: encoding and images run on them.

A free thread takes the work that waited longest. Small work is taken in rows, because each item costs less than the
way to a thread and back. When an item of a row turns out to be slow, the rest of the row goes to other threads.

A thread cannot be stopped. A late one keeps its place until it ends, and a spare thread takes over, within a bound.

Who completes what: the event loop alone answers items, and each item is in `_waiting` or in one row's `items` until it
is answered. The thread takes items out of its row's queue, which is atomic, and leaves outcomes in `done`. What the
event loop takes out of that queue, the thread never begins. When a thread ends, for whatever reason, the items of its
row that have no outcome are queued again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from moderation.errors import DeviceError, ModerationError

ROW = 32  # small items that a thread takes at most
SLOW_S = 0.1  # a small item that takes longer loses the rest of its row
TICK_S = 1.0  # between two looks at a thread
TRIES = 3  # at an item whose thread has ended without an outcome

T = TypeVar("T")


class LateError(ModerationError):
    """The work was not done in time. Its thread is left behind."""


@dataclass(eq=False, slots=True)
class _Item:
    work: Callable[[], Any]
    small: bool
    result: asyncio.Future[Any]  # done early: the caller left
    context: Context  # what is logged on the thread names the post
    tries: int = 0


@dataclass(eq=False, slots=True)
class _Row:
    """What one thread is at."""

    items: set[_Item]  # without an outcome; the event loop's
    queue: deque[_Item]  # of these, those that the thread has not begun
    done: deque[tuple[_Item, Any, BaseException | None]] = field(default_factory=deque)
    at: tuple[_Item, float] | None = None  # the item in hand, and when it began; written by the thread alone
    spent: float = 0.0  # seconds on it, as far as the event loop was there to see
    looked: float = 0.0
    late: bool = False
    timer: asyncio.TimerHandle | None = None


class DeadlinePool:
    """Awaits blocking work on threads, each item under the same deadline. Starts threads only when there is work."""

    def __init__(
        self, name: str, threads: int, timeout_s: float, all_late: str, on_late: Callable[[], None] = lambda: None
    ) -> None:
        """timeout_s: for one item, without its wait for a thread. all_late: the error when no thread is left.

        on_late: called on the event loop for each item that is late; must return at once.
        """
        self._threads = threads
        self._most = threads + max(4, threads)  # with the spare ones
        self._timeout_s = timeout_s
        self._all_late = all_late
        self._on_late = on_late
        self._executor = ThreadPoolExecutor(self._most, thread_name_prefix=name)
        self._waiting: deque[_Item] = deque()
        self._rows: set[_Row] = set()
        self._late = 0  # threads
        self._closed: ModerationError | None = None

    def __len__(self) -> int:
        """Items without an outcome."""
        return sum(not item.result.done() for item in self._all())

    @property
    def late(self) -> int:
        """Threads that are at an item for longer than its deadline."""
        return self._late

    async def run(self, work: Callable[[], T], *, small: bool = False) -> T:
        """What `work` returns. It runs in a copy of the caller's context.

        Raises what `work` raises, LateError when it takes longer than timeout_s, DeviceError when no thread is left.
        """
        self._check()
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(work, small, result, copy_context()))
        self._begin()
        return await result

    def close(self, error: ModerationError) -> None:
        """Does not wait for threads. Everyone who waits for an item gets the error."""
        self._closed = error
        self._executor.shutdown(wait=False)
        self._fail(error, self._all())
        self._waiting.clear()

    # On the event loop

    def _check(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)
        if self._late >= self._most:
            raise DeviceError(self._all_late)

    def _all(self) -> list[_Item]:
        return [*self._waiting, *(item for row in self._rows for item in row.items)]

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._closed is None and len(self._rows) - self._late < min(self._threads, self._most - self._late):
            if not (items := self._take()):
                return
            row = _Row(set(items), items, looked=time.monotonic())
            self._rows.add(row)
            row.timer = loop.call_later(min(SLOW_S, self._timeout_s), self._look, row)
            try:
                thread = loop.run_in_executor(self._executor, _work, row)
            except RuntimeError:  # the system gives no further thread
                row.timer.cancel()
                self._rows.discard(row)
                row.queue.clear()  # the executor may still begin the row
                self._fail(DeviceError("no thread can be started"), row.items)
                continue
            thread.add_done_callback(partial(self._end, row))

    def _take(self) -> deque[_Item]:
        items: deque[_Item] = deque()
        while self._waiting and len(items) < ROW and (not items or (items[0].small and self._waiting[0].small)):
            item = self._waiting.popleft()
            if not item.result.done():
                items.append(item)
        return items

    def _look(self, row: _Row) -> None:
        """Answers what is done, gives up what is late, and gives the rest of a slow row to others."""
        at = row.at  # before the answers: what is done by now is not late
        self._answer(row)
        now = time.monotonic()
        if at is None or at is not row.at:
            row.spent = 0.0
        else:
            # A process that was stopped has not used the time: no more counts than a look is apart, and some.
            row.spent += min(now - max(row.looked, at[1]), 2 * TICK_S)
            if row.spent >= self._timeout_s and not row.late:
                self._give_up(row, at[0])
            if row.spent >= min(SLOW_S, self._timeout_s):
                self._requeue(row)
        row.looked = now
        wait = SLOW_S if row.queue else TICK_S if row.late else min(TICK_S, max(0.01, self._timeout_s - row.spent))
        row.timer = asyncio.get_running_loop().call_later(wait, self._look, row)
        self._begin()

    def _requeue(self, row: _Row) -> None:
        """The thread takes no more of it: what is taken out here, it does not find."""
        rest: list[_Item] = []
        while (item := _taken_from(row.queue)) is not None:
            rest.append(item)
        row.items.difference_update(rest)
        self._waiting.extendleft(reversed(rest))

    def _give_up(self, row: _Row, item: _Item) -> None:
        row.late = True
        self._late += 1
        self._on_late()
        if self._late < self._most:
            self._fail(LateError(f"not done in {self._timeout_s:g} s"), [item])
        else:
            self._fail(DeviceError(self._all_late), (item, *self._waiting))
            self._waiting.clear()

    def _end(self, row: _Row, thread: asyncio.Future[None]) -> None:
        """The thread is free, however it ended: what it has left undone is queued again."""
        if row.timer:
            row.timer.cancel()
        self._rows.discard(row)
        self._late -= row.late
        if not thread.cancelled():
            thread.exception()  # `_work` raises nothing; if it did, what it has left is queued again here
        self._answer(row)
        self._requeue(row)
        for item in row.items:  # begun, and without an outcome
            item.tries += 1
            if item.tries < TRIES:
                self._waiting.appendleft(item)
            else:
                self._fail(DeviceError("a thread ends without an outcome"), [item])
        if self._closed is not None:
            self._fail(self._closed, self._waiting)
            self._waiting.clear()
        self._begin()

    def _answer(self, row: _Row) -> None:
        while row.done:
            item, result, error = row.done.popleft()
            row.items.discard(item)
            if item.result.done():
                continue
            if error is None:
                item.result.set_result(result)
            else:
                item.result.set_exception(error)

    @staticmethod
    def _fail(error: ModerationError, items: Iterable[_Item]) -> None:
        for item in items:
            if not item.result.done():
                item.result.set_exception(type(error)(*error.args))


# On a thread


def _work(row: _Row) -> None:
    while (item := _taken_from(row.queue)) is not None:
        row.at = item, time.monotonic()
        result, error = item.context.copy().run(_outcome, item.work)
        row.done.append((item, result, error))
        row.at = None


def _outcome(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """What `work` returned or raised. A panic, an exit or a cancellation would end the caller instead of failing it,
    and no future takes a StopIteration: these become a RuntimeError.
    """
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001  it is raised where the work is awaited
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            return None, error
        return None, RuntimeError(f"the work ended with {type(error).__name__}")


def _taken_from(queue: deque[_Item]) -> _Item | None:
    """The first one; None: there is none. Atomic: of two who take, each gets another one."""
    try:
        return queue.popleft()
    except IndexError:
        return None
