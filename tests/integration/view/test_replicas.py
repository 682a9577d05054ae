"""Many API processes share a view in PostgreSQL: one that starts takes nothing away from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from moderation.view.stores.postgres_generations import NAME
from tests.support.replicas import Replicas, delayed, two_replicas
from tests.support.topics import make_topics
from tests.support.view_stores import sql

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
    async with two_replicas(replicas, each_second) as made, delayed(replicas.database, round_trip_s) as far:
        for _ in range(STARTS):
            async with replicas.serving(far) as (third, _):
                assert await asyncio.to_thread(third.stop) == 0
            made.check()
    assert not replicas.events("view_rebuilt")


async def test_a_view_that_is_built_again_takes_nothing_from_those_that_serve(replicas: Replicas) -> None:
    """Two processes find the need at once. One is killed half-way, and another goes on."""
    async with two_replicas(replicas, 40) as made:
        database = await asyncpg.connect(replicas.database, server_settings={"search_path": NAME})
        async with asyncio.timeout(60):
            while len(made.flow.written) < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await made.flow.put_unreadable("unreadable")
        async with asyncio.timeout(30):
            while not await database.fetchval(sql("SELECT count(*) FROM verdicts_1 WHERE kind = 2")):
                pass
        await database.execute(sql("UPDATE generations SET version = '0.0.0'"))  # which could not read it
        with replicas.starting() as killed:
            await asyncio.to_thread(killed.wait_for, "view_rebuilt")
            killed.process.kill()
            await asyncio.to_thread(killed.wait)
        async with replicas.serving() as (_, _), replicas.serving() as (_, _):
            made.check()
            assert await database.fetchval(sql("SELECT number FROM generations WHERE serving")) == 2
            async with asyncio.timeout(60):
                while len(replicas.events("view_generation_adopted")) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        await database.close()
    assert len(replicas.events("view_rebuilt")) == 1
    assert len(replicas.events("view_switched")) == 1
