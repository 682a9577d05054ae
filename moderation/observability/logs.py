"""Logs: one line an event, on standard error. JSON; for people on a terminal.

Events are named in the past tense and carry ids, never content. A library's exception may quote what it choked on,
so of an exception only its type and its frames are written. Our own errors' messages are written where they are
handled (lifecycle.py): errors.py says what they may hold.

Logging never raises and never blocks (log_writer.py). Everything that Python itself would print on standard error comes
the same way: warnings, exceptions that nothing has caught, in the main thread, in threads and in destructors.
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
MAX_FRAMES = 64  # of one exception: those nearest to where it was raised
MAX_EXCEPTION_CHARS = 12_000
MAX_LINE_CHARS = 16 << 10  # with MAX_LINES of log_writer.py this bounds what waits
DEPTH = 8  # of what is looked through for exceptions
TELLING = (BaseException, asyncio.Future)  # as text they hold an exception's message
# They write an exception's message into their text themselves, where nobody can tell it apart: of these only the place.
FORMATTED = frozenset({"huggingface_hub"})
POST: ContextVar[str] = ContextVar("POST")  # id of the post that a task is about: in all that is logged there


def configure(settings: LogSettings) -> None:
    """Sets up structlog, and sends what libraries and Python itself would print the same way. May be called again."""
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
    """From now on only log lines reach standard error: what libraries in C or Rust print there is counted instead.

    Their text may quote a post, as that of a panic in Rust does, and they may print with the interpreter's lock held:
    a reader who is stopped would then stop all threads.
    """
    if settings.raw:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # what does not fit is lost
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
    """Waits, for so long at most, until what was logged is written. The end of the interpreter does so by itself."""
    if (writer := _writer()) is not None:
        writer.flush(seconds)


def say(text: str) -> None:
    """Prints a text on standard error the way log lines go there: a reader who is gone or stopped holds nothing up."""
    if (writer := _writer()) is not None:
        writer.msg(text)
        writer.flush()


def _writer() -> LogWriter | None:
    factory = structlog.get_config()["logger_factory"]
    return factory if isinstance(factory, LogWriter) else None


def adopt(library: str) -> None:
    """Takes off the handlers that a library has put on its logger when it was imported: they know none of our rules."""
    logging.getLogger(library).handlers.clear()


def _with_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The post, and the trace and span that this is a line of."""
    if post := POST.get(""):
        event.setdefault("post_id", post)
    if ids := traces.ids():
        event["trace_id"], event["span_id"] = ids
    return event


def frames(error: BaseException) -> str:
    """The types and frames of an error, of those that caused it and of those it groups; no messages."""
    return "\n".join(_lines(error))[:MAX_EXCEPTION_CHARS]


def _lines(error: BaseException) -> Iterator[str]:
    """A chain may be of any length: a model may raise each error from the one before."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < MAX_ERRORS:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield type(one).__qualname__
        # Not extract_tb: it reads the source files.
        for frame, number in deque(traceback.walk_tb(one.__traceback__), maxlen=MAX_FRAMES):
            yield f"  {_short(frame.f_code.co_filename)}:{number} {frame.f_code.co_name}"
        earlier = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if earlier is not None:
            waiting.append(earlier)
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(reversed(one.exceptions))


def _short(path: str) -> str:
    return "/".join(path.split("/")[-3:])


def _exceptions_without_text(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = frames(error)
    return event


class _Line:
    """Makes the line of an event. It never raises: an event that cannot be written becomes one that says so."""

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


def _fallback(event: str, level: str, of: object, **fields: str | int) -> str:
    """A line in place of one about the event `of`. Its values are ours."""
    about = of[:100] if type(of) is str else type(of).__name__
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
    """What libraries log through the standard library, as an event of ours.

    A client that has lost its brokers says so many times a second: of each place in a library's code, one event passes
    in QUIET_S, and says how many did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], tuple[float, int]] = {}  # by place: when one passed, how many since

    def emit(self, record: logging.LogRecord) -> None:
        place = record.pathname, record.lineno
        passed, held = self._last.get(place, (-QUIET_S, 0))
        if record.created - passed < QUIET_S:
            self._last[place] = passed, held + 1
            return
        self._last[place] = record.created, 0
        details: dict[str, object] = {"repeated": held} if held else {}
        message = None if record.name.partition(".")[0] in FORMATTED else _message(record)
        if message is None:
            details["place"] = f"{_short(record.pathname)}:{record.lineno}"
        else:
            details["message"] = message
        log = structlog.get_logger()
        log.log(record.levelno, "library_warned", library=record.name, exc_info=record.exc_info, **details)


def _message(record: logging.LogRecord) -> str | None:
    """The first line of a record's text, without exceptions' texts; None: it cannot be made."""
    try:
        record.msg, record.args = _without_text(record.msg), _without_text(record.args)
        return record.getMessage().partition("\n")[0]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  its format does not fit its arguments, or one of them cannot be written
        return None


def _without_text(value: Any, depth: int = DEPTH) -> Any:
    """The same, with the type's name in place of each exception in it."""
    if isinstance(value, TELLING):
        return type(value).__name__
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return value
    if not depth:
        return type(value).__name__
    if isinstance(value, Mapping):
        pairs = tuple(value.items())
        found = _without_text(pairs, depth)
        return value if found is pairs else dict(found)
    found = tuple(_without_text(one, depth - 1) for one in value)
    if all(new is old for new, old in zip(found, value, strict=True)):
        return value  # of its own type, whose text may name more
    return list(found) if isinstance(value, list) else found
