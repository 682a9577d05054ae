"""Keys from a terminal, one at a time, and the terminal afterwards."""

from __future__ import annotations

import io
import os
import pty
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from moderation.cli import keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """What a person types goes into the first; a program reads the second."""
    person, program = pty.openpty()
    with open(program) as source:
        yield person, source
    os.close(person)


def test_a_key_needs_no_return(terminal: tuple[int, TextIO]) -> None:
    person, source = terminal
    before = termios.tcgetattr(source.fileno())
    with keys.opened(source) as key:
        assert termios.tcgetattr(source.fileno())[3] & termios.ICANON == 0
        for pressed in ("v", "1", "ä"):
            os.write(person, pressed.encode())
            assert key() == pressed
        os.write(person, b"q")
        assert key() == "q"
    assert termios.tcgetattr(source.fileno()) == before


@pytest.mark.parametrize("pressed", [b"\x1b[A", b" ", b"\t", b"\n", b"pasted words"])
def test_what_is_no_key_is_passed_over(pressed: bytes) -> None:
    assert keys.key_of(pressed) is None


def test_control_d_ends(terminal: tuple[int, TextIO]) -> None:
    person, source = terminal
    with keys.opened(source) as key:
        os.write(person, b"\x04")
        assert key() == keys.END


def test_the_terminal_is_as_before_after_an_error(terminal: tuple[int, TextIO]) -> None:
    _, source = terminal
    before = termios.tcgetattr(source.fileno())
    with pytest.raises(KeyboardInterrupt), keys.opened(source):
        raise KeyboardInterrupt
    assert termios.tcgetattr(source.fileno()) == before


def test_without_a_terminal_characters_of_lines_are_keys() -> None:
    with keys.opened(io.StringIO("v\n 1a\n\n")) as key:
        assert [key() for _ in range(5)] == ["v", "1", "a", keys.END, keys.END]
