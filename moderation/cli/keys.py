"""Single keys from a terminal. Elsewhere, each character of a line is a key."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

END = ""  # no key comes any more
CTRL_D = "\x04"


@contextmanager
def opened(source: TextIO | None = None) -> Iterator[Callable[[], str]]:
    """Yields a function that waits for the next key; END: there is none. source: default standard input.

    Blanks, control characters and sequences such as those of arrows are no keys. Leaves the terminal as it was.
    """
    source = source or sys.stdin
    if not source.isatty():
        yield _characters(source)
        return
    descriptor = source.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda: _pressed(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _characters(source: TextIO) -> Callable[[], str]:
    characters = (character for line in source for character in line if character.isprintable() and character != " ")
    return lambda: next(characters, END)


def _pressed(descriptor: int) -> str:
    while (key := key_of(os.read(descriptor, 64))) is None:
        pass
    return key


def key_of(pressed: bytes) -> str | None:
    """The key of one read, to which a sequence comes as a whole; None: it is none."""
    key = pressed.decode("utf-8", "replace")
    if key in (END, CTRL_D):
        return END
    return key if len(key) == 1 and key.isprintable() and key != " " else None
