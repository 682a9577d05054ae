"""Lines on the terminal."""

from __future__ import annotations

import sys

import pytest

LAST = pytest.StashKey[list[str]]()
SENT = "last_lines"  # their name in what a process of several hands over at its end


def say(config: pytest.Config, line: str) -> None:
    """To the terminal at once: a first run waits here for a download."""
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if capture and terminal:
        with capture.global_and_fixture_disabled():
            if hasattr(config, "workerinput"):  # one of several processes, which have this stream alone in common
                print(f"\n{line}", file=sys.stderr, flush=True)
            else:
                terminal.ensure_newline()
                terminal.write_line(line)


def say_last(config: pytest.Config, line: str) -> None:
    """In red below the summary, once: what a run that is green has not tested."""
    lines = config.stash.setdefault(LAST, [])
    if line not in lines:
        lines.append(line)
