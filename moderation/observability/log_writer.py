"""Writes log lines on a thread of its own, so that logging never raises and never blocks.

Standard error may be a pipe whose reader is gone or stopped, a file on a full disk, or closed. A call that logs only
puts a line into a queue. The thread writes the lines in order, and tries again while it cannot write. When the queue is
full, lines are dropped and counted. Once writing works again, a line says how many were dropped.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TextIO

from moderation.observability import metrics

MAX_LINES = 8_192  # in the queue: some seconds of a busy worker at level debug
WRITE_RETRY_S = 1.0  # between attempts to write a line
REPORT_S = 10.0  # between reports of dropped lines, while the queue is not empty
FLUSH_S = 2.0  # how long the end of a process waits for the queue

Write = Callable[[bytes], int]


class LogWriter:
    """A logger factory for structlog, and the logger that it returns."""

    def __init__(self, stream: TextIO | None, report: Callable[[int], str]) -> None:
        """`stream`: None when the process was started without it. `report`: the line that reports dropped lines."""
        self.stream = stream
        self.report = report
        # Safe to use from a destructor that runs in the middle of another put; a queue.Queue would deadlock there.
        self._lines: SimpleQueue[str | threading.Event | None] = SimpleQueue()
        self._dropped = 0  # two threads may count as one, which is near enough
        self._reported = 0
        self._report_due = 0.0
        self._closed = threading.Event()
        self._fd = _duplicate(stream)
        metrics.LOG_WAITING.set_function(self._lines.qsize)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    def __call__(self, *_: object) -> LogWriter:
        return self

    def msg(self, line: str) -> None:
        """Puts the line into the queue. Never raises, never waits."""
        if self._lines.qsize() >= MAX_LINES or self.stream is None:
            self._drop(1)
        else:
            self._lines.put(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg

    def flush(self, seconds: float = FLUSH_S) -> bool:
        """Waits until the lines in the queue are written. Returns False if they were not written in time."""
        written = threading.Event()
        self._lines.put(written)
        return written.wait(seconds)

    def close(self) -> None:
        """Ends the thread, after the lines in the queue if they can be written now."""
        atexit.unregister(self.flush)
        self._lines.put(None)
        self._thread.join(FLUSH_S)
        self._closed.set()

    def _run(self) -> None:
        while (item := self._lines.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._deliver(item)
            if self._dropped > self._reported and (self._lines.empty() or time.monotonic() > self._report_due):
                dropped, self._report_due = self._dropped, time.monotonic() + REPORT_S
                self._deliver(self.report(dropped - self._reported))
                self._reported = dropped
        if self._fd is not None:
            os.close(self._fd)

    def _deliver(self, line: str) -> None:
        """Returns once the line is written."""
        rest = f"{line}\n".encode("utf-8", "backslashreplace")
        while rest and not self._closed.is_set():
            try:
                rest = rest[self._write(rest) :]
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                number = error.errno if isinstance(error, OSError) else None
                metrics.LOG_ERRORS.counts[(errno.errorcode.get(number or 0, type(error).__name__),)] += 1
                self._closed.wait(WRITE_RETRY_S)

    def _write(self, data: bytes) -> int:
        """The number of bytes written. A line is one write, because processes may share the stream."""
        if self._fd is None:
            assert self.stream is not None  # noqa: S101  no line is taken without it
            self.stream.write(data.decode("utf-8", "backslashreplace"))
            self.stream.flush()
            return len(data)
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # another process has made the stream non-blocking
            ready = select.poll()
            ready.register(self._fd, select.POLLOUT)
            ready.poll(WRITE_RETRY_S * 1000)
            return 0

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        metrics.LOG_DROPPED.counts[()] += lines


def _duplicate(stream: TextIO | None) -> int | None:
    """A descriptor that only this writer closes; None if the stream has none."""
    if stream is None:
        return None
    try:
        return os.dup(stream.fileno())
    except (OSError, ValueError):
        return None
