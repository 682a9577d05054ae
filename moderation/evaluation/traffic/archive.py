"""The archive: a folder of Parquet files with the rows of verdicts (rows.py), by the day on which they were written.

    day=2026-01-31/00000012-0.parquet   rows; the number is that of the commit which wrote the file
    archive.json                        what was read of the topic, and the files of the last commit
    .writing/                           files that belong to no day yet

Each commit moves the offsets and the files in one step: it writes files below `.writing/`, then `archive.json` with
the new offsets and with what is to be done with the files, then it does that. A process that ends in between, also by
kill -9, leaves a commit that is done by the next process, or one that never was. So no row is lost or doubled.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import ConfigError
from moderation.evaluation.traffic.rows import SCAN_ROWS, SCHEMA, TIME

STATE, WRITING, WRITER, READERS = "archive.json", ".writing", ".writer.lock", ".files.lock"
SMALL_ROWS = 500_000  # files of a past day with fewer rows are joined
IDENTITY = ("post_id", "topic_id", "partition", "offset")
REMEDY = "name the folder that `moderation archive` writes"

Write = tuple[date, Iterator[pa.RecordBatch]]  # of one day: the rows of a file

_FILE = re.compile(r"day=(\d{4}-\d{2}-\d{2})/\d{8}-\d+\.parquet")


class Erased(NamedTuple):
    """A post whose earlier rows must go: those before an offset, or of an earlier life of the topic."""

    post_id: str
    topic_id: str
    partition: int
    offset: int


class State(BaseModel):
    """The content of archive.json."""

    model_config = ConfigDict(extra="forbid")

    format: Annotated[int, Field(ge=1, le=1)] = 1
    topic: str = ""
    topic_id: str = ""  # empty: the brokers give no ids
    offsets: dict[int, int] = {}  # by partition: the first that is not in the archive
    read_ms: int = 0  # when the last run began, in ms since 1970
    commit: int = 0  # number of the last one
    moved: dict[str, str] = {}  # files of the last commit: from below .writing/ to their place
    deleted: list[str] = []  # files that the last commit replaced
    erasures: list[Erased] = []  # that are not carried out yet


class Archive:
    """An archive that this process alone writes."""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Archive]:
        """Yields the archive in a folder, which may be new, and ends what an earlier process left undone.

        Raises ConfigError where another process writes to it, or where the folder cannot be written.
        """
        with ExitStack() as locks:
            with _explained(folder):
                (folder / WRITING).mkdir(parents=True, exist_ok=True)
                (folder / READERS).touch()
                lock = locks.enter_context((folder / WRITER).open("a"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConfigError(f"{folder}: another process archives there: let it go on, or end it") from None
                archive = cls(folder, state_of(folder) or State())
                archive._settle()
            yield archive

    def add(self, batches: Sequence[pa.RecordBatch], state: State) -> None:
        """Commits rows, and the state after them, whose number and files are set here."""
        self._commit(state, [(day, iter(kept)) for day, kept in sorted(by_day(batches).items())])

    def erase(self) -> int:
        """Carries out the erasures that wait. Reads the ids of all rows. Returns how many rows went."""
        erasures = defaultdict(list)
        for erased in self.state.erasures:
            erasures[erased.post_id].append(erased)
        writes: list[Write] = []
        names: list[str] = []
        gone = 0
        for name, path in self.files().items() if erasures else ():
            hits = sum(pc.sum(_erased(batch, erasures)).as_py() or 0 for batch in _scan(path, list(IDENTITY)))
            if hits:
                writes.append((day_of(name), _kept(path, erasures)))
                names.append(name)
                gone += hits
        if erasures:
            self._commit(self.state.model_copy(update={"erasures": []}), writes, names)
        return gone

    def join(self, today: date) -> int:
        """Joins small files of past days, so that a day does not keep one for each run. Returns how many went."""
        small = defaultdict(list)
        for name, path in self.files().items():
            if day_of(name) < today and pq.read_metadata(path).num_rows < SMALL_ROWS:
                small[day_of(name)].append(name)
        several = {day: names for day, names in sorted(small.items()) if len(names) > 1}
        for day, names in several.items():
            rows = (batch for name in names for batch in _scan(self.folder / name))
            self._commit(self.state, [(day, rows)], names)
        return sum(map(len, several.values()))

    def files(self) -> dict[str, Path]:
        """By name: where each file of the archive lies."""
        return files_of(self.folder, self.state)

    def _commit(self, state: State, writes: Sequence[Write], replaced: Sequence[str] = ()) -> None:
        """Writes files, each of one day, and moves the state in the same step. replaced: names of files that go."""
        with _explained(self.folder):
            self._write(state, writes, replaced)

    def _write(self, state: State, writes: Sequence[Write], replaced: Sequence[str]) -> None:
        number = self.state.commit + 1
        moved: dict[str, str] = {}
        for place, (day, batches) in enumerate(writes):
            temporary = f"{WRITING}/{number:08d}-{place}.parquet"
            if _written(self.folder / temporary, batches):
                moved[temporary] = f"day={day.isoformat()}/{number:08d}-{place}.parquet"
        changed = {"commit": number, "moved": moved, "deleted": list(replaced)}
        self.state = state.model_copy(update=changed)
        _replace(self.folder / STATE, self.state.model_dump_json(indent=1) + "\n")
        self._settle()

    def _settle(self) -> None:
        """Does what the last commit says, as far as it is not done. Leaves nothing of a commit that never was."""
        with (self.folder / READERS).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # readers see the files before, or the files after
            for name in self.state.deleted:
                (self.folder / name).unlink(missing_ok=True)
            for temporary, name in self.state.moved.items():
                path = self.folder / name
                if (self.folder / temporary).exists():
                    path.parent.mkdir(exist_ok=True)
                    (self.folder / temporary).replace(path)
                    _sync(path.parent)
            _sync(self.folder)
            for left in (self.folder / WRITING).iterdir():
                left.unlink()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Raises ConfigError where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        what = (error.strerror or "not usable").lower()
        raise ConfigError(f"{error.filename or folder}: {what}: the archive is to be written there") from None


def state_of(folder: Path) -> State | None:
    """What archive.json says; None: there is none. Raises ConfigError."""
    path = folder / STATE
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'not readable').lower()}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: {key}: {first['msg'].lower()}: restore the folder from a copy, or archive into another folder"
        ) from None


def files_of(folder: Path, state: State | None) -> dict[str, Path]:
    """By name, in the order of days: where each file lies, also where a process ended in the middle of a commit."""
    found = {str(path.relative_to(folder)): path for path in folder.glob("day=*/*.parquet")}
    if state is not None:
        for name in state.deleted:
            found.pop(name, None)
        for temporary, name in state.moved.items():
            if name not in found and (folder / temporary).exists():
                found[name] = folder / temporary
    return {name: found[name] for name in sorted(found) if _FILE.fullmatch(name)}


@contextmanager
def opened_to_read(folder: Path) -> Iterator[dict[str, Path]]:
    """Yields the files of an archive, which stay as they are meanwhile. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder: {REMEDY}")
    state = state_of(folder)
    if state is None:
        raise ConfigError(f"{folder}: it is no archive, as it has no {STATE}: {REMEDY}")
    try:
        lock = (folder / READERS).open()
    except OSError as error:
        raise ConfigError(f"{folder / READERS}: {(error.strerror or 'not readable').lower()}: {REMEDY}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield files_of(folder, state_of(folder))


def batches(
    folder: Path, columns: Sequence[str] | None = None, since: datetime | None = None, until: datetime | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of rows of a period, by day, of at most SCAN_ROWS. columns: of SCHEMA; None: all.

    The period is that in which verdicts were written, from `since` on and before `until`. Raises ConfigError: also
    where the archive has nothing of the period.
    """
    with opened_to_read(folder) as files:
        wanted = [name for name in files if _meets(day_of(name), since, until)]
        if not wanted:
            days = sorted({day_of(name) for name in files})
            held = f"it holds {days[0]} to {days[-1]}" if days else "it holds nothing yet"
            raise ConfigError(f"{folder}: no verdicts of this period: {held}")
        names = None if columns is None else list(dict.fromkeys([*columns, "written_at"]))
        for name in wanted:
            for batch in _scan(files[name], names):
                kept = _of_period(batch, since, until)
                if kept.num_rows:
                    yield kept


def by_day(batches: Iterable[pa.RecordBatch]) -> dict[date, list[pa.RecordBatch]]:
    """The rows of each day in UTC."""
    found: dict[date, list[pa.RecordBatch]] = defaultdict(list)
    for batch in batches:
        days = pc.cast(batch.column("written_at"), pa.date32())
        for day in days.unique().to_pylist():
            found[day].append(batch.filter(pc.equal(days, day)))
    return found


def day_of(name: str) -> date:
    """The day of a file."""
    return date.fromisoformat(name[len("day=") :].partition("/")[0])


def _meets(day: date, since: datetime | None, until: datetime | None) -> bool:
    first = since is None or day >= since.astimezone(UTC).date()
    return first and (until is None or day <= until.astimezone(UTC).date())


def _of_period(batch: pa.RecordBatch, since: datetime | None, until: datetime | None) -> pa.RecordBatch:
    written = batch.column("written_at")
    if since is not None:
        batch = batch.filter(pc.greater_equal(written, pa.scalar(since, TIME)))
        written = batch.column("written_at")
    return batch if until is None else batch.filter(pc.less(written, pa.scalar(until, TIME)))


def _scan(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Raises ConfigError for a file that cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):  # a batch of two groups would have two dictionaries
                yield from file.iter_batches(batch_size=SCAN_ROWS, row_groups=[group], columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{path}: not a file of an archive ({type(error).__name__}): restore it from a copy, or delete it"
        ) from None


def _kept(path: Path, erasures: Mapping[str, Sequence[Erased]]) -> Iterator[pa.RecordBatch]:
    return (batch.filter(pc.invert(_erased(batch, erasures))) for batch in _scan(path))


def _erased(batch: pa.RecordBatch, erasures: Mapping[str, Sequence[Erased]]) -> pa.BooleanArray:
    """Which rows must go."""
    ids = batch.column("post_id")
    named = pc.is_in(ids, pa.array(list(erasures), pa.string()))
    if not pc.any(named).as_py():
        return named
    gone = [False] * batch.num_rows
    for row in pc.indices_nonzero(named).to_pylist():
        id, topic, partition, offset = (batch.column(name)[row].as_py() for name in IDENTITY)
        gone[row] = any(
            topic != erased.topic_id or (partition == erased.partition and offset < erased.offset)
            for erased in erasures[id]
        )
    return pa.array(gone, pa.bool_())


def _written(path: Path, batches: Iterator[pa.RecordBatch]) -> int:
    """Writes a file, in groups of SCAN_ROWS and more. Returns how many rows; none: there is no file."""
    rows = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in _groups(batches):
            writer.write_table(table.unify_dictionaries(), row_group_size=2 * SCAN_ROWS)
            rows += table.num_rows
    if not rows:
        path.unlink()
        return 0
    with path.open("rb") as file:
        os.fsync(file.fileno())
    _sync(path.parent)
    return rows


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= SCAN_ROWS:
            yield pa.Table.from_batches(held, SCHEMA)
            held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held, SCHEMA)


def _replace(path: Path, text: str) -> None:
    """Writes a file whose content is the old one or the new one at any time."""
    temporary = path.parent / WRITING / path.name
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Has the names of a folder's files on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
