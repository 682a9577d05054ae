"""The view in a PostgreSQL database, shared by many API replicas.

Every replica follows the topic and takes its turn to write: a transaction under one lock. A replica whose records are
already folded in writes nothing. So the database does the work once, and any replica may stop.

A replica that finds the view unusable builds a new generation (postgres_generations.py). Every fold goes into both
generations. So the new generation stays level with the old one once it has caught up.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import structlog

import moderation
from moderation.errors import ConfigError, DeliveryError
from moderation.settings import ApiSettings
from moderation.view.stores import (
    FIND_S,
    MAX_AWAY_S,
    NO_PROGRESS,
    Entry,
    Kind,
    Log,
    LookupRow,
    Page,
    Progress,
    Query,
    StoreBehindError,
    StoreReplacedError,
    StoreUnavailableError,
)
from moderation.view.stores import (
    postgres_generations as generations,
)
from moderation.view.stores import (
    postgres_rows as rows,
)
from moderation.view.stores.postgres_errors import TableGoneError, explained, refused
from moderation.view.stores.postgres_generations import NAME, Generation, table

CONNECTIONS = 8  # one of these for folds: lookups that wait do not delay folds
COMMAND_S = 10.0  # no statement takes longer
CLEAN_S = 3600.0  # between two searches for tables of other versions
TURN_S = 5.0  # a process that hangs in its turn for so long loses the turn
LOCK_S = 9.0  # the longest wait for a turn: longer than TURN_S, so that no wait fails because of one hanging process
# Other programs may use the same database and its locks: hence 64 bits of a hash of our name.
LOCK = int.from_bytes(hashlib.sha256(NAME.encode()).digest()[:8], "big", signed=True)

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


def open_store(settings: ApiSettings) -> Postgres:
    """Returns the store in the database that the settings name, not connected yet."""
    return Postgres(settings.view_database.get_secret_value())


class Postgres:
    """A store in a database. See stores.Store."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None  # of readers
        self._writer: Any = None  # one connection
        self._number = 0  # of the generation that this process follows and reads
        self._log = 0  # of that generation: its offsets belong to this log
        self._building = False  # that generation does not serve yet
        self._served = False  # that generation was made the serving one
        self._late: set[asyncio.Task[dict[str, LookupRow]]] = set()  # lookups that nobody waits for any more
        self._pooled = False  # something stands between that gives each transaction another connection
        self.gone: Mapping[int, Progress] = {}  # see stores.Store
        self._clean_at = 0.0  # when to look for tables of other versions, by the monotonic clock
        self._copied: Mapping[int, int] | None = None  # by partition: up to where erasures have their tenants

    async def open(self, ask: Callable[[], Awaitable[Log]]) -> Mapping[int, Progress]:
        await self._connect()
        async with self._turn() as db:
            await generations.prepare(db)
            before = {generation.number: generation for generation in await generations.live(db)}
        log_ = await ask()  # outside of a turn: no other replica waits for Kafka
        async with self._turn() as db:
            await _check_log(db, log_)
            number, reason = await generations.choose(db, log_, before)
            await generations.add(db, number, log_.begins)
            chosen = next(each for each in await generations.live(db) if each.number == number)
        self._number, self._log, self._building, self._served = number, chosen.log, not chosen.serving, False
        self._copied = None
        gone = next((each for each in before.values() if each.serving), None)
        self.gone = gone.progress if gone is not None and reason == generations.RECREATED else {}
        if reason:
            log.warning("view_rebuilt", database=NAME, generation=number, reason=reason)
        resumed = any(at.next > log_.begins.get(partition, 0) for partition, at in chosen.progress.items())
        fields = {"topic": log_.topic, "resumed": resumed, "pooled": self._pooled}
        log.info("view_opened", database=NAME, generation=number, **fields)
        return chosen.progress

    async def serve(self) -> Mapping[int, Progress] | None:
        if self._building and self._copied is None:
            self._copied = await self._copy_tenants()
        async with self._turn() as db:
            followed = self._adopted(await generations.live(db))
            if not await generations.switch(db, followed.number, self._copied or {}):
                return None
            progress = next(each for each in await generations.live(db) if each.serving).progress
        self._building, self._served = False, True
        return progress

    async def _copy_tenants(self) -> Mapping[int, int]:
        """Copies tenants of erased posts that only the serving generation knows. Returns how far, by partition."""
        async with self._turn() as db:
            progress = self._adopted(await generations.live(db)).progress
            await db.execute(_WRITTEN, self._number)
        after: tuple[int, str] | None = generations.FIRST
        while after:
            async with self._turn() as db:
                number = self._adopted(await generations.live(db)).number
                after = await generations.copy_tenants(db, number, after)
                await db.execute(_WRITTEN, number)
        return {number: at.next for number, at in progress.items()}

    async def followed(self, age_s: float) -> None:
        async with self._turn() as db:
            followed = self._adopted(await generations.live(db))
            await generations.renew(db, followed.number, age_s)
            lost = self._served and not followed.serving  # the switch, by a server that failed over
            removable = await generations.removable(db)
        if lost:
            self._copied = None
            await self.serve()
        try:
            for number in removable:
                async with self._turn() as db:
                    await generations.remove(db, number)
            if followed.serving and time.monotonic() >= self._clean_at:
                self._clean_at = time.monotonic() + CLEAN_S
                async with self._turn() as db:
                    await generations.remove_outdated(db)
        except StoreUnavailableError:
            return  # a reader still uses the table: the next call tries again

    async def add(self, begins: Mapping[int, int]) -> None:
        async with self._turn() as db:
            for generation in await generations.live(db):
                await generations.add(db, generation.number, begins)

    async def fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        async with self._turn() as db:
            live = await generations.live(db)
            followed = self._adopted(live)
            stored = {number: followed.progress.get(number, NO_PROGRESS) for number in before}
            if all(stored[number].next >= at.next for number, at in before.items()):
                return await self._fold(db, live, entries, before, after)
            await generations.add(db, followed.number, dict.fromkeys(before, 0))
        if followed.away_s > MAX_AWAY_S:
            raise DeliveryError(
                "the view in the database went back too far and may have missed erasures: restart the API"
            )
        raise StoreBehindError(stored)

    async def _fold(
        self,
        db: Any,
        live: Sequence[Generation],
        entries: Sequence[Entry],
        before: Mapping[int, Progress],
        after: Mapping[int, Progress],
    ) -> dict[str, str]:
        for generation in live:
            if generation.log == self._log:
                await _apply(db, generation, entries, before, after)
        if self._building:
            await db.execute(_WRITTEN, self._number)
        erased = [entry.post_id for entry in entries if entry.kind == Kind.ERASED]
        if not erased:
            return {}
        return await rows.tenants(db, table(self._number), erased)

    async def find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        """See stores.Store. Does not wait for a statement that takes longer than FIND_S: that ends by itself."""
        task = asyncio.ensure_future(self._ask(rows.find, post_ids))
        try:
            await asyncio.wait((task,), timeout=FIND_S)
        finally:
            if not task.done():
                task.cancel()
                self._late.add(task)
                task.add_done_callback(self._ended)
        if not task.done():
            raise StoreUnavailableError(f"the view's database: no response within {FIND_S:g} s")
        return task.result()

    def _ended(self, task: asyncio.Task[dict[str, LookupRow]]) -> None:
        """Forgets a late lookup. Its error, if any, is seen: nobody waits for it."""
        self._late.discard(task)
        if not task.cancelled():
            task.exception()

    async def page(self, query: Query) -> Page:
        return await self._ask(rows.page, query)

    async def since(self, partition: int, start: int, end: int, limit: int) -> list[Entry]:
        return await self._ask(rows.since, partition, (start, end), limit)

    async def prune(self, before_ms: int, erased_before_ms: int, limit: int) -> int:
        async with self._turn() as db:
            followed = self._adopted(await generations.live(db))
            pruned = await rows.prune_erased(db, table(followed.number), erased_before_ms, limit)
        for partition in followed.progress:  # a turn for each: folds go on between two
            async with self._turn() as db:
                number = self._adopted(await generations.live(db)).number
                pruned += await rows.prune(db, table(number), partition, before_ms, limit)
        return pruned

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
        with self._explained():
            try:
                if self._writer is None:
                    self._pooled = await self._find_pooler()
                    self._writer = await self._connected(1)
                if self._pool is None:
                    self._pool = await self._connected(CONNECTIONS - 1)
            except OSError:  # of which a certificate's error is one, and a ValueError too
                raise
            except ValueError as error:
                # No cause, and no text: they may hold the password.
                raise ConfigError(
                    f"MODERATION_API__VIEW_DATABASE: cannot be used: {type(error).__name__}. It is "
                    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
                ) from None

    async def _find_pooler(self) -> bool:
        """Whether something stands between that may give each transaction another connection, such as PgBouncer."""
        db = await asyncpg.connect(self._url, timeout=COMMAND_S, command_timeout=COMMAND_S, statement_cache_size=0)
        try:
            # A pooler reports a process of its own.
            return bool(await db.fetchval("SELECT pg_backend_pid()") != db.get_server_pid())
        finally:
            await db.close(timeout=COMMAND_S)

    async def _connected(self, connections: int) -> Any:
        """A pool. Nothing is set on a session, by parameters or statements: a pooler refuses or forgets that."""
        # A prepared statement with a name belongs to one connection of the server. One without a name works everywhere.
        cached = {"statement_cache_size": 0} if self._pooled else {}
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=connections,
            timeout=COMMAND_S,
            command_timeout=COMMAND_S,
            reset=_keep,
            server_settings={"application_name": f"moderation-{moderation.__version__}"},
            **cached,
        )

    async def _ask(self, work: Callable[Concatenate[Any, str, P], Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        """Returns what `work` reads from our generation. Reads again if that was replaced and dropped meanwhile."""
        number = self._number
        try:
            async with self._read() as db:
                return await work(db, table(number), *args, **named)
        except TableGoneError:
            try:
                async with self._read() as db:
                    self._adopted(await generations.live(db))
            except StoreReplacedError:  # which the next fold finds, too
                raise StoreUnavailableError("the view in the database is that of another log") from None
            if self._number == number:
                raise refused("UndefinedTableError 42P01", opened=True) from None
            async with self._read() as db:
                return await work(db, table(self._number), *args, **named)

    def _adopted(self, live: Sequence[Generation]) -> Generation:
        """Our generation, or the one that has replaced it: of the same log, and as far or further.

        Raises StoreReplacedError when this process can continue with neither.
        """
        for generation in live:
            if generation.number == self._number:
                self._building = not generation.serving
                return generation
        serving = next((generation for generation in live if generation.serving), None)
        if serving is None or self._building or serving.log != self._log:
            raise StoreReplacedError("the view in the database was replaced by the view of another log")
        log.info("view_generation_adopted", database=NAME, generation=serving.number, before=self._number)
        self._number = serving.number
        return serving

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[Any]:
        """Yields a connection to read with, once one is free."""
        with self._explained():
            async with self._pool.acquire(timeout=FIND_S) as db:
                yield db

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Any]:
        """Yields a transaction that overlaps no other process's. A process that hangs in it loses it after TURN_S."""
        limits = {
            "statement_timeout": COMMAND_S,
            "lock_timeout": LOCK_S,
            "idle_in_transaction_session_timeout": TURN_S,
        }
        begin = [f"SET LOCAL {name} = {round(seconds * 1000)}" for name, seconds in limits.items()]
        begin.append(f"SELECT pg_advisory_xact_lock({LOCK})")
        try:
            with self._explained():
                async with self._writer.acquire(timeout=COMMAND_S) as db, db.transaction():
                    await db.execute("; ".join(begin))
                    yield db
        except TableGoneError:
            raise refused("UndefinedTableError 42P01", opened=self._number > 0) from None

    def _explained(self) -> AbstractContextManager[None]:
        return explained(opened=self._number > 0)


async def _keep(_: Any) -> None:
    """Leaves a connection as it is when it goes back to its pool: nothing was set on it."""


async def _check_log(db: Any, log: Log) -> None:
    """Raises ConfigError when the database holds the view of another topic."""
    facts = {"cluster_id": log.cluster_id, "topic": log.topic}
    await db.executemany(f"INSERT INTO {generations.FACTS} VALUES ($1, $2) ON CONFLICT DO NOTHING", list(facts.items()))
    if dict(await db.fetch(f"SELECT name, value FROM {generations.FACTS}")) != facts:
        raise ConfigError(
            "MODERATION_API__VIEW_DATABASE holds the view of another topic: give this one a database of its own"
        )


async def _apply(
    db: Any,
    generation: Generation,
    entries: Sequence[Entry],
    before: Mapping[int, Progress],
    after: Mapping[int, Progress],
) -> None:
    """Folds entries into a generation that has read up to `before`, without those that it has already."""
    stored = generation.progress
    ahead = {
        number: at
        for number, at in after.items()
        if number in stored and before[number].next <= stored[number].next < at.next
    }
    new = [entry for entry in entries if entry.partition in ahead and entry.offset >= stored[entry.partition].next]
    await rows.put(db, table(generation.number), new)
    if any(entry.kind == Kind.UNREADABLE for entry in new) and generations.is_older(
        moderation.__version__, generation.version
    ):
        await db.execute(_VERSION, generation.number, moderation.__version__)
    if ahead:
        await db.executemany(_MOVE, [(generation.number, number, *at) for number, at in ahead.items()])


_MOVE = f"""
    UPDATE {generations.PARTITIONS} SET next = $3, decided = $4, posts_id = $5 WHERE generation = $1 AND number = $2"""
_WRITTEN = f"UPDATE {generations.GENERATIONS} SET written = now() WHERE number = $1"
_VERSION = f"UPDATE {generations.GENERATIONS} SET version = $2 WHERE number = $1"
