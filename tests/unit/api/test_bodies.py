"""Request bodies are read within a budget that callers share, and within a time."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from moderation.api.errors import RefusalKind, RefusedError
from moderation.api.grpc import bodies
from moderation.api.grpc.bodies import Bodies

LARGEST = 100


class Call:
    """A gRPC context whose message arrives when the test sets it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.message: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        self.asked.set()
        return await self.message


def reading(pool: Bodies, caller: str, limit: int = LARGEST) -> tuple[Call, asyncio.Task[bytes]]:
    call: Any = Call()
    return call, asyncio.create_task(pool.read(call, caller, limit))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_message_is_read_and_its_size_checked() -> None:
    pool = Bodies(3 * LARGEST, LARGEST, 10)
    call, task = reading(pool, "a", limit=4)
    call.message.set_result(b"1234")
    assert await task == b"1234"
    for message, kind, reason in (
        (b"12345", RefusalKind.EXHAUSTED, "TOO_LARGE"),
        (grpc.aio.EOF, RefusalKind.INVALID, "INVALID_FIELD"),
    ):
        call, task = reading(pool, "a", limit=4)
        call.message.set_result(message)
        with pytest.raises(RefusedError) as caught:
            await task
        assert (caught.value.kind, caught.value.reason) == (kind, reason)


async def test_a_caller_has_a_share_and_others_have_the_rest() -> None:
    pool = Bodies(6 * LARGEST, LARGEST, 10)
    greedy = [reading(pool, "greedy") for _ in range(10)]
    await settled()
    assert sum(call.asked.is_set() for call, _ in greedy) == 4
    call, task = reading(pool, "other")
    await settled()
    assert call.asked.is_set()
    call.message.set_result(b"x")
    assert await task == b"x"
    for number, (call, task) in enumerate(greedy):  # the waiting ones are read in turn
        await call.asked.wait()
        call.message.set_result(b"%d" % number)
        assert await task == b"%d" % number
    assert not pool._held
    assert pool._free == 6 * LARGEST


async def test_a_caller_that_holds_less_goes_first() -> None:
    pool = Bodies(2 * LARGEST, LARGEST, 10)
    first, _ = reading(pool, "a")
    second, held = reading(pool, "a")
    await settled()
    third, waiting = reading(pool, "a")
    other, task_of_other = reading(pool, "b")
    await settled()
    assert [call.asked.is_set() for call in (first, second, third, other)] == [True, True, False, False]
    first.message.set_result(b"")
    await settled()
    assert [call.asked.is_set() for call in (third, other)] == [False, True]
    for task in (held, waiting, task_of_other):
        task.cancel()
    await asyncio.gather(held, waiting, task_of_other, return_exceptions=True)
    assert pool._free == 2 * LARGEST


async def test_a_body_that_is_late_is_cut() -> None:
    pool = Bodies(LARGEST, LARGEST, 0.2)
    sweeping = asyncio.create_task(pool.sweep())
    _, task = reading(pool, "a")
    with pytest.raises(RefusedError) as caught:
        await asyncio.wait_for(task, 30)
    assert (caught.value.kind, caught.value.reason) == (RefusalKind.TOO_SLOW, "SLOW_BODY")
    assert pool._free == LARGEST
    sweeping.cancel()


async def test_a_slow_lookup_makes_room_for_one_that_waits() -> None:
    pool = Bodies(LARGEST, LARGEST, bodies.LOOKUP_S)
    sweeping = asyncio.create_task(pool.sweep())
    _, slow = reading(pool, "slow")
    await settled()
    call, task = reading(pool, "good")
    with pytest.raises(RefusedError, match="did not arrive in time"):
        await asyncio.wait_for(slow, bodies.LOOKUP_S - 1)
    call.message.set_result(b"x")
    assert await task == b"x"
    sweeping.cancel()


