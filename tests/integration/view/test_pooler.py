"""The view through PgBouncer, which gives each transaction another connection and refuses parameters of sessions."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation.settings import ApiSettings
from moderation.view.stores import SCHEMA, Store
from moderation.view.stores.postgres_generations import NAME
from tests.support.view_stores import Folding, an_entry, opened, sql, verdict

POSTS = 40


async def lookups(store: Store) -> None:
    """One at a time, and many at once."""
    for number in range(POSTS):
        await store.find([f"p{number}"])
    await asyncio.gather(*(store.find([f"p{number}", "x"]) for number in range(POSTS)))


@pytest.mark.parametrize("through", ["database", "pooled_database"])
async def test_replicas_share_a_view_through_a_pooler_or_without(
    request: pytest.FixtureRequest, database: str, through: str
) -> None:
    settings = ApiSettings(view_database=SecretStr(request.getfixturevalue(through)))
    with capture_logs() as logged:
        async with opened(settings) as one, opened(settings) as two:
            first, second = Folding(one), Folding(two)

            async def follow(fold: Folding) -> None:
                for number in range(POSTS):
                    await fold(an_entry(f"p{number}", number))

            await asyncio.gather(follow(first), follow(second), lookups(one), lookups(two))
            assert len(await two.find([f"p{number}" for number in range(POSTS)])) == POSTS
            await one.followed(0.0)
            admin = await asyncpg.connect(database, server_settings={"search_path": NAME})
            await admin.execute(sql("UPDATE generations SET seen = now() - interval '13 hours'"))
            async with opened(settings) as building:  # a new generation, which then replaces the first
                third = Folding(building)
                await follow(third)
                assert await building.serve()
                assert await verdict(building, "p7") == b"p7@7"
                await first(an_entry("late", POSTS))
                assert await verdict(two, "late") is None
                assert await verdict(building, "late") == f"late@{POSTS}".encode()
                await building.prune(1_020, 0, 100)
                assert await verdict(building, "p7") is None
    assert {event["pooled"] for event in logged if event["event"] == "view_opened"} == {through == "pooled_database"}
    # One schema holds the tables of all versions, each under its own names. Nothing lands elsewhere.
    query = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    tables = {tuple(row) for row in await admin.fetch(query)}
    await admin.close()
    kinds = ("facts", "generations", "partitions", "verdicts_1", "verdicts_2")
    assert tables == {(NAME, sql(kind)) for kind in kinds}
    assert all(f"_{SCHEMA}" in name for _, name in tables)
