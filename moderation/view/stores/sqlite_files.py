"""The files of the view in SQLite: which process owns them, and what they take on the disk."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

import structlog

from moderation.errors import ConfigError
from moderation.view.stores.sqlite_budget import size
from moderation.view.stores.sqlite_statements import APPLICATION_ID

MAGIC = b"SQLite format 3\0"
APPLICATION_AT = 68  # in the header
MARK = b"moderation\n"  # in the lock file, once its view has been opened

log = structlog.get_logger()


class Files:
    """The database, its write-ahead log and its index, the lock, and a broken database that was set aside."""

    def __init__(self, path: Path) -> None:
        self.aside = path.with_name(path.name + ".corrupt")
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._lock: IO[bytes] | None = None

    @property
    def log_bytes(self) -> int:
        """Bytes of the write-ahead log."""
        return size(self._log)

    def size(self) -> int:
        """Returns the bytes of all files."""
        return sum(map(size, (*self._database(), self.aside)))

    def own(self) -> None:
        """Locks the files: two processes would overwrite each other's positions. Raises ConfigError."""
        if self._lock is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._path.with_name(self._path.name + ".lock"))
            if _is_view(self.aside):  # an earlier version set its own view aside: the topic has all of it
                self.aside.unlink()
        except BlockingIOError:
            raise ConfigError(
                f"the view {self._path} is in use by another process: give each API its own MODERATION_API__VIEW"
            ) from None
        except OSError as error:
            raise unwritable(self._path, error.strerror or type(error).__name__) from None

    def mark(self) -> None:
        """Marks the database as a view, also if its header breaks later."""
        if self._lock is not None and not self._marked():
            self._lock.write(MARK)
            self._lock.flush()

    def remove(self, reason: str) -> None:
        """Deletes the database. A broken file that may be another program's is set aside, at most one."""
        if reason != "new":
            log.warning("view_rebuilt", path=str(self._path), reason=reason)
        if reason == "corrupt" and self._path.exists() and not (_is_view(self._path) or self._marked()):
            os.replace(self._path, self.aside)
        for path in self._database():
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """Unlocks the files."""
        if self._lock is not None:
            self._lock.close()

    def _database(self) -> list[Path]:
        return [self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]

    def _marked(self) -> bool:
        if self._lock is None:
            return False
        self._lock.seek(0)
        return self._lock.read(len(MARK)) == MARK


def unwritable(path: Path, why: str) -> ConfigError:
    """Returns the error for a file that cannot be used."""
    return ConfigError(f"MODERATION_API__VIEW: cannot use {path}: {why}")


def _locked(path: Path) -> IO[bytes]:
    """The file, locked. Raises BlockingIOError if another process has locked it."""
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _is_view(path: Path) -> bool:
    """Whether a file's header says that it is a view."""
    try:
        with path.open("rb") as file:
            header = file.read(APPLICATION_AT + 4)
    except FileNotFoundError:
        return False
    return header.startswith(MAGIC) and header[APPLICATION_AT:] == APPLICATION_ID.to_bytes(4, "big")
