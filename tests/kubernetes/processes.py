"""Programs that end with the test run, however that ends, and whose last words can be read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from moderation.dev import supervise
from tests.support.until import until

STOP_S = 20.0


class Program:
    """A command from its start to the end of the `with`: SIGTERM, and SIGKILL after STOP_S. Its output is a file."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self._command = command
        self._log = log

    def __enter__(self) -> Self:
        held = (sys.executable, "-IS", supervise.__file__, str(os.getpid()), str(STOP_S), *map(str, self._command))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                held, stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(STOP_S + 10)

    def until(self, ready: Callable[[], bool], timeout_s: float = 120) -> None:
        """Returns when `ready`. Raises AssertionError with the end of the log when it is not in time, or has ended."""

        def running() -> bool:
            assert self._process.poll() is None, (
                f"{self._command[0]} exited with {self._process.returncode}; {self._tail()}"
            )
            return ready()

        until(running, timeout_s, lambda: f"{self._command[0]} is not ready; {self._tail()}")

    def _tail(self) -> str:
        return "its last lines:\n" + "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])
