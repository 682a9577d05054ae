"""Lines on the terminal."""

from __future__ import annotations

import pytest


def say(config: pytest.Config, line: str) -> None:
    """To the terminal at once: a first run waits here for a download."""
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if capture and terminal:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)
