"""Real file systems of a few megabytes, for tests of what happens when one is full or does not answer."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def small(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB, in memory. Skips the test where none can be mounted."""
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "moderation-test", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here (it takes root): NOT TESTED on a volume that is full")
    try:
        yield folder
    finally:
        _run("umount", str(folder))


@contextmanager
def frozen(volume: Path) -> Iterator[None]:
    """Within the block every write to the volume hangs in the kernel, as on a disk that has died."""
    _run("fsfreeze", "--freeze", str(volume))
    try:
        yield
    finally:
        _run("fsfreeze", "--unfreeze", str(volume))


@contextmanager
def disk(folder: Path, mib: int) -> Iterator[Path]:
    """An ext4 of so many MiB in a file, that can be frozen. Skips the test where none can be mounted."""
    image = folder.with_name(folder.name + ".ext4")
    folder.mkdir()
    image.touch()
    os.truncate(image, mib << 20)
    try:
        _run("mkfs.ext4", "-q", "-F", str(image))
        _run("mount", "-o", "loop", str(image), str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk image can be mounted here (it takes root and a loop device): NOT TESTED on a dead disk")
    try:
        yield folder
    finally:
        _run("umount", str(folder))


@contextmanager
def filled(volume: Path) -> Iterator[None]:
    """Within the block there is no free byte on the volume."""
    filler = volume / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                _fill(file.fileno(), bytes(size))
        yield
    finally:
        filler.unlink()


def _fill(file: int, block: bytes) -> None:
    try:
        while os.write(file, block):
            pass
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise


class Sizes:
    """What the files of a folder take together, looked at all the time by a thread, and whenever `look` is called."""

    def __init__(self, folder: Path) -> None:
        self.largest = 0  # bytes
        self.looks = 0
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def look(self) -> None:
        """Once."""
        total = 0
        for name in os.listdir(self._folder):
            try:
                total += os.stat(self._folder / name).st_size
            except FileNotFoundError:
                continue
        self.largest = max(self.largest, total)
        self.looks += 1

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.look()
