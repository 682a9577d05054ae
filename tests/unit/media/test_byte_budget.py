"""A byte budget is never exceeded, grants in order of arrival, and leaves no caller waiting."""

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
def test_the_budget_holds_while_callers_come_leave_and_give_up(size: int, wanted: list[tuple[int, bool]]) -> None:
    asyncio.run(visits(size, wanted))


async def visits(size: int, wanted: list[tuple[int, bool]]) -> None:
    budget, held, order = ByteBudget(size), dict[int, int](), list[int]()

    async def visit(number: int, want: int) -> None:
        async with budget.reserve(want) as reservation:
            held[number] = want
            order.append(number)
            assert sum(held.values()) <= size or len([bytes for bytes in held.values() if bytes]) == 1
            try:
                await asyncio.sleep(0)
                held[number] = want // 2
                reservation.shrink(want // 2)
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
        assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert not held
        async with budget.reserve(size + 1):  # the whole budget is free again
            assert order == sorted(order)


async def test_a_small_reservation_does_not_overtake_a_large_one() -> None:
    budget, came = ByteBudget(10), list[str]()

    async def visit(name: str, size: int) -> None:
        async with budget.reserve(size):
            came.append(name)

    async with asyncio.TaskGroup() as tasks, budget.reserve(4):
        for name, size in (("large", 100), ("small", 1)):
            tasks.create_task(visit(name, size))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert came == []
    assert came == ["large", "small"]


async def test_an_error_inside_frees_the_bytes() -> None:
    budget = ByteBudget(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"):
            async with budget.reserve(1):
                raise ValueError("inside")
