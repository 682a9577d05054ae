"""The view in a PostgreSQL database, for many API replicas that need not each hold the set.

Every replica follows the topic; the rows of `partitions` are the turn that they take to write. Who comes second finds
its records folded in already and writes nothing, so that the database does the work once, and any of them may stop.
A schema of its own for each version of ours: a rollout has both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import structlog
from asyncpg.exceptions import PostgresConnectionError

import moderation
from moderation.errors import ConfigError, DeliveryError
from moderation.settings import ApiSettings
from moderation.stores import (
    MAX_AWAY_S,
    SCANNED,
    SCHEMA,
    Entry,
    Kind,
    Log,
    Page,
    Progress,
    Query,
    Row,
    StoreUnavailableError,
)

NAME = f"moderation_view_{SCHEMA}"  # of the schema
CONNECTIONS = 8  # of them one for folds: whatever lookups wait for, the view goes on
LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError)  # what the driver says of a connection that is gone
COMMAND_S = 10.0  # no statement takes longer
READ_S = 2.0  # nor does a lookup wait longer for a connection: who asks again later waits better than who waits here
# What passes: the server goes, comes back, is full or busy. Classes of SQLSTATE.
PASSES = ("08", "40", "53", "55", "57", "58")

log = structlog.get_logger()


def open_store(settings: ApiSettings) -> Postgres:
    """The database that the settings name; not connected yet."""
    return Postgres(settings.view_database.get_secret_value())


class Postgres:
    """A store in a database. See stores.Store."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None  # the readers'
        self._writer: Any = None  # one connection

    async def open(self, log_: Log) -> dict[int, Progress]:
        await self._connect()
        async with self._turn() as db:
            for statement in _CREATE:
                await db.execute(statement)
            facts = dict(await db.fetch("SELECT name, value FROM facts"))
            if facts and (facts["cluster_id"], facts["topic"]) != (log_.cluster_id, log_.topic):
                raise ConfigError(
                    "MODERATION_API__VIEW_DATABASE holds the view of another topic: give this one a database of its own"
                )
            reason = await _unusable(db, log_, facts)
            if reason:
                log.warning("view_rebuilt", database=NAME, reason=reason)
                await db.execute("TRUNCATE verdicts, partitions")
            named = {"cluster_id": log_.cluster_id, "topic": log_.topic, "engine_version": moderation.__version__}
            await _remember(db, named | _seen())
            await _add(db, log_.begins)
            log.info("view_opened", database=NAME, topic=log_.topic, resumed=bool(facts) and not reason)
            return await _progress(db)

    async def add(self, begins: Mapping[int, int]) -> None:
        async with self._turn() as db:
            await _add(db, begins)

    async def fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        async with self._turn() as db:
            stored = await _progress(db)
            if any(number not in stored or stored[number].next < at.next for number, at in before.items()):
                raise DeliveryError("the view in the database was rebuilt by another process: we have to start again")
            new = [entry for entry in entries if entry.offset >= stored[entry.partition].next]
            if columns := list(zip(*_latest(new), strict=True)):
                await db.execute(_UPSERT, *columns)
            ahead = [(number, *at) for number, at in after.items() if at.next > stored[number].next]
            await db.executemany("UPDATE partitions SET next = $2, judged = $3 WHERE number = $1", ahead)
            await _remember(db, _seen())
            erased = [entry.post_id for entry in entries if entry.kind == Kind.ERASED]
            if not erased:
                return {}
            return dict(await db.fetch("SELECT post_id, tenant FROM verdicts WHERE post_id = ANY($1)", erased))

    async def find(self, post_ids: Sequence[str]) -> dict[str, Row]:
        async with self._read() as db:
            return {row[0]: tuple(row)[1:] for row in await db.fetch(_FIND, post_ids)}

    async def page(self, query: Query) -> Page:
        async with self._read() as db:
            scope, values = _scope(query)
            end: tuple[int, str] | None = None
            if query.filters:
                edge = f"SELECT decided_ms, post_id FROM verdicts WHERE {scope} {_ORDER} LIMIT 1 OFFSET {SCANNED}"
                if found := await db.fetchrow(edge, *values):
                    end = found[0], found[1]
                    scope += f" AND (decided_ms, post_id) >= (${len(values) + 1}, ${len(values) + 2})"
                    values += end
            for column, wanted in (("outcome", query.outcomes), ("policy", query.policies)):
                if wanted:
                    values.append(wanted)
                    scope += f" AND {column} = ANY(${len(values)})"
            read = f"SELECT decided_ms, post_id, verdict FROM verdicts WHERE {scope} {_ORDER} LIMIT {query.most}"
            rows = await db.fetch(read, *values)
        after = (rows[-1][0], rows[-1][1]) if len(rows) == query.most else end
        return Page([row[2] for row in rows], after)

    async def since(self, partition: int, start: int, end: int, most: int) -> list[Entry]:
        async with self._read() as db:
            return [Entry(*row) for row in await db.fetch(_SINCE, partition, start, end, most)]

    async def prune(self, before_ms: int, erased_before_ms: int, most: int) -> int:
        async with self._turn() as db:
            gone = [
                await db.fetch(_PRUNE, number, most, before_ms)
                for (number,) in await db.fetch("SELECT number FROM partitions")
            ]
            return sum(map(len, gone)) + len(await db.fetch(_PRUNE_ERASED, erased_before_ms, most))

    async def size(self) -> int:
        return 0

    async def close(self) -> None:
        for pool in filter(None, (self._pool, self._writer)):
            try:
                async with asyncio.timeout(COMMAND_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def _connect(self) -> None:
        try:
            self._writer = await self._connected(1)
            self._pool = await self._connected(CONNECTIONS - 1)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, TimeoutError) as error:
            # No cause, and no text: they may hold the password.
            raise ConfigError(
                f"MODERATION_API__VIEW_DATABASE: cannot connect: {type(error).__name__}. It is "
                "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and the user may create a schema there"
            ) from None

    async def _connected(self, most: int) -> Any:
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=most,
            timeout=COMMAND_S,
            command_timeout=COMMAND_S,
            server_settings={"search_path": NAME, "application_name": f"moderation-{moderation.__version__}"},
        )

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[Any]:
        """A connection to read with, once one is free."""
        async with self._explained(), self._pool.acquire(timeout=READ_S) as db:
            yield db

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Any]:
        """A transaction that no other process's overlaps."""
        async with self._explained(), self._writer.acquire(timeout=COMMAND_S) as db, db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock(hashtext($1))", NAME)
            yield db

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """The driver's errors become ours."""
        try:
            yield
        except (PostgresConnectionError, *LOST, OSError, TimeoutError) as error:
            raise StoreUnavailableError(f"the view's database: {type(error).__name__}") from None
        except asyncpg.PostgresError as error:
            state = str(error.sqlstate or "")
            if state.startswith(PASSES):
                raise StoreUnavailableError(f"the view's database: {type(error).__name__}") from None
            raise DeliveryError(f"the view's database refused a statement: {type(error).__name__} {state}") from None


