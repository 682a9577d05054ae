"""No more is held than there is room for, nobody is overtaken, and nobody is left waiting."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.media.byte_budget import ByteBudget


@given(
    st.integers(1, 10),
    st.lists(st.tuples(st.integers(0, 14), st.booleans()), min_size=1, max_size=12),
)
def test_the_bound_holds_whoever_comes_leaves_or_gives_up(size: int, wanted: list[tuple[int, bool]]) -> None:
    asyncio.run(a_day(size, wanted))


async def a_day(size: int, wanted: list[tuple[int, bool]]) -> None:
    room, held, order = ByteBudget(size), dict[int, int](), list[int]()

    async def visit(number: int, want: int) -> None:
        async with room.of(want):
            held[number] = want
            order.append(number)
            assert sum(held.values()) <= size or len([one for one in held.values() if one]) == 1
            try:
                await asyncio.sleep(0)
            finally:
                del held[number]

    tasks = [asyncio.create_task(visit(number, want)) for number, (want, _) in enumerate(wanted)]
    await asyncio.sleep(0)
    for task, (_, gives_up) in zip(tasks, wanted, strict=True):
        if gives_up:
            task.cancel()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in outcomes)
        assert not held
        async with room.of(size + 1):  # all of it is free again
            assert order == sorted(order)


async def test_a_small_one_does_not_overtake_a_large_one() -> None:
    room, came = ByteBudget(10), list[str]()

    async def visit(name: str, size: int) -> None:
        async with room.of(size):
            came.append(name)

    async with asyncio.TaskGroup() as tasks, room.of(4):
        for name, size in (("large", 100), ("small", 1)):
            tasks.create_task(visit(name, size))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert came == []
    assert came == ["large", "small"]


async def test_an_error_within_gives_the_room_back() -> None:
    room = ByteBudget(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"):
            async with room.of(1):
                raise ValueError("mine")
