"""What the runbook has an operator ask a PostgreSQL."""

from __future__ import annotations

import asyncio

import asyncpg

from tests.support import runbook


async def test_sessions_that_wait_for_a_lock_are_shown(database: str) -> None:
    (query,) = [code for code in runbook.ELSEWHERE if code.startswith("SELECT")]
    assert query in runbook.codes()
    holds, waits = await asyncpg.connect(database), await asyncpg.connect(database)
    try:
        await holds.execute("SELECT pg_advisory_lock(1)")
        waiting = asyncio.ensure_future(waits.execute("SELECT pg_advisory_lock(1)"))
        async with asyncio.timeout(30):
            while not await holds.fetch(query):  # noqa: ASYNC110  the server sets no event
                await asyncio.sleep(0.05)
        await holds.execute("SELECT pg_advisory_unlock(1)")
        await waiting
    finally:
        await holds.close()
        await waits.close()
