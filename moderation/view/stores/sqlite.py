"""The view in one SQLite file: the default, for an API that keeps all verdicts on its own disk.

A process that was killed continues where its file is. One thread writes, and another reads in bulk. The event loop
itself reads a single verdict: that is a walk down one tree in the page cache, and takes a fraction of the way to a
thread and back. If a write takes long, the disk may be dead: then the event loop leaves the file to the threads.

The files never take more than their bound, while the view is built and afterwards (sqlite_budget.py). If there is no
room, the posts with the oldest records are deleted. Records that are older than these are not written.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

import moderation
from moderation.errors import ConfigError, DeliveryError
from moderation.observability import metrics
from moderation.settings import ApiSettings
from moderation.view.stores import (
    EVER_MS,
    FIND_S,
    NO_PROGRESS,
    Entry,
    Kind,
    Log,
    LookupRow,
    Page,
    Progress,
    Query,
    StoreUnavailableError,
    sqlite_budget,
    sqlite_facts,
    statements,
)
from moderation.view.stores import sqlite_statements as sql
from moderation.view.stores.sqlite_facts import progress, remember, seen
from moderation.view.stores.sqlite_files import Files, unwritable
from moderation.view.stores.statements import SQLITE

PASSES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR)  # errors after which we try again
SLOW_S = 0.05  # of a write, after which the event loop does not read the file itself
LOCKED_S = 5.0  # that a thread waits for a file that another program has locked; the event loop never waits
READ_S = 10.0  # for the reading thread to respond
CLOSE_S = 5.0  # for each thread to end
LONG_BYTES = sqlite_budget.PAGE // 2  # of a verdict; shorter ones are part of the cost of any record

P = ParamSpec("P")
T = TypeVar("T")
Oldest = list[tuple[int, int, int]]  # rowid, record's timestamp in ms, bytes of the verdict

log = structlog.get_logger()


def open_store(settings: ApiSettings) -> Sqlite:
    """Returns the store in the file that the settings name, not opened yet. Raises ConfigError."""
    sqlite_budget.check(settings.view_max_bytes)
    if settings.view is None:
        raise ConfigError("MODERATION_API__VIEW names no file")
    return Sqlite(settings, settings.view)


class Sqlite:
    """A store in a file. See stores.Store."""

    def __init__(self, settings: ApiSettings, file: Path) -> None:
        self._path = file.expanduser()
        self._files = Files(self._path)
        self._bound = settings.view_max_bytes
        self._retention_ms = int(settings.retention_days * 86_400_000)
        self._budget = sqlite_budget.divided(0, self._files.aside)
        self._horizon_ms = -EVER_MS  # up to here the oldest records were deleted to make room
        self._written: sqlite3.Connection | None = None  # the writer's
        self._bulk: sqlite3.Connection | None = None  # the reader's
        self._single: sqlite3.Connection | None = None  # the event loop's
        self._writer = ThreadPoolExecutor(1, "view-writer")
        self._reader = ThreadPoolExecutor(1, "view-reader")
        self.gone: dict[int, Progress] = {}  # see stores.Store
        self._writing = 0.0  # since when, by the monotonic clock; 0: nothing is being written

    async def open(self, ask: Callable[[], Awaitable[Log]]) -> dict[int, Progress]:
        await self._write(self._files.own)  # from here on no other process moves the file's positions
        await self._close_readers()
        stored = await self._write(self._open, await ask())
        self._single = self._explained(self._connect, 0.0)
        self._bulk = await self._read(self._connect)
        return stored

    async def _close_readers(self) -> None:
        """Closes what an earlier call of `open` has opened: its file may be removed. Reads fail meanwhile."""
        (single, bulk), self._single, self._bulk = (self._single, self._bulk), None, None
        _close(single)
        await self._read(_close, bulk)

    async def serve(self) -> dict[int, Progress]:
        return await self._write(lambda: progress(_opened(self._written)))

    async def followed(self, age_s: float) -> None:
        await self._write(self._followed, age_s)

    async def add(self, begins: Mapping[int, int]) -> None:
        await self._write(self._add, begins)

    async def fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        return await self._write(self._fold, entries, before, after)

    async def find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        slow = self._writing and time.monotonic() - self._writing > SLOW_S
        if len(post_ids) == 1 and not slow:
            return self._explained(self._find_one, post_ids[0])
        return await self._in(self._reader, FIND_S, self._find, post_ids)

    async def page(self, query: Query) -> Page:
        return await self._read(self._page, query)

    async def since(self, partition: int, start: int, end: int, limit: int) -> list[Entry]:
        return await self._read(self._since, partition, start, end, limit)

    async def prune(self, before_ms: int, erased_before_ms: int, limit: int) -> int:
        return await self._write(self._prune, before_ms, erased_before_ms, limit)

    async def size(self) -> int:
        return await self._write(self._files.size)

    async def close(self) -> None:
        """Closes the file. Does not wait for a thread that hangs on a dead disk."""
        _close(self._single)
        for thread, work in ((self._reader, lambda: _close(self._bulk)), (self._writer, self._close)):
            try:
                await self._in(thread, CLOSE_S, work)
            except StoreUnavailableError as error:  # nothing is lost: the next start continues at the positions
                log.warning("view_close_failed", reason=str(error))
            finally:
                thread.shutdown(wait=False)

    # The writer's

    def _open(self, log_: Log) -> dict[int, Progress]:
        _close(self._written)  # of an earlier attempt
        self._budget = sqlite_budget.divided(self._bound, self._files.aside)
        reason, self.gone = self._unusable(log_)
        if reason:
            self._files.remove(reason)
            self._budget = sqlite_budget.divided(self._bound, self._files.aside)
        written = self._written = self._connect()
        written.execute(f"PRAGMA page_size={sqlite_budget.PAGE}")
        written.execute("PRAGMA journal_mode=WAL")  # is kept in the file: reads and writes go on at the same time
        written.execute("PRAGMA wal_autocheckpoint=0")  # the log is emptied when its room is needed
        written.execute(f"PRAGMA max_page_count={self._budget.pages}")
        with _transaction(written):
            for statement in sql.CREATE if reason else ():
                written.execute(statement)
            facts = {"cluster_id": log_.cluster_id, "topic": log_.topic, "engine_version": moderation.__version__}
            facts |= {"topic_id": log_.topic_id} if log_.topic_id else {}
            remember(written, facts | (seen() if reason else {}))
        self._files.mark()
        self._add(log_.begins, self.gone)
        log.info("view_opened", path=str(self._path), topic=log_.topic, resumed=not reason)
        return progress(written)

    def _followed(self, age_s: float) -> None:
        self._empty_log(sqlite_budget.log_bytes(0))
        with _transaction(_opened(self._written)) as written:
            remember(written, seen(age_s))

    def _add(self, begins: Mapping[int, int], known: Mapping[int, Progress] | None = None) -> None:
        """`known`: outcomes that the partitions begin with."""
        self._empty_log(len(begins) * sqlite_budget.FRAME)
        at = {number: (known or {}).get(number, NO_PROGRESS)._replace(next=begin) for number, begin in begins.items()}
        rows = [(number, *progress) for number, progress in at.items()]
        with _transaction(_opened(self._written)) as written:
            written.executemany("INSERT OR IGNORE INTO partitions VALUES (?, ?, ?, ?)", rows)

    def _fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        """Writes in as many transactions as the write-ahead log needs. The last one moves the positions.

        After a crash between two of them, entries are written again. That changes nothing.
        """
        tenants: dict[str, str] = {}
        costs = list(zip(entries, self._costs(entries), strict=True))
        pieces = list(sqlite_budget.pieces(costs, lambda pair: pair[1], self._budget.transaction_bytes)) or [[]]
        for piece in pieces:
            part = [entry for entry, _ in piece]
            needed = sqlite_budget.pages(part)
            self._make_room(needed)
            while True:
                self._empty_log(sum(cost for _, cost in piece) + sqlite_budget.log_bytes(0))
                try:
                    tenants |= self._apply(part, before, after if piece is pieces[-1] else {})
                    break
                except sqlite3.OperationalError as error:
                    full = error.sqlite_errorcode == sqlite3.SQLITE_FULL and self._free_pages() < 4 * needed
                    if not full or not self._make_room(self._free_pages() + needed):  # else it is the disk that is full
                        raise
        return tenants

    def _costs(self, entries: Sequence[Entry]) -> list[int]:
        """Bytes of the write-ahead log for each entry, with what it frees of the post's record before."""
        ids = json.dumps([entry.post_id for entry in entries])
        before = dict(_opened(self._written).execute(sql.LENGTHS, (ids, LONG_BYTES)))
        costs = []
        for entry in entries:
            length = len(entry.verdict or b"")
            costs.append(sqlite_budget.log_bytes(length + before.get(entry.post_id, 0)))
            before[entry.post_id] = length
        return costs

    def _apply(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        now = int(time.time() * 1000)
        oldest = max(self._horizon_ms, now - self._retention_ms if self._retention_ms else -EVER_MS)
        kept = [entry for entry in entries if entry.ms >= oldest or entry.kind == Kind.ERASED]
        with _transaction(_opened(self._written)) as written:
            stored = progress(written)
            if any(stored[number].next != at.next for number, at in before.items()):
                raise DeliveryError(f"the view {self._path} was changed by another process")
            # A record of a clock that is ahead would otherwise outlast later records.
            written.executemany(sql.UPSERT, (entry if entry.ms <= now else entry._replace(ms=now) for entry in kept))
            if len(kept) < len(entries):  # the others would be deleted at once: delete what they supersede
                old = (entry for entry in entries if entry.ms < oldest and entry.kind != Kind.ERASED)
                written.executemany(sql.SUPERSEDE, (entry._asdict() for entry in old))
            rows = [(*at, number) for number, at in after.items()]
            written.executemany("UPDATE partitions SET next = ?, decided = ?, posts_id = ? WHERE number = ?", rows)
            read = "SELECT post_id, tenant FROM verdicts WHERE post_id = ?"
            erased = [entry.post_id for entry in kept if entry.kind == Kind.ERASED]
            tenants = (written.execute(read, (post_id,)).fetchone() for post_id in erased)
            return dict(row for row in tenants if row)  # none: an old verdict has superseded the erasure at once

    def _prune(self, before_ms: int, erased_before_ms: int, limit: int) -> int:
        left = limit
        for statement, before in ((sql.OLDEST, before_ms), (sql.OLDEST_ERASED, erased_before_ms)):
            while left and (rows := self._delete(statement, before, left)):
                left -= len(rows)
        return limit - left

    def _make_room(self, pages: int) -> int:
        """Deletes the oldest posts until the file has so many free pages, or is empty. Returns how many.

        Erasures go last: a watch from an old position has to get them.
        """
        deleted = 0
        while self._free_pages() < pages and (rows := self._delete_oldest()):
            if self._horizon_ms == -EVER_MS:
                log.warning("view_full", path=str(self._path), bound=self._bound, oldest_ms=rows[-1][1])
            self._horizon_ms = max(self._horizon_ms, rows[-1][1])
            deleted += len(rows)
        metrics.PRUNED.inc(deleted)
        return deleted

    def _delete_oldest(self) -> Oldest:
        limit = self._budget.records
        return self._delete(sql.OLDEST, EVER_MS, limit) or self._delete(sql.OLDEST_ERASED, EVER_MS, limit)

    def _delete(self, statement: str, before_ms: int, limit: int) -> Oldest:
        """Deletes the oldest rows that the statement reads, as many as one transaction may. Returns them."""
        oldest: Oldest = _opened(self._written).execute(statement, (before_ms, limit)).fetchall()
        pieces = sqlite_budget.pieces(
            oldest, lambda row: sqlite_budget.log_bytes(row[2]), self._budget.transaction_bytes
        )
        rows = next(pieces, [])
        self._empty_log(sum(sqlite_budget.log_bytes(length) for _, _, length in rows))
        with _transaction(_opened(self._written)) as written:
            written.executemany("DELETE FROM verdicts WHERE rowid = ?", [row[:1] for row in rows])
        return rows

    def _empty_log(self, needed: int) -> None:
        """Makes room in the write-ahead log. Raises StoreUnavailableError while a reader holds an old state."""
        if self._files.log_bytes + needed <= self._budget.log_bytes:
            return
        _opened(self._written).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if (held := self._files.log_bytes) + needed > self._budget.log_bytes:
            raise StoreUnavailableError(f"{self._path}: a reader keeps the write-ahead log at {held} bytes")

    def _free_pages(self) -> int:
        pragmas = ("page_count", "freelist_count")
        pages, free = (_opened(self._written).execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
        return int(self._budget.pages - pages + free)

    def _close(self) -> None:
        try:
            _close(self._written)
        finally:
            self._files.release()

    # The readers'

    def _find_one(self, post_id: str) -> dict[str, LookupRow]:
        row = _opened(self._single).execute(sql.FIND_ONE, (post_id,)).fetchone()
        return {post_id: row} if row else {}

    def _find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        return {row[0]: row[1:] for row in _opened(self._bulk).execute(sql.FIND, (json.dumps(post_ids),))}

    def _page(self, query: Query) -> Page:
        db = _opened(self._bulk)
        listing = statements.Listing(SQLITE, "verdicts", query)
        scan_end = db.execute(*listing.scan_end()).fetchone() if query.filters else None
        return listing.result(db.execute(*listing.page(scan_end)).fetchall(), scan_end)

    def _since(self, partition: int, start: int, end: int, limit: int) -> list[Entry]:
        return [Entry(*row) for row in _opened(self._bulk).execute(sql.SINCE, (partition, start, end, limit))]

    # The file

    def _connect(self, timeout_s: float = LOCKED_S) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout_s, isolation_level=None)
        db.execute("PRAGMA synchronous=NORMAL")  # a power cut loses the last transactions: these records are read again
        db.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten, not only unlinked
        db.execute("PRAGMA temp_store=MEMORY")  # nothing is written that the bound does not know of
        return db

    def _unusable(self, log: Log) -> tuple[str, dict[int, Progress]]:
        """Why the file cannot be continued, and what it knows of outcomes if its topic was created again."""
        with closing(sqlite3.connect(self._path)) as db:
            try:
                reason = sqlite_facts.unusable(db, log, self._budget.pages)
                return reason, progress(db) if reason == sqlite_facts.RECREATED else {}
            except sqlite3.DatabaseError as error:
                if not _is_corruption(error):
                    raise
                return "corrupt", {}

    async def _write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._writing = time.monotonic()
        try:
            return await self._in(self._writer, None, work, *args, **kwargs)
        finally:
            self._writing = 0.0

    async def _read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._in(self._reader, READ_S, work, *args, **kwargs)

    async def _in(
        self, thread: ThreadPoolExecutor, seconds: float | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Returns what `work` returns on the thread. Raises StoreUnavailableError after that time."""
        call = functools.partial(self._explained, work, *args, **kwargs)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(thread, call)
        except TimeoutError:
            raise StoreUnavailableError(f"{self._path}: no response within {seconds:g} s") from None

    def _explained(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what `work` returns. Turns SQLite's errors into ours. A broken file is rebuilt at the next start."""
        try:
            return work(*args, **kwargs)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            if _is_corruption(error):
                self._files.remove("corrupt")
                text = f"the view {self._path} is broken ({name}); it is rebuilt at the next start"
                raise DeliveryError(text) from None
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in PASSES:
                raise StoreUnavailableError(f"{self._path}: {name}") from None
            raise unwritable(self._path, name) from None
        except OSError as error:
            raise StoreUnavailableError(f"{self._path}: {error.strerror or type(error).__name__}") from None


def _is_corruption(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _opened(db: sqlite3.Connection | None) -> sqlite3.Connection:
    if db is None:
        raise StoreUnavailableError("the view's file is being opened")
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
