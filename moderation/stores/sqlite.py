"""The view in one SQLite file: the default, for an API that keeps all verdicts beside itself.

A killed process goes on where its file is. One thread writes; another reads what is asked for in bulk. One verdict is
read on the event loop: that is a walk down one tree in the page cache, and takes a fraction of what the way to a thread
and back does.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

import structlog

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

APPLICATION_ID = 0x6D6F6476  # in the file's header: so that we never take another program's database for ours
CLOCK_S = 60.0  # by which a clock may be set back
PASSES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR)  # errors after which we try again

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


def open_store(settings: ApiSettings) -> Sqlite:
    """The file that the settings name; not opened yet."""
    return Sqlite(settings.view)


class Sqlite:
    """A store in a file. See stores.Store."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._lock: IO[bytes] | None = None
        self._written: sqlite3.Connection | None = None  # the writer's
        self._bulk: sqlite3.Connection | None = None  # the reader's
        self._single: sqlite3.Connection | None = None  # the event loop's
        self._writer = ThreadPoolExecutor(1, "view-writer")
        self._reader = ThreadPoolExecutor(1, "view-reader")

    async def open(self, ask: Callable[[], Awaitable[Log]]) -> dict[int, Progress]:
        await self._in(self._writer, self._own)  # from here on nobody moves the file's positions
        found = await self._in(self._writer, self._open, await ask())
        self._single = self._explained(self._connect)
        self._bulk = await self._in(self._reader, self._connect)
        return found

    async def serve(self) -> dict[int, Progress]:
        return await self._in(self._writer, lambda: _progress(_opened(self._written)))

    async def followed(self, age_s: float) -> None:
        await self._in(self._writer, self._followed, age_s)

    async def add(self, begins: Mapping[int, int]) -> None:
        await self._in(self._writer, self._add, begins)

    async def fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        return await self._in(self._writer, self._fold, entries, before, after)

    async def find(self, post_ids: Sequence[str]) -> dict[str, Row]:
        if len(post_ids) == 1:
            return self._explained(self._find_one, post_ids[0])
        return await self._in(self._reader, self._find, post_ids)

    async def page(self, query: Query) -> Page:
        return await self._in(self._reader, self._page, query)

    async def since(self, partition: int, start: int, end: int, most: int) -> list[Entry]:
        return await self._in(self._reader, self._since, partition, start, end, most)

    async def prune(self, before_ms: int, erased_before_ms: int, most: int) -> int:
        return await self._in(self._writer, self._prune, before_ms, erased_before_ms, most)

    async def size(self) -> int:
        return await self._in(self._writer, self._size)

    async def close(self) -> None:
        try:
            if self._single is not None:
                self._single.close()
            await self._in(self._reader, _close, self._bulk)
            await self._in(self._writer, self._close)
        finally:
            self._reader.shutdown()
            self._writer.shutdown()

    # The writer's

    def _open(self, log_: Log) -> dict[int, Progress]:
        _close(self._written)  # of a try that has failed
        reason = self._unusable(log_)
        if reason:
            self._remove(reason)
        written = self._written = self._connect()
        written.execute("PRAGMA journal_mode=WAL")  # stays with the file: we read while we write
        written.execute("PRAGMA journal_size_limit=67108864")
        with _transaction(written):
            for statement in _CREATE if reason else ():
                written.execute(statement)
            facts = {"cluster_id": log_.cluster_id, "topic": log_.topic, "engine_version": moderation.__version__}
            _remember(written, facts | ({"seen": str(time.time())} if reason else {}))
        self._add(log_.begins)
        log.info("view_opened", path=str(self._path), topic=log_.topic, resumed=not reason)
        return _progress(written)

    def _followed(self, age_s: float) -> None:
        with _transaction(_opened(self._written)) as written:
            _remember(written, {"seen": str(time.time() - age_s)})

    def _add(self, begins: Mapping[int, int]) -> None:
        with _transaction(_opened(self._written)) as written:
            written.executemany("INSERT OR IGNORE INTO partitions VALUES (?, ?, -1)", begins.items())

    def _fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        erased = [(entry.post_id,) for entry in entries if entry.kind == Kind.ERASED]
        with _transaction(_opened(self._written)) as written:
            stored = _progress(written)
            if any(stored[number].next != at.next for number, at in before.items()):
                raise DeliveryError(f"the view {self._path} was changed by somebody else")
            written.executemany(_UPSERT, entries)
            rows = [(progress.next, progress.judged, number) for number, progress in after.items()]
            written.executemany("UPDATE partitions SET next = ?, judged = ? WHERE number = ?", rows)
            found = (written.execute("SELECT post_id, tenant FROM verdicts WHERE post_id = ?", one) for one in erased)
            return dict(row for rows in found for row in rows)

    def _prune(self, before_ms: int, erased_before_ms: int, most: int) -> int:
        with _transaction(_opened(self._written)) as written:
            numbers = [number for (number,) in written.execute("SELECT number FROM partitions")]
            gone = sum(written.execute(_PRUNE, (number, most, before_ms)).rowcount for number in numbers)
            return gone + written.execute(_PRUNE_ERASED, (erased_before_ms, most)).rowcount

    def _size(self) -> int:
        pragmas = ("page_count", "freelist_count", "page_size")
        pages, free, size = (_opened(self._written).execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
        return int((pages - free) * size)

    def _close(self) -> None:
        try:
            _close(self._written)
        finally:
            if self._lock is not None:
                self._lock.close()

    # The readers'

    def _find_one(self, post_id: str) -> dict[str, Row]:
        row = _opened(self._single).execute(_FIND_ONE, (post_id,)).fetchone()
        return {post_id: row} if row else {}

    def _find(self, post_ids: Sequence[str]) -> dict[str, Row]:
        return {row[0]: row[1:] for row in _opened(self._bulk).execute(_FIND, (json.dumps(post_ids),))}

    def _page(self, query: Query) -> Page:
        db = _opened(self._bulk)
        scope, values = _scope(query)
        end: tuple[int, str] | None = None
        if query.filters:
            edge = f"SELECT decided_ms, post_id FROM verdicts WHERE {scope} {_ORDER} LIMIT 1 OFFSET {SCANNED}"
            end = db.execute(edge, values).fetchone()
            if end:
                scope += " AND (decided_ms, post_id) >= (:end_ms, :end_id)"
                values |= {"end_ms": end[0], "end_id": end[1]}
            if query.outcomes:
                scope += " AND outcome IN (SELECT value FROM json_each(:outcomes))"
                values["outcomes"] = json.dumps(query.outcomes)
            if query.policies:
                scope += " AND policy IN (SELECT value FROM json_each(:policies))"
                values["policies"] = json.dumps(query.policies)
        read = f"SELECT decided_ms, post_id, verdict FROM verdicts WHERE {scope} {_ORDER} LIMIT :most"
        rows = db.execute(read, values).fetchall()
        after = (rows[-1][0], rows[-1][1]) if len(rows) == query.most else end
        return Page([verdict for _, _, verdict in rows], after)

    def _since(self, partition: int, start: int, end: int, most: int) -> list[Entry]:
        return [Entry(*row) for row in _opened(self._bulk).execute(_SINCE, (partition, start, end, most))]

    # The file

    def _own(self) -> None:
        """Two processes on one file would bring each other's positions back."""
        if self._lock is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._path.with_name(self._path.name + ".lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"the view {self._path} is in use by another process: give each API its own MODERATION_API__VIEW"
            ) from None
        except OSError as error:
            raise _unwritable(self._path, error.strerror or type(error).__name__) from None

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None)
        db.execute("PRAGMA synchronous=NORMAL")  # after a power cut the last transactions are gone: read again
        db.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten, not only unlinked
        return db

    def _unusable(self, log: Log) -> str:
        with closing(sqlite3.connect(self._path)) as db:
            try:
                return _unusable(db, log)
            except sqlite3.DatabaseError as error:
                if not _is_corruption(error):
                    raise
                return "corrupt"

    def _remove(self, reason: str) -> None:
        if reason != "new":
            log.warning("view_rebuilt", path=str(self._path), reason=reason)
        if reason == "corrupt":
            self._set_aside()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _set_aside(self) -> None:
        """It may be another program's: kept, one at most."""
        if self._path.exists():
            os.replace(self._path, self._path.with_name(self._path.name + ".corrupt"))

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(self._explained, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(thread, call)

    def _explained(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns. SQLite's errors become ours: broken, the file is rebuilt at the next start."""
        try:
            return work(*args, **kwargs)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            if _is_corruption(error):
                self._set_aside()
                raise DeliveryError(
                    f"the view {self._path} is broken ({name}); it is rebuilt at the next start"
                ) from None
            if self._written is not None and getattr(error, "sqlite_errorcode", 0) & 0xFF in PASSES:
                raise StoreUnavailableError(f"{self._path}: {name}") from None
            raise _unwritable(self._path, name) from None


def _unwritable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"MODERATION_API__VIEW: cannot use {path}: {why}")


_COLUMNS = (
    "post_id, kind, at_partition, at_offset, at_ms, source_partition, source_offset, "
    "tenant, outcome, policy, decided_ms, verdict"
)
_CREATE = (
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={SCHEMA}",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE partitions (number INTEGER PRIMARY KEY, next INTEGER NOT NULL, judged INTEGER NOT NULL)",
    """CREATE TABLE verdicts (
        post_id TEXT PRIMARY KEY, kind INTEGER NOT NULL,
        at_partition INTEGER NOT NULL, at_offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        source_partition INTEGER NOT NULL, source_offset INTEGER NOT NULL,
        tenant TEXT NOT NULL, outcome INTEGER NOT NULL, policy TEXT NOT NULL, decided_ms INTEGER NOT NULL,
        verdict BLOB)""",
    "CREATE INDEX by_place ON verdicts (at_partition, at_offset)",
    "CREATE INDEX by_time ON verdicts (decided_ms, post_id) WHERE kind = 1",
    "CREATE INDEX by_tenant ON verdicts (tenant, decided_ms, post_id) WHERE kind = 1",
    "CREATE INDEX erased ON verdicts (at_ms) WHERE kind = 3",
)
# Offsets order the records of a partition. After partitions were added a post may change its partition: then time does.
_UPSERT = f"""
    INSERT INTO verdicts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (post_id) DO UPDATE
    SET kind = excluded.kind, at_partition = excluded.at_partition, at_offset = excluded.at_offset,
        at_ms = excluded.at_ms, source_partition = excluded.source_partition, source_offset = excluded.source_offset,
        tenant = CASE excluded.kind WHEN 3 THEN verdicts.tenant ELSE excluded.tenant END,
        outcome = excluded.outcome, policy = excluded.policy, decided_ms = excluded.decided_ms,
        verdict = excluded.verdict
    WHERE CASE at_partition WHEN excluded.at_partition THEN at_offset < excluded.at_offset
          ELSE at_ms < excluded.at_ms END"""
_FIND_ONE = "SELECT kind, tenant, source_partition, source_offset, verdict FROM verdicts WHERE post_id = ?"
_FIND = """
    SELECT post_id, kind, tenant, source_partition, source_offset, verdict FROM verdicts
    WHERE post_id IN (SELECT value FROM json_each(?))"""
_SINCE = f"""
    SELECT {_COLUMNS} FROM verdicts WHERE at_partition = ? AND at_offset >= ? AND at_offset < ?
    ORDER BY at_offset LIMIT ?"""
_PRUNE = """
    DELETE FROM verdicts WHERE rowid IN (
        SELECT rowid FROM (SELECT rowid, at_ms FROM verdicts WHERE at_partition = ? ORDER BY at_offset LIMIT ?)
        WHERE at_ms < ?)"""
_PRUNE_ERASED = """
    DELETE FROM verdicts WHERE rowid IN (SELECT rowid FROM verdicts WHERE kind = 3 AND at_ms < ? LIMIT ?)"""
_ORDER = "ORDER BY decided_ms DESC, post_id DESC"


def _scope(query: Query) -> tuple[str, dict[str, object]]:
    """The rows that a listing goes over, in one stretch of an index."""
    scope = "kind = 1 AND decided_ms >= :from AND decided_ms < :before AND (decided_ms, post_id) < (:at_ms, :at_id)"
    values: dict[str, object] = {
        "from": query.from_ms,
        "before": query.before_ms,
        "at_ms": query.after[0],
        "at_id": query.after[1],
        "most": query.most,
    }
    if query.tenant is None:
        return scope, values
    return f"tenant = :tenant AND {scope}", values | {"tenant": query.tenant}


def _unusable(db: sqlite3.Connection, log: Log) -> str:
    """Why the file cannot be gone on with, or the empty string. Raises ConfigError if it is not ours at all."""
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return "new"
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        path = db.execute("PRAGMA database_list").fetchone()[2]
        raise ConfigError(f"MODERATION_API__VIEW: {path} is another program's database: name another file")
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        return "another schema"
    facts = dict(db.execute("SELECT name, value FROM facts"))
    for name, value in (("cluster_id", log.cluster_id), ("topic", log.topic)):
        if facts.get(name) != value:
            return f"another {name}"
    if any(progress.next > log.ends.get(number, 0) for number, progress in _progress(db).items()):
        return "the log ends before our position"  # the topic was made anew. A longer one passes for the old one
    # A view that has read all there is has missed nothing. A time to come was told by a clock that was wrong.
    away_s = time.time() - float(facts.get("seen", 0))
    if not -CLOCK_S <= away_s <= MAX_AWAY_S and log.has_unread(_progress(db)):
        return "erasures may have been missed"
    unreadable = db.execute("SELECT count(*) FROM verdicts WHERE kind = 2").fetchone()[0]
    if unreadable and facts["engine_version"] != moderation.__version__:
        return "this version may read what the last one could not"
    return ""


def _progress(db: sqlite3.Connection) -> dict[int, Progress]:
    found = db.execute("SELECT number, next, judged FROM partitions")
    return {number: Progress(next, judged) for number, next, judged in found}


def _remember(db: sqlite3.Connection, facts: Mapping[str, str]) -> None:
    db.executemany(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", facts.items()
    )


def _is_corruption(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _opened(db: sqlite3.Connection | None) -> sqlite3.Connection:
    if db is None:
        raise RuntimeError("the file has not been opened")
    return db


def _close(db: sqlite3.Connection | None) -> None:
    if db is not None:
        db.close()


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself when the disk is full
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
