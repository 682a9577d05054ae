"""Files that a command writes: a reader sees all of the new one, or what was there before."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from moderation.errors import ConfigError, cause_of


def replaced(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Puts a file in the place of another, once all of it is on the disk. Raises ConfigError: then nothing changed.

    mode: who may read and write the file, less what the umask takes.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: not written: {cause_of(error)}") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
