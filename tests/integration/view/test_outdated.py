"""Tables of other versions in the schema of the view: dropped once no process can need them, and never before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation.settings import ApiSettings
from moderation.view.stores import SCHEMA, Store
from moderation.view.stores import postgres as postgres_store
from moderation.view.stores.postgres_generations import NAME
from tests.support.view_stores import Folding, an_entry, opened, verdict

OLDER, NEWER = SCHEMA - 1, SCHEMA + 1
MADE = ("facts", "generations", "partitions", "verdicts_1", "verdicts_12")


class Versions:
    """A store of this version, and tables as other versions leave them."""

    def __init__(self, store: Store, admin: asyncpg.Connection) -> None:
        self.store = store
        self._admin = admin

    async def make(self, version: int) -> None:
        for kind in MADE:
            name = kind.replace("verdicts", f"verdicts_{version}") if "verdicts" in kind else f"{kind}_{version}"
            columns = "seen timestamptz, written timestamptz" if kind == "generations" else "name text"
            await self._admin.execute(f"CREATE TABLE {NAME}.{name} ({columns})")
        await self._admin.execute(f"INSERT INTO {NAME}.generations_{version} VALUES (now(), now())")  # noqa: S608

    async def unused(self, version: int, column: str) -> None:
        """The last note of this kind is too old."""
        statement = f"UPDATE {NAME}.generations_{version} SET {column} = now() - interval '13 hours'"  # noqa: S608
        await self._admin.execute(statement)

    async def left(self) -> set[int]:
        """Versions that have tables."""
        await self.store.followed(0.0)
        query = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
        names = [name for (name,) in await self._admin.fetch(query, NAME)]
        return {int(name.split("_")[1]) for name in names}


@pytest.fixture
async def versions(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Versions]:
    monkeypatch.setattr(postgres_store, "CLEAN_S", 0.0)
    admin = await asyncpg.connect(database)
    async with opened(ApiSettings(view_database=SecretStr(database))) as store:
        await Folding(store)(an_entry("a", 1))
        assert await store.serve()
        yield Versions(store, admin)
    await admin.close()


async def test_tables_of_another_version_go_once_it_is_long_away(versions: Versions) -> None:
    for version in (OLDER, NEWER):
        await versions.make(version)
    assert await versions.left() == {OLDER, SCHEMA, NEWER}
    await versions.unused(OLDER, "seen")
    assert await versions.left() == {OLDER, SCHEMA, NEWER}  # it is being built again
    await versions.unused(NEWER, "written")
    assert await versions.left() == {OLDER, SCHEMA, NEWER}  # it has read its topic
    with capture_logs() as logged:
        await versions.unused(OLDER, "written")
        assert await versions.left() == {SCHEMA, NEWER}
    (removed,) = [event for event in logged if event["event"] == "view_outdated_removed"]
    assert (removed["version"], removed["tables"]) == (OLDER, len(MADE))
    await versions.unused(NEWER, "seen")
    assert await versions.left() == {SCHEMA}
    assert await verdict(versions.store, "a") == b"a@1"


async def test_tables_stay_while_a_process_of_another_version_is_connected(versions: Versions, database: str) -> None:
    """Its brokers may have been away for so long: then it notes nothing."""
    await versions.make(OLDER)
    for column in ("seen", "written"):
        await versions.unused(OLDER, column)
    running = await asyncpg.connect(database, server_settings={"application_name": "moderation-0.0.9"})
    assert await versions.left() == {OLDER, SCHEMA}
    await running.close()
    async with asyncio.timeout(10):
        while await versions.left() != {SCHEMA}:  # its process on the server ends a moment later
            pass


async def test_tables_that_somebody_still_reads_go_later(versions: Versions, database: str) -> None:
    await versions.make(OLDER)
    for column in ("seen", "written"):
        await versions.unused(OLDER, column)
    reader = await asyncpg.connect(database)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute(f"LOCK TABLE {NAME}.verdicts_{OLDER}_1 IN ACCESS SHARE MODE")
    assert await versions.left() == {OLDER, SCHEMA}
    await transaction.rollback()
    await reader.close()
    assert await versions.left() == {SCHEMA}
