"""Standard errors that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO


def gone(stack: ExitStack) -> int:
    """A pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    stack.callback(os.close, writer)
    return writer


def full(stack: ExitStack) -> IO[bytes]:
    return stack.enter_context(Path("/dev/full").open("wb", buffering=0))


def stopped(stack: ExitStack) -> int:
    """A pipe whose reader is stopped."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    return writer


STREAMS: dict[str, Callable[[ExitStack], int | IO[bytes]]] = {"gone": gone, "full": full, "stopped": stopped}
