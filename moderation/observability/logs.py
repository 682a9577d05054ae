"""Logs: one line for each event, on standard error. The format is JSON, or text on a terminal.

Events are named in the past tense and carry ids, never content. A library's exception may quote what it failed on,
so only the type and the frames of an exception are written. Messages of this service's own errors are written where the
errors are handled (lifecycle.py); errors.py says what the messages may hold.

Logging never raises and never blocks (log_writer.py). Everything that Python itself would print on standard error goes
the same way: warnings, and uncaught exceptions in the main thread, in other threads and in destructors.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from moderation.observability import traces
from moderation.observability.log_writer import FLUSH_S, LogWriter
from moderation.settings import LogSettings

STDERR = 2  # its file descriptor
QUIET_S = 10.0
MAX_ERRORS = 32  # of one chain or group
MAX_FRAMES = 64  # of one exception, nearest to where it was raised
MAX_EXCEPTION_CHARS = 12_000
MAX_LINE_CHARS = 16 << 10  # with MAX_LINES of log_writer.py this bounds what waits
DEPTH = 8  # of nested values that are searched for exceptions
HOLDS_MESSAGE = (BaseException, asyncio.Future)  # their text holds an exception's message
# These libraries format exceptions' messages into their text, so only the place in their code is logged.
FORMATTED = frozenset({"huggingface_hub"})
POST: ContextVar[str] = ContextVar("POST")  # id of the post that a task works on: on every line logged there


def configure(settings: LogSettings) -> None:
    """Sets up structlog, and sends the output of libraries and of Python the same way. May be called again."""
    human = settings.format == "console" or (settings.format == "auto" and bool(sys.stderr) and sys.stderr.isatty())
    renderer: Processor = structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    line = _Line(
        [
            _with_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exceptions_without_text,
            renderer,
        ]
    )

    def report(dropped: int) -> str:
        return line(None, "warning", {"event": "log_lines_dropped", "lines": dropped})

    before = _writer()
    if before is not None and before.stream is sys.stderr:
        writer, before.report = before, report
    else:
        writer = LogWriter(sys.stderr, report)
        if before is not None:
            before.close()
    structlog.configure(
        processors=[line],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=writer,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # else a handler that fails prints its record, with all arguments
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_failed


def capture_prints(settings: LogSettings) -> None:
    """From now on only log lines reach standard error. Output of libraries in C or Rust is counted, not printed.

    Such output may quote a post, as a panic in Rust does. Libraries may also print with the interpreter's lock held: a
    stopped reader would then stop all threads.
    """
    if settings.raw:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # output that does not fit is lost
    os.dup2(writer, STDERR)
    os.close(writer)
    threading.Thread(target=_count_prints, args=(reader,), name="stderr", daemon=True).start()


def _count_prints(reader: int) -> None:
    reported, size, lines = -QUIET_S, 0, 0
    while data := os.read(reader, 1 << 16):
        size, lines = size + len(data), lines + data.count(b"\n")
        if (now := time.monotonic()) - reported >= QUIET_S:
            structlog.get_logger().warning("library_printed", bytes=size, lines=lines)
            reported, size, lines = now, 0, 0


def flush(seconds: float = FLUSH_S) -> None:
    """Waits at most `seconds` until the lines logged so far are written. The interpreter's end does so by itself."""
    if (writer := _writer()) is not None:
        writer.flush(seconds)


def say(text: str) -> None:
    """Prints a text on standard error as log lines are written: a reader that is gone or stopped does not block."""
    if (writer := _writer()) is not None:
        writer.msg(text)
        writer.flush()


def _writer() -> LogWriter | None:
    factory = structlog.get_config()["logger_factory"]
    return factory if isinstance(factory, LogWriter) else None


def adopt(library: str) -> None:
    """Removes the handlers that a library put on its logger when it was imported."""
    logging.getLogger(library).handlers.clear()


def _with_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Adds the ids of the post, the trace and the span that the line belongs to."""
    if post := POST.get(""):
        event.setdefault("post_id", post)
    if ids := traces.ids():
        event["trace_id"], event["span_id"] = ids
    return event


def frames(error: BaseException) -> str:
    """The types and frames of an error, of its causes and of its group's members, without messages."""
    return "\n".join(_lines(error))[:MAX_EXCEPTION_CHARS]


