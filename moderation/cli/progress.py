"""How far a long command is: a bar with the time that is left on a terminal; elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moderation.cli.options import err
from moderation.observability import logs

SAID_EVERY_S = 15.0  # where no terminal shows a bar


def terminal() -> Console | None:
    """Standard error as it is before the output of libraries is captured; None: it is no terminal."""
    return Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w")) if err.is_terminal else None


@contextmanager
def shown(what: str, total: int, terminal: Console | None) -> Iterator[Callable[[int], object]]:
    """Yields a function that takes how many more of `total` are done. what: the things, in the plural.

    Both the bar and the lines go to standard error.
    """
    if terminal is not None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=terminal, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda more: bar.advance(task, more)
        return
    done, started = 0, time.monotonic()
    said = started

    def step(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= SAID_EVERY_S and done:
            said = now
            left = (now - started) / done * (total - done)
            logs.say(f"{done} of {total} {what}, about {left:.0f} s left")

    yield step
