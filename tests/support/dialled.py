"""Which addresses this process connects to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LISTENERS: list[list[Any]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for listener in _LISTENERS:
            listener.append(arguments[1])


sys.addaudithook(_hear)  # Python itself calls it before each connect; a hook cannot be removed


@contextmanager
def dialled() -> Iterator[list[Any]]:
    """Gives a list that each address is added to before a socket is connected to it."""
    listener: list[Any] = []
    _LISTENERS.append(listener)
    try:
        yield listener
    finally:
        _LISTENERS.remove(listener)
