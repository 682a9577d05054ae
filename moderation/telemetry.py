"""Logs: one line an event, on standard error. JSON; for people on a terminal.

Events are named in the past tense and carry ids, never content. A library's exception may quote what it choked on,
so of an exception only its type and its frames are written. Our own errors' messages are written where they are
handled (runtime.py): errors.py says what they may hold.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from moderation import traces
from moderation.settings import LogSettings

QUIET_S = 10.0
DEPTH = 8  # of what is looked through for exceptions
TELLING = (BaseException, asyncio.Future)  # as text they hold an exception's message
# They write an exception's message into their text themselves, where nobody can tell it apart: of these only the place.
FORMATTED = frozenset({"huggingface_hub"})
POST: ContextVar[str] = ContextVar("POST")  # id of the post that a task is about: in all that is logged there


def configure(settings: LogSettings) -> None:
    """Sets up structlog, and sends what libraries log at WARNING or above the same way. Called once a process."""
    human = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: Processor = structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            _with_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exceptions_without_text,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line: processes may share the stream
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


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
    return "\n".join(_lines(error, set()))


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield type(error).__qualname__
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {_short(frame.filename)}:{frame.lineno} {frame.name}"
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _lines(member, seen)
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from _lines(earlier, seen)


def _short(path: str) -> str:
    return "/".join(path.split("/")[-3:])


def _exceptions_without_text(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = frames(error)
    return event


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
        if record.name.partition(".")[0] in FORMATTED:
            details["place"] = f"{_short(record.pathname)}:{record.lineno}"
        else:
            record.msg, record.args = _without_text(record.msg), _without_text(record.args)
            details["message"] = record.getMessage().partition("\n")[0]
        log = structlog.get_logger()
        log.log(record.levelno, "library_warned", library=record.name, exc_info=record.exc_info, **details)


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