def _lines(error: BaseException) -> Iterator[str]:
    """A chain may have any length: a model may raise each error from the last."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < MAX_ERRORS:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield type(current).__qualname__
        # Not extract_tb: it reads the source files.
        for frame, number in deque(traceback.walk_tb(current.__traceback__), maxlen=MAX_FRAMES):
            yield f"  {_short(frame.f_code.co_filename)}:{number} {frame.f_code.co_name}"
        earlier = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if earlier is not None:
            waiting.append(earlier)
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(reversed(current.exceptions))


def _short(path: str) -> str:
    return "/".join(path.split("/")[-3:])


def _exceptions_without_text(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = frames(error)
    return event


class _Line:
    """Makes the line of an event. Never raises: in place of an event that cannot be written, a line says so."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        event_name = event.get("event")
        try:
            made: Any = event
            for process in self._processors:
                made = process(logger, name, made)
            line = str(made)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  a value's own code may raise anything
            return _fallback("log_line_failed", name, event_name, error=type(error).__name__)
        if len(line) > MAX_LINE_CHARS:
            return _fallback("log_line_too_long", name, event_name, chars=len(line))
        return line


def _fallback(event: str, level: str, failed_event: object, **fields: str | int) -> str:
    """The line in place of an event that cannot be written. All its values are safe to write."""
    about = failed_event[:100] if type(failed_event) is str else type(failed_event).__name__
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": event, "about": about, "level": level, "timestamp": now, **fields})


def _uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    structlog.get_logger().error("process_crashed", error=type(error).__name__, exc_info=error)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    thread = args.thread.name if args.thread else ""
    name = args.exc_type.__name__
    structlog.get_logger().error("thread_failed", thread=thread, error=name, exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """An exception in a destructor or a callback of C code."""
    name = args.exc_type.__name__
    structlog.get_logger().error("exception_unraisable", error=name, exc_info=args.exc_value)


class _Libraries(logging.Handler):
    """Turns what libraries log through the standard library into events.

    A client that has lost its brokers logs many times a second. So each place in a library's code may log one event in
    QUIET_S. The event has the number of those held back before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[
            tuple[str, int], tuple[float, int]
        ] = {}  # by place: when an event passed, how many were held back since

    def emit(self, record: logging.LogRecord) -> None:
        place = record.pathname, record.lineno
        passed, held_back = self._last.get(place, (-QUIET_S, 0))
        if record.created - passed < QUIET_S:
            self._last[place] = passed, held_back + 1
            return
        self._last[place] = record.created, 0
        details: dict[str, object] = {"repeated": held_back} if held_back else {}
        message = None if record.name.partition(".")[0] in FORMATTED else _message(record)
        if message is None:
            details["place"] = f"{_short(record.pathname)}:{record.lineno}"
        else:
            details["message"] = message
        log = structlog.get_logger()
        log.log(record.levelno, "library_warned", library=record.name, exc_info=record.exc_info, **details)


def _message(record: logging.LogRecord) -> str | None:
    """The first line of a record's text, without exceptions' texts; None if the text cannot be made."""
    try:
        record.msg, record.args = _without_text(record.msg), _without_text(record.args)
        return record.getMessage().partition("\n")[0]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  its format does not fit its arguments, or one of them cannot be written
        return None


def _without_text(value: Any, depth: int = DEPTH) -> Any:
    """The value, with the type's name in place of each exception in it."""
    if isinstance(value, HOLDS_MESSAGE):
        return type(value).__name__
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return value
    if not depth:
        return type(value).__name__
    if isinstance(value, Mapping):
        pairs = tuple(value.items())
        replaced = _without_text(pairs, depth)
        return value if replaced is pairs else dict(replaced)
    replaced = tuple(_without_text(member, depth - 1) for member in value)
    if all(new is old for new, old in zip(replaced, value, strict=True)):
        return value  # keeps its own type, whose text may be richer
    return list(replaced) if isinstance(value, list) else replaced
