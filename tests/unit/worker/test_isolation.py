"""Posts run together, except one that runs alone; neither kind starves the other, and no post waits for ever."""

from __future__ import annotations

import asyncio
import random

import pytest

from moderation.worker.isolation import SHARE, Isolation


class Log:
    """Who runs, and who has."""

    def __init__(self, patience_s: float = 60.0) -> None:
        self.isolation = Isolation(patience_s)
        self.together = 0
        self.alone = 0
        self.ran: list[str] = []

    async def run_together(self, name: str, end: asyncio.Event | None = None) -> None:
        async with self.isolation.together():
            self.together += 1
            try:
                await self._run(name, end)
            finally:
                self.together -= 1

    async def run_alone(self, name: str, end: asyncio.Event | None = None, rank: int = 0) -> None:
        async with self.isolation.alone(rank):
            self.alone += 1
            try:
                await self._run(name, end)
            finally:
                self.alone -= 1

    async def _run(self, name: str, end: asyncio.Event | None) -> None:
        assert self.alone + bool(self.together) == 1
        self.ran.append(name)
        await (end.wait() if end else asyncio.sleep(0))
        assert self.alone + bool(self.together) == 1


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_that_runs_alone_waits_for_those_who_run_and_holds_up_those_who_come() -> None:
    log, first, alone = Log(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(log.run_together("first", first))
        await turns()
        tasks.create_task(log.run_alone("alone", alone))
        await turns()
        assert log.ran == ["first"]
        first.set()
        await turns()
        tasks.create_task(log.run_together("second"))
        await turns()
        assert log.ran == ["first", "alone"]
        alone.set()
    assert log.ran == ["first", "alone", "second"]


async def test_between_two_that_run_alone_a_share_of_the_others_runs() -> None:
    log, first = Log(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(log.run_alone("alone", first))
        await turns()
        for _ in range(3 * SHARE):
            tasks.create_task(log.run_together("other"))
        for _ in range(2):
            tasks.create_task(log.run_alone("alone"))
        await turns()
        first.set()
    share = ["other"] * SHARE
    assert log.ran == ["alone", *share, "alone", *share, "alone", *share]


async def test_the_lowest_rank_is_first() -> None:
    log, first = Log(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(log.run_alone("first", first))
        await turns()
        for name, rank in (("c", 1), ("a", 0), ("d", 1), ("b", 0)):
            tasks.create_task(log.run_alone(name, rank=rank))
        await turns()
        first.set()
    assert log.ran == ["first", "a", "b", "c", "d"]


async def test_after_closing_no_post_is_admitted_and_posts_that_wait_can_be_cancelled() -> None:
    log, first = Log(), asyncio.Event()
    running = asyncio.create_task(log.run_together("first", first))
    await turns()
    waiting = [asyncio.create_task(log.run_alone("alone")), asyncio.create_task(log.run_together("late"))]
    log.isolation.close()
    first.set()
    await running
    await turns()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert log.ran == ["first"]


async def test_a_post_that_is_stuck_holds_up_the_one_that_must_run_alone_and_no_other() -> None:
    log, stuck = Log(patience_s=0.05), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(log.run_together("stuck", stuck))
        await turns()
        tasks.create_task(log.run_alone("alone"))
        await turns()
        async with asyncio.timeout(10):
            for _ in range(3 * SHARE):
                await log.run_together("other")
        assert log.ran == ["stuck", *["other"] * 3 * SHARE]
        stuck.set()
    assert log.ran[-1] == "alone"


@pytest.mark.parametrize("seed", range(30))
async def test_posts_run_when_others_are_cancelled_at_any_time(seed: int) -> None:
    chance = random.Random(seed)
    log = Log()
    tasks = []
    for number in range(150):
        run = log.run_alone if chance.random() < 0.2 else log.run_together
        tasks.append(asyncio.create_task(run(str(number))))
        if chance.random() < 0.5:
            await turns(chance.randrange(3))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    assert not any(errors), f"seed {seed}"
    assert {str(number) for number, task in enumerate(tasks) if not task.cancelled()} <= set(log.ran)
    async with log.isolation.alone():
        pass
    async with log.isolation.together():
        pass
