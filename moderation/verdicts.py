"""The materialised view of the verdicts topic: the latest verdict of each post, in one SQLite file.

The topic is the truth, the file can always be rebuilt from it. Records and the positions they bring the view to are
written in one transaction, so a killed process goes on where its file is. One thread writes, another reads.

A record that is no verdict (something else writes to the topic, or a newer version does) does not stop the view: one
foreign record would stop every API at once. It is logged, and its post is answered UNREADABLE instead of with an
older verdict.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

import moderation
from moderation import kafka, wire
from moderation.errors import ConfigError, DeliveryError
from moderation.settings import Settings
from moderation.v1 import moderation_service_pb2 as service
from moderation.v1.verdict_pb2 import Source, Verdict

SCHEMA = 1
APPLICATION_ID = 0x6D6F6476  # in the file's header: so that we never take another program's database for ours
BATCH = 500  # records in one transaction
MAX_AWAY_S = 12 * 3600  # half of Kafka's default delete.retention.ms: a view that was away longer may miss erasures

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class View:
    """Answers lookups while `follow` runs, from `caught_up` on. Made by `open_view`."""

    def __init__(self, file: _File, consumer: AIOKafkaConsumer, topic: str, topics: kafka.Topics) -> None:
        self.caught_up = asyncio.Event()  # set once all that was on the topic at the start is folded in
        self._file = file
        self._consumer = consumer
        self._topic = topic
        self._cluster_id = topics.cluster_id
        self._partitions = frozenset(range(topics.partitions))
        self._writer = ThreadPoolExecutor(1, "view-writer")
        self._reader = ThreadPoolExecutor(1, "view-reader")
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def find(self, post_ids: Sequence[str]) -> list[service.LookupResult]:
        """A result for each id, in the order asked."""
        return await self._in(self._reader, self._file.find, post_ids)

    async def wait(self, post_id: str, source: Source) -> Verdict:
        """The verdict of this very record of the posts topic, or of a later one of the same post. No deadline."""
        woken = asyncio.Event()
        self._waiting[post_id].add(woken)
        try:
            while True:
                woken.clear()  # before the look: what is folded from here on wakes us
                (found,) = await self.find([post_id])
                of = found.verdict.source  # empty unless found
                if (of.topic, of.partition) == (source.topic, source.partition) and of.offset >= source.offset:
                    return found.verdict
                await woken.wait()
        finally:
            self._waiting[post_id].discard(woken)
            if not self._waiting[post_id]:
                del self._waiting[post_id]

    async def follow(self) -> None:
        """Folds the topic in until cancelled. Raises DeliveryError when it cannot be read any more."""
        try:
            await self._follow()
        except (KafkaError, UnicodeDecodeError) as error:  # the latter: of a header's name, from within aiokafka
            raise DeliveryError(f"cannot read topic {self._topic}: {type(error).__name__}") from error

    async def _follow(self) -> None:
        started = time.monotonic()
        ends = await self._consumer.end_offsets([self._partition(number) for number in self._partitions])
        behind = {partition.partition: end for partition, end in ends.items()}
        positions = await self._in(self._writer, self._file.open, self._cluster_id, self._topic, dict(behind))
        self._assign(positions)
        while True:
            await self._take_new_partitions()
            batches = await self._consumer.getmany(timeout_ms=200, max_records=BATCH)
            if batches:
                await self._fold(batches)
            if behind:
                at = {number: await self._consumer.position(self._partition(number)) for number in behind}
                behind = {number: end for number, end in behind.items() if at[number] < end}
                if not behind:
                    self.caught_up.set()
                    log.info("view_caught_up", topic=self._topic, seconds=round(time.monotonic() - started, 3))

    async def _fold(self, batches: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        positions = {each.partition: await self._consumer.position(each) for each in batches}
        records = [record for batch in batches.values() for record in batch]
        for post_id in await self._in(self._writer, self._file.fold, records, positions):
            for waiter in self._waiting.get(post_id, ()):
                waiter.set()

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)

    def _assign(self, positions: Mapping[int, int]) -> None:
        """All partitions, from where the file is; one that the file does not know is read from its beginning."""
        self._consumer.assign([self._partition(number) for number in self._partitions])
        for number in self._partitions & positions.keys():
            self._consumer.seek(self._partition(number), positions[number])

    async def _take_new_partitions(self) -> None:
        """An operator may add partitions; the client's metadata tells within five minutes."""
        known = frozenset(self._consumer.partitions_for_topic(self._topic) or ())
        if not known > self._partitions:
            return
        log.info("partitions_added", topic=self._topic, partitions=len(known))
        self._partitions = known
        self._assign(await self._in(self._writer, self._file.positions))

    async def close(self) -> None:
        """After `follow` has ended, and with no lookup under way."""
        try:
            await self._in(self._reader, self._file.close_reader)
            await self._in(self._writer, self._file.close)
        finally:
            self._reader.shutdown()
            self._writer.shutdown()

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(self._file.explained, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(thread, call)


@asynccontextmanager
async def open_view(settings: Settings, topics: kafka.Topics) -> AsyncIterator[View]:
    """A view that has connected and does not follow yet."""
    async with AsyncExitStack() as stack:
        consumer = kafka.consumer(settings.kafka)
        stack.push_async_callback(kafka.stop, consumer)
        await kafka.connected(consumer.start, settings.kafka)
        view = View(_File(settings.api.view), consumer, settings.kafka.verdicts_topic, topics)
        stack.push_async_callback(view.close)
        yield view


class _File:
    """The SQLite file. `find` and `close_reader` belong to one thread, everything else to another."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._lock: IO[bytes] | None = None
        self._written: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None

    def open(self, cluster_id: str, topic: str, ends: Mapping[int, int]) -> dict[int, int]:
        """The positions to go on from. Rebuilt from nothing if the file is of another log, or broken."""
        self._own()
        identity = {"cluster_id": cluster_id, "topic": topic}
        reason = self._unusable(identity, ends)
        if reason:
            self._remove(reason)
        written = self._written = self._connect()
        written.execute("PRAGMA journal_mode=WAL")  # stays with the file: we read while we write
        with _transaction(written):
            for statement in _CREATE if reason else ():
                written.execute(statement)
            _remember(written, identity | {"engine_version": moderation.__version__} | _seen())
        positions = self.positions()
        log.info("view_opened", path=str(self._path), topic=topic, resumed=bool(positions))
        return positions

    def positions(self) -> dict[int, int]:
        """The offset to read next, for each partition that has been read."""
        return dict(self._db().execute("SELECT number, next FROM partitions"))

    def fold(self, records: Sequence[ConsumerRecord], positions: Mapping[int, int]) -> set[str]:
        """Applies them all or none; returns the ids of the posts they are about."""
        changes = [change for record in records if (change := _change(record))]
        written = self._db()
        with _transaction(written):
            for change in changes:
                written.execute(_ERASE if change.erases else _UPSERT, change.row)
            written.executemany(_ADVANCE, positions.items())
            _remember(written, _seen())
        return {change.post_id for change in changes}

    def find(self, post_ids: Sequence[str]) -> list[service.LookupResult]:
        if self._read is None:
            self._read = self._connect()
        known = dict(self._read.execute(_FIND, (json.dumps(post_ids),)))
        return [_result(post_id, post_id in known, known.get(post_id)) for post_id in post_ids]

    def close_reader(self) -> None:
        if self._read is not None:
            self._read.close()

    def close(self) -> None:
        try:
            if self._written is not None:
                with closing(self._written) as written, _transaction(written):
                    _remember(written, _seen())
        finally:
            if self._lock is not None:
                self._lock.close()

    def explained(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
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
            raise _unwritable(self._path, name) from None

    def _own(self) -> None:
        """Two processes on one file would bring each other's positions back."""
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
        return db

    def _db(self) -> sqlite3.Connection:
        if self._written is None:
            raise RuntimeError("the file has not been opened")
        return self._written

    def _unusable(self, identity: Mapping[str, str], ends: Mapping[int, int]) -> str:
        with closing(sqlite3.connect(self._path)) as db:
            try:
                return _unusable(db, identity, ends)
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


def _unwritable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"MODERATION_API__VIEW: cannot use {path}: {why}")