def _latest(entries: Sequence[Entry]) -> list[Entry]:
    """One for each post: a statement may not change a row twice."""
    latest: dict[str, Entry] = {}
    for entry in entries:
        known = latest.get(entry.post_id)
        if known is None or (
            known.offset < entry.offset if known.partition == entry.partition else known.ms < entry.ms
        ):
            latest[entry.post_id] = entry
    return list(latest.values())


_COLUMNS = (
    "post_id, kind, at_partition, at_offset, at_ms, source_partition, source_offset, "
    "tenant, outcome, policy, decided_ms, verdict"
)
_CREATE = (
    f"CREATE SCHEMA IF NOT EXISTS {NAME}",
    "CREATE TABLE IF NOT EXISTS facts (name text PRIMARY KEY, value text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS partitions (number int PRIMARY KEY, next bigint NOT NULL, judged bigint NOT NULL)",
    """CREATE TABLE IF NOT EXISTS verdicts (
        post_id text COLLATE "C" PRIMARY KEY, kind smallint NOT NULL,
        at_partition int NOT NULL, at_offset bigint NOT NULL, at_ms bigint NOT NULL,
        source_partition int NOT NULL, source_offset bigint NOT NULL,
        tenant text NOT NULL, outcome smallint NOT NULL, policy text NOT NULL, decided_ms bigint NOT NULL,
        verdict bytea)""",
    "CREATE INDEX IF NOT EXISTS by_place ON verdicts (at_partition, at_offset)",
    "CREATE INDEX IF NOT EXISTS by_time ON verdicts (decided_ms, post_id) WHERE kind = 1",
    "CREATE INDEX IF NOT EXISTS by_tenant ON verdicts (tenant, decided_ms, post_id) WHERE kind = 1",
    "CREATE INDEX IF NOT EXISTS erased ON verdicts (at_ms) WHERE kind = 3",
)
_UPSERT = f"""
    INSERT INTO verdicts ({_COLUMNS})
    SELECT * FROM unnest($1::text[], $2::smallint[], $3::int[], $4::bigint[], $5::bigint[], $6::int[], $7::bigint[],
                         $8::text[], $9::smallint[], $10::text[], $11::bigint[], $12::bytea[])
    ON CONFLICT (post_id) DO UPDATE
    SET kind = excluded.kind, at_partition = excluded.at_partition, at_offset = excluded.at_offset,
        at_ms = excluded.at_ms, source_partition = excluded.source_partition, source_offset = excluded.source_offset,
        tenant = CASE excluded.kind WHEN 3 THEN verdicts.tenant ELSE excluded.tenant END,
        outcome = excluded.outcome, policy = excluded.policy, decided_ms = excluded.decided_ms,
        verdict = excluded.verdict
    WHERE CASE WHEN verdicts.at_partition = excluded.at_partition THEN verdicts.at_offset < excluded.at_offset
          ELSE verdicts.at_ms < excluded.at_ms END"""
