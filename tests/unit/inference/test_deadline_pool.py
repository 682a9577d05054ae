"""Threads under a deadline: every item gets its outcome, and a thread that hangs takes nothing with it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from moderation.errors import DeviceError, ModerationError
from moderation.inference import deadline_pool
from moderation.inference.deadline_pool import DeadlinePool, LateError

ALL_LATE = "no thread is left"


class Gate:
    """Holds up the threads that come to it."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Semaphore(0), threading.Event()

    def wait(self) -> str:
        self.reached.release()
        self.open.wait()
        return "late"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def pool() -> Iterator[Callable[..., DeadlinePool]]:
    made: list[DeadlinePool] = []

    def make(threads: int = 1, timeout_s: float = 0.05) -> DeadlinePool:
        made.append(DeadlinePool("test", threads, timeout_s, ALL_LATE))
        return made[-1]

    yield make
    for pool in made:
        pool._executor.shutdown(wait=False)


async def test_it_returns_what_the_work_returns_and_raises_what_it_raises(pool: Callable[..., DeadlinePool]) -> None:
    def fails() -> None:
        raise KeyError

    made = pool()
    assert await made.run(lambda: 7) == 7
    with pytest.raises(KeyError):
        await made.run(fails)
    assert len(made) == 0


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
async def test_what_would_end_its_caller_is_an_error_like_any_other(
    error: type[BaseException], pool: Callable[..., DeadlinePool]
) -> None:
    def ends() -> None:
        raise error

    with pytest.raises(RuntimeError, match=error.__name__):
        await pool().run(ends)


async def test_a_spare_thread_takes_over_from_a_late_one(pool: Callable[..., DeadlinePool], gate: Gate) -> None:
    made = pool()
    for _ in range(4):
        with pytest.raises(LateError):
            await made.run(gate.wait)
        assert await made.run(lambda: "next") == "next"
    assert made.late == 4


async def test_when_the_spare_threads_are_late_too_all_callers_get_an_error(
    pool: Callable[..., DeadlinePool], gate: Gate
) -> None:
    made = pool(threads=2)
    outcomes = await asyncio.gather(*(made.run(gate.wait) for _ in range(8)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(LateError) == 5
    assert [type(outcome) for outcome in outcomes].count(DeviceError) == 3, "the last late one, and two that waited"
    with pytest.raises(DeviceError, match=ALL_LATE):
        await made.run(lambda: 7)
    gate.open.set()
    async with asyncio.timeout(10):
        while made.late:  # noqa: ASYNC110  a thread's end has no event
            await asyncio.sleep(0.01)
    assert await made.run(lambda: 7) == 7, "its threads are back"


async def test_a_thread_is_late_though_its_caller_left(pool: Callable[..., DeadlinePool], gate: Gate) -> None:
    made = pool()
    left = asyncio.create_task(made.run(gate.wait))
    await asyncio.to_thread(gate.reached.acquire)
    left.cancel()
    async with asyncio.timeout(10):
        while not made.late:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await made.run(lambda: 7) == 7


async def test_the_rest_of_a_slow_group_goes_to_other_threads(pool: Callable[..., DeadlinePool], gate: Gate) -> None:
    made = pool(threads=2, timeout_s=60)
    slow = asyncio.create_task(made.run(gate.wait, small=True))
    others = [made.run(lambda number=number: number, small=True) for number in range(20)]  # type: ignore[misc]
    assert await asyncio.wait_for(asyncio.gather(*others), 20) == list(range(20))
    assert not slow.done()
    assert len(made) == 1
    gate.open.set()
    assert await slow == "late"


async def test_a_process_that_stood_still_has_not_used_up_the_time(
    pool: Callable[..., DeadlinePool], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP, a debugger, a laptop's lid: the clock goes on, and the thread does not."""
    monkeypatch.setattr(deadline_pool, "TICK_S", 0.02)
    made = pool(timeout_s=1.0)
    work = asyncio.create_task(made.run(gate.wait))
    await asyncio.to_thread(gate.reached.acquire)
    time.sleep(1.5)  # the event loop stands still  # noqa: ASYNC251
    await asyncio.sleep(0.1)
    assert not work.done()
    gate.open.set()
    assert await work == "late"


async def test_closing_fails_all_callers_that_wait(pool: Callable[..., DeadlinePool], gate: Gate) -> None:
    made = pool(timeout_s=60)
    waiting = [asyncio.create_task(made.run(gate.wait)) for _ in range(5)]
    await asyncio.to_thread(gate.reached.acquire)
    made.close(ModerationError("closed"))
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert {(type(outcome), str(outcome)) for outcome in outcomes} == {(ModerationError, "closed")}
    with pytest.raises(ModerationError, match="closed"):
        await made.run(lambda: 7)


async def test_items_of_a_thread_that_died_are_queued_again(
    pool: Callable[..., DeadlinePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may end at any instruction: with an item in hand, and others not begun."""
    work, died = deadline_pool._work, list[deadline_pool._Item]()

    def dies_first(group: deadline_pool._Group) -> None:
        if not died:
            died.append(group.queue.popleft())
            raise MemoryError
        work(group)

    monkeypatch.setattr(deadline_pool, "_work", dies_first)
    made = pool(timeout_s=60)
    items = [made.run(lambda number=number: number, small=True) for number in range(10)]  # type: ignore[misc]
    assert await asyncio.wait_for(asyncio.gather(*items), 10) == list(range(10))
    assert len(died) == 1


async def test_a_thread_that_cannot_be_started_fails_its_items_and_keeps_no_place(
    pool: Callable[..., DeadlinePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError

    made = pool(threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(DeviceError, match="no thread can be started"):
            await made.run(lambda: 7)
    assert len(made) == 0
    assert await made.run(lambda: 7) == 7