_CREATE = (
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={SCHEMA}",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE partitions (number INTEGER PRIMARY KEY, next INTEGER NOT NULL)",
    # verdict: the Protobuf; null where the record could not be read
    """CREATE TABLE verdicts (
        post_id TEXT PRIMARY KEY,
        at_partition INTEGER NOT NULL, at_offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        verdict BLOB)""",
)
# Offsets order the records of a partition. After partitions were added a post may change its partition: then time does.
_UPSERT = """
    INSERT INTO verdicts VALUES (:post_id, :partition, :offset, :ms, :verdict)
    ON CONFLICT (post_id) DO UPDATE
    SET at_partition = excluded.at_partition, at_offset = excluded.at_offset, at_ms = excluded.at_ms,
        verdict = excluded.verdict
    WHERE CASE at_partition WHEN excluded.at_partition THEN at_offset < excluded.at_offset
          ELSE at_ms < excluded.at_ms END"""
_ERASE = """
    DELETE FROM verdicts WHERE post_id = :post_id
    AND CASE at_partition WHEN :partition THEN at_offset < :offset ELSE at_ms < :ms END"""
_ADVANCE = "INSERT INTO partitions VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET next = excluded.next"
_FIND = "SELECT post_id, verdict FROM verdicts WHERE post_id IN (SELECT value FROM json_each(?))"