async def test_a_read_that_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "WAIT_S", 0.2)
    pool = Bodies(LARGEST, LARGEST, 60)  # as for posts, whose reads are not cut
    sweeping = asyncio.create_task(pool.sweep())
    call, large = reading(pool, "a")
    await settled()
    _, task = reading(pool, "b")
    with pytest.raises(RefusedError) as caught:
        await asyncio.wait_for(task, 30)
    assert (caught.value.kind, caught.value.reason) == (RefusalKind.EXHAUSTED, "OVERLOADED")
    call.message.set_result(b"x")
    assert await large == b"x"
    assert pool._free == LARGEST
    sweeping.cancel()


async def test_a_caller_that_leaves_gives_its_memory_back() -> None:
    pool = Bodies(LARGEST, LARGEST, 10)
    _, task = reading(pool, "a")
    _, waiting = reading(pool, "b")
    await settled()
    task.cancel()
    waiting.cancel()
    for each in (task, waiting):
        with pytest.raises(asyncio.CancelledError):
            await each
    call, task = reading(pool, "c")
    await settled()
    assert call.asked.is_set()
    call.message.set_result(b"x")
    assert await task == b"x"


async def test_a_post_that_is_being_put_counts_until_it_is_on_its_topic() -> None:
    pool = Bodies(4 * LARGEST, LARGEST, 10)
    with pool.held("a", LARGEST):
        call, task = reading(pool, "a")
        other, task_of_other = reading(pool, "b")
        await settled()
        assert not call.asked.is_set()  # a caller's posts count for its share
        assert other.asked.is_set()
    await settled()
    assert call.asked.is_set()
    for message in (call.message, other.message):
        message.set_result(b"x")
    assert set(await asyncio.gather(task, task_of_other)) == {b"x"}
    assert pool._free == 4 * LARGEST


async def test_the_oldest_slow_reads_are_cut_beyond_a_limit() -> None:
    pool = Bodies(100 * LARGEST, LARGEST, 60, max_slow=2)
    sweeping = asyncio.create_task(pool.sweep())
    tasks = []
    for number in range(4):
        call, task = reading(pool, str(number))
        await call.asked.wait()
        tasks.append((call, task))
    for _, task in tasks[:2]:
        with pytest.raises(RefusedError, match="did not arrive in time"):
            await asyncio.wait_for(task, 30)
    for call, task in tasks[2:]:
        call.message.set_result(b"x")
        assert await task == b"x"
    sweeping.cancel()


async def test_callers_that_hold_the_same_take_turns() -> None:
    """A caller whose queue never ends does not stay at the front."""
    pool = Bodies(LARGEST, LARGEST, 60)
    first, _ = reading(pool, "a")
    await settled()
    queued = [reading(pool, "a") for _ in range(3)]
    await settled()
    call, task = reading(pool, "b")
    await settled()
    first.message.set_result(b"")
    await settled()
    assert queued[0][0].asked.is_set()
    queued[0][0].message.set_result(b"")
    await settled()
    assert call.asked.is_set()
    call.message.set_result(b"x")
    assert await task == b"x"
    for _, left in queued:
        left.cancel()
    await asyncio.gather(*(left for _, left in queued), return_exceptions=True)
    assert pool._free == LARGEST


async def test_waiting_reads_of_a_caller_are_limited_and_further_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Bodies(LARGEST, LARGEST, 60, max_waiting=3)
    _, first = reading(pool, "a")
    await settled()
    tasks = [reading(pool, "a")[1] for _ in range(4)]
    await settled()
    with pytest.raises(RefusedError, match="too many request bodies") as caught:
        await tasks.pop()
    assert caught.value.reason == "OVERLOADED"
    tasks.pop().cancel()  # a read that has left does not count
    await settled()
    tasks += [reading(pool, "a")[1], reading(pool, "b")[1]]
    await settled()
    assert not any(task.done() for task in tasks)
    monkeypatch.setattr(bodies, "MAX_WAITING", 4)  # of all callers: a caller with none waiting may still add one
    refused, added = reading(pool, "b")[1], reading(pool, "c")[1]
    await settled()
    assert refused.done()
    assert isinstance(refused.exception(), RefusedError)
    assert not added.done()
    for task in (first, added, *tasks):
        task.cancel()
    await asyncio.gather(first, added, *tasks, return_exceptions=True)
    assert pool._free == LARGEST