_FIND = """
    SELECT post_id, kind, tenant, source_partition, source_offset, verdict FROM verdicts
    WHERE post_id = ANY($1::text[])"""
_SINCE = f"""
    SELECT {_COLUMNS} FROM verdicts WHERE at_partition = $1 AND at_offset >= $2 AND at_offset < $3
    ORDER BY at_offset LIMIT $4"""
_PRUNE = """
    DELETE FROM verdicts WHERE post_id IN (
        SELECT post_id FROM (
            SELECT post_id, at_ms FROM verdicts WHERE at_partition = $1 ORDER BY at_offset LIMIT $2) AS oldest
        WHERE at_ms < $3)
    RETURNING 1"""
_PRUNE_ERASED = """
    DELETE FROM verdicts WHERE post_id IN (SELECT post_id FROM verdicts WHERE kind = 3 AND at_ms < $1 LIMIT $2)
    RETURNING 1"""
_ORDER = "ORDER BY decided_ms DESC, post_id DESC"


def _scope(query: Query) -> tuple[str, list[Any]]:
    """The rows that a listing goes over, in one stretch of an index."""
    scope = "kind = 1 AND decided_ms >= $1 AND decided_ms < $2 AND (decided_ms, post_id) < ($3, $4)"
    values: list[Any] = [query.from_ms, query.before_ms, *query.after]
    return (scope, values) if query.tenant is None else (f"tenant = $5 AND {scope}", [*values, query.tenant])


async def _unusable(db: Any, log: Log, facts: Mapping[str, str]) -> str:
    """Why what is there cannot be gone on with, or the empty string."""
    if not facts:
        return ""
    if any(at.next > log.ends.get(number, 0) for number, at in (await _progress(db)).items()):
        return "the log ends before our position"
    if time.time() - float(facts.get("seen", 0)) > MAX_AWAY_S:
        return "erasures may have been missed"
    return ""


async def _progress(db: Any) -> dict[int, Progress]:
    return {row[0]: Progress(row[1], row[2]) for row in await db.fetch("SELECT number, next, judged FROM partitions")}


async def _add(db: Any, begins: Mapping[int, int]) -> None:
    await db.executemany("INSERT INTO partitions VALUES ($1, $2, -1) ON CONFLICT DO NOTHING", list(begins.items()))


async def _remember(db: Any, facts: Mapping[str, str]) -> None:
    await db.executemany(
        "INSERT INTO facts VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        list(facts.items()),
    )


def _seen() -> dict[str, str]:
    return {"seen": str(int(time.time()))}