def _unusable(db: sqlite3.Connection, identity: Mapping[str, str], ends: Mapping[int, int]) -> str:
    """Why the file cannot be gone on with, or the empty string. Raises ConfigError if it is not ours at all."""
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return "new"
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        path = db.execute("PRAGMA database_list").fetchone()[2]
        raise ConfigError(f"MODERATION_API__VIEW: {path} is another program's database: name another file")
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        return "another schema"
    facts = dict(db.execute("SELECT name, value FROM facts"))
    for name, value in identity.items():
        if facts.get(name) != value:
            return f"another {name}"
    if any(position > ends.get(number, 0) for number, position in db.execute("SELECT number, next FROM partitions")):
        return "the log ends before our position"  # the topic was made anew. A longer one passes for the old one
    if time.time() - float(facts.get("seen", 0)) > MAX_AWAY_S:
        return "erasures may have been missed"
    unreadable = db.execute("SELECT count(*) FROM verdicts WHERE verdict IS NULL").fetchone()[0]
    if unreadable and facts["engine_version"] != moderation.__version__:
        return "this version may read what the last one could not"
    return ""


def _remember(db: sqlite3.Connection, facts: Mapping[str, str]) -> None:
    db.executemany(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", facts.items()
    )


def _seen() -> dict[str, str]:
    return {"seen": str(int(time.time()))}


def _is_corruption(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself when the disk is full
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class _Change:
    """What a record does to the view."""

    post_id: str
    erases: bool
    row: dict[str, Any]


def _change(record: ConsumerRecord) -> _Change | None:
    """None: the record is about no post."""
    position = {"partition": record.partition, "offset": record.offset, "ms": record.timestamp}
    try:
        post_id = (record.key or b"").decode()
    except UnicodeDecodeError:
        post_id = ""
    if wire.id_problem(post_id):
        log.error("verdict_unreadable", topic=record.topic, reason="its key is no post id", **position)
        return None
    if record.value is None:
        return _Change(post_id, erases=True, row={"post_id": post_id} | position)
    verdict: bytes | None = None
    try:
        message = wire.read_verdict(record.value, record.headers)
        if message.post_id == post_id:
            verdict = message.SerializeToString()
        else:
            log.error("verdict_unreadable", topic=record.topic, reason="its key is another post's id", **position)
    except ValueError as error:
        log.error("verdict_unreadable", topic=record.topic, reason=str(error), **position)  # noqa: TRY400
    return _Change(post_id, erases=False, row={"post_id": post_id, "verdict": verdict} | position)


def _result(post_id: str, known: bool, verdict: bytes | None) -> service.LookupResult:
    if not known:
        return service.LookupResult(post_id=post_id, state=service.LOOKUP_STATE_NOT_FOUND)
    if verdict is None:
        return service.LookupResult(post_id=post_id, state=service.LOOKUP_STATE_UNREADABLE)
    found = Verdict.FromString(verdict)
    return service.LookupResult(post_id=post_id, state=service.LOOKUP_STATE_FOUND, verdict=found)
