"""Log events that structlog's capture_logs has captured, and logging as it was before a test set it up."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog


def events(logged: Sequence[Any], name: str) -> list[Any]:
    """Returns the events with this name, in order."""
    return [event for event in logged if event["event"] == name]


@contextmanager
def logging_restored() -> Iterator[None]:
    """Undoes at its end what `logs.configure` does to the whole process."""
    handlers, level = list(logging.root.handlers), logging.root.level
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        logging.raiseExceptions = True
        if close := getattr(structlog.get_config()["logger_factory"], "close", None):  # of ours alone
            close()
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
