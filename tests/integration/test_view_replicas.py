"""Many API processes share a view in PostgreSQL: one that starts takes nothing away from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.conftest import make_topics
from tests.integration.replicas import Caller, Flow, Replicas, Watcher, delayed

STARTS = 3


@pytest.fixture
async def replicas(kafka: str, names: Callable[[str], str], database: str) -> Replicas:
    made = Replicas(kafka, names("posts"), names("verdicts"), database)
    await make_topics(kafka, made.posts, made.verdicts, partitions=3)
    return made


@pytest.mark.parametrize(("each_second", "round_trip_s"), [(5, 0.02), (40, 0.0)])
async def test_a_replica_that_starts_takes_nothing_from_those_that_serve(
    replicas: Replicas, each_second: float, round_trip_s: float
) -> None:
    flow = Flow(replicas, each_second)
    async with (
        replicas.serving() as (one, first),
        replicas.serving() as (two, second),
        delayed(replicas.database, round_trip_s) as far,
        asyncio.TaskGroup() as tasks,
    ):
        callers = [Caller(first, flow), Caller(second, flow)]
        watcher = Watcher(first, second)
        running = [tasks.create_task(watcher.run()), *(tasks.create_task(caller.run()) for caller in callers)]
        await asyncio.wait_for(watcher.stands.wait(), 30)
        writing = tasks.create_task(flow.run())
        for _ in range(STARTS):
            async with replicas.serving(far) as (third, _):
                assert await asyncio.to_thread(third.stop) == 0
            assert (one.process.poll(), two.process.poll()) == (None, None)
            assert [caller.wrong for caller in callers] == [{}, {}]
        writing.cancel()
        await asyncio.wait([writing])
        async with asyncio.timeout(60):
            while not all(set(flow.written) <= told for told in (callers[0].found, callers[1].found, watcher.told)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        assert [caller.wrong for caller in callers] == [{}, {}]
        assert (one.process.poll(), two.process.poll()) == (None, None)
        assert watcher.streams > 1
    assert not replicas.events("view_rebuilt")
