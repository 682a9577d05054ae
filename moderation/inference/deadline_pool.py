"""Threads that work under a deadline. Encoding and images use them.

- A free thread takes the work that has waited longest. Small work is taken in groups, because handing an item to a
  thread costs more than the item. If an item of a group is slow, the rest of the group goes to other threads.
- A thread cannot be stopped. A late thread keeps its place until it ends, and a spare thread takes over, up to a bound.

Ownership of items:

- Only the event loop completes an item. Until then, the item is in `_waiting` or in the `items` of one group.
- The thread takes items out of the queue of its group, which is atomic, and puts outcomes into `done`. The event loop
  may take items out of the same queue: the thread never begins these.
- When a thread ends, for any reason, the items of its group that have no outcome are queued again.
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

GROUP = 32  # most small items that a thread takes at once
SLOW_S = 0.1  # if an item takes longer, the rest of its group goes to other threads
TICK_S = 1.0  # between two checks of a thread
TRIES = 3  # at an item whose thread ended without an outcome

T = TypeVar("T")


class LateError(ModerationError):
    """The work was not done in time. Its thread still runs."""


@dataclass(eq=False, slots=True)
class _Item:
    work: Callable[[], Any]
    small: bool
    result: asyncio.Future[Any]  # already done if the caller left
    context: Context  # of the caller, so that logs on the thread name the post
    tries: int = 0


@dataclass(eq=False, slots=True)
class _Group:
    """The items of one thread."""

    items: set[_Item]  # without an outcome; belongs to the event loop
    queue: deque[_Item]  # the items that the thread has not begun
    done: deque[tuple[_Item, Any, BaseException | None]] = field(default_factory=deque)
    current: tuple[_Item, float] | None = None  # the item in hand, and its start; written by the thread only
    spent: float = 0.0  # seconds on the current item, as measured by checks
    checked: float = 0.0  # time of the last check
    late: bool = False
    timer: asyncio.TimerHandle | None = None


class DeadlinePool:
    """Awaits blocking work on threads. The same deadline holds for each item. Threads start when there is work."""

    def __init__(
        self, name: str, threads: int, timeout_s: float, all_late: str, on_late: Callable[[], None] = lambda: None
    ) -> None:
        """timeout_s: for one item, without waiting for a thread. all_late: text of the error if no thread is left.

        on_late: called on the event loop for each late item. Must return at once.
        """
        self._threads = threads
        self._max_threads = threads + max(4, threads)  # including spare threads
        self._timeout_s = timeout_s
        self._all_late = all_late
        self._on_late = on_late
        self._executor = ThreadPoolExecutor(self._max_threads, thread_name_prefix=name)
        self._waiting: deque[_Item] = deque()
        self._groups: set[_Group] = set()
        self._late = 0  # late threads
        self._closed: ModerationError | None = None

    def __len__(self) -> int:
        """Items without an outcome."""
        return sum(not item.result.done() for item in self._all())

    @property
    def late(self) -> int:
        """Threads whose current item is late."""
        return self._late

    async def run(self, work: Callable[[], T], *, small: bool = False) -> T:
        """Returns what `work` returns. `work` runs in a copy of the caller's context.

        Raises what `work` raises, LateError if it takes longer than timeout_s, and DeviceError if no thread is left.
        """
        self._check()
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(work, small, result, copy_context()))
        self._begin()
        return await result

    def close(self, error: ModerationError) -> None:
        """Raises the error in all callers that wait. Does not wait for threads."""
        self._closed = error
        self._executor.shutdown(wait=False)
        self._fail(error, self._all())
        self._waiting.clear()

    # On the event loop

    def _check(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)
        if self._late >= self._max_threads:
            raise DeviceError(self._all_late)

    def _all(self) -> list[_Item]:
        return [*self._waiting, *(item for group in self._groups for item in group.items)]

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._closed is None and self._free():
            if not (items := self._take()):
                return
            group = _Group(set(items), items, checked=time.monotonic())
            self._groups.add(group)
            group.timer = loop.call_later(min(SLOW_S, self._timeout_s), self._examine, group)
            try:
                thread = loop.run_in_executor(self._executor, _work, group)
            except RuntimeError:  # the system gives no further thread
                group.timer.cancel()
                self._groups.discard(group)
                group.queue.clear()  # the executor may still begin the group
                self._fail(DeviceError("no thread can be started"), group.items)
                continue
            thread.add_done_callback(partial(self._end, group))

    def _free(self) -> bool:
        """Whether a further thread may work: late threads have spare ones, up to the bound."""
        return len(self._groups) - self._late < min(self._threads, self._max_threads - self._late)

    def _take(self) -> deque[_Item]:
        items: deque[_Item] = deque()
        while self._waiting and len(items) < GROUP and (not items or (items[0].small and self._waiting[0].small)):
            item = self._waiting.popleft()
            if not item.result.done():
                items.append(item)
        return items

    def _examine(self, group: _Group) -> None:
        """Completes items that are done, fails a late item, and gives the rest of a slow group to other threads."""
        current = group.current  # read before items are completed: an item that is done by now is not late
        self._complete(group)
        now = time.monotonic()
        if current is None or current is not group.current:
            group.spent = 0.0
        else:
            # A process that was stopped has not used the time: a check counts at most twice the interval.
            group.spent += min(now - max(group.checked, current[1]), 2 * TICK_S)
            if group.spent >= self._timeout_s and not group.late:
                self._give_up(group, current[0])
            if group.spent >= min(SLOW_S, self._timeout_s):
                self._requeue(group)
        group.checked = now
        wait = (
            SLOW_S if group.queue else TICK_S if group.late else min(TICK_S, max(0.01, self._timeout_s - group.spent))
        )
        group.timer = asyncio.get_running_loop().call_later(wait, self._examine, group)
        self._begin()

    def _requeue(self, group: _Group) -> None:
        """Queues the rest of a group again. The thread does not begin these items."""
        rest: list[_Item] = []
        while (item := _pop(group.queue)) is not None:
            rest.append(item)
        group.items.difference_update(rest)
        self._waiting.extendleft(reversed(rest))

    def _give_up(self, group: _Group, item: _Item) -> None:
        group.late = True
        self._late += 1
        self._on_late()
        if self._late < self._max_threads:
            self._fail(LateError(f"not done in {self._timeout_s:g} s"), [item])
        else:
            self._fail(DeviceError(self._all_late), (item, *self._waiting))
            self._waiting.clear()

    def _end(self, group: _Group, thread: asyncio.Future[None]) -> None:
        """Frees the thread. Items without an outcome are queued again."""
        if group.timer:
            group.timer.cancel()
        self._groups.discard(group)
        self._late -= group.late
        if not thread.cancelled():
            thread.exception()  # `_work` raises nothing; if it did, its items are queued again here
        self._complete(group)
        self._requeue(group)
        for item in group.items:  # begun, without an outcome
            item.tries += 1
            if item.tries < TRIES:
                self._waiting.appendleft(item)
            else:
                self._fail(DeviceError("a thread ended without an outcome"), [item])
        if self._closed is not None:
            self._fail(self._closed, self._waiting)
            self._waiting.clear()
        self._begin()

    def _complete(self, group: _Group) -> None:
        while group.done:
            item, result, error = group.done.popleft()
            group.items.discard(item)
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


def _work(group: _Group) -> None:
    while (item := _pop(group.queue)) is not None:
        group.current = item, time.monotonic()
        result, error = item.context.copy().run(_outcome, item.work)
        group.done.append((item, result, error))
        group.current = None


def _outcome(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Returns what `work` returned or raised, as (result, error).

    A panic, an exit or a cancellation would end the caller, and a future refuses StopIteration: these become a
    RuntimeError.
    """
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001  raised again where the work is awaited
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            return None, error
        return None, RuntimeError(f"the work ended with {type(error).__name__}")


def _pop(queue: deque[_Item]) -> _Item | None:
    """Removes and returns the first item, or returns None. Atomic: no two threads get the same item."""
    try:
        return queue.popleft()
    except IndexError:
        return None
