"""How far a long measurement is: a bar on a terminal, a line now and then elsewhere. Figures: tests/integration."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moderation.cli import progress
from moderation.observability import logs


def test_a_line_now_and_then_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logs, "say", said.append)
    now = iter([100.0, 101.0, 120.0, 121.0, 140.0])
    monkeypatch.setattr("moderation.cli.progress.time.monotonic", lambda: next(now))
    with progress.shown("verdicts", 400, None) as step:
        for _ in range(4):
            step(50)
    assert said == ["100 of 400 verdicts, about 60 s left", "200 of 400 verdicts, about 40 s left"]


def test_a_terminal_has_a_bar() -> None:
    shown = io.StringIO()
    with progress.shown("verdicts", 10, Console(file=shown, force_terminal=True, width=100)) as step:
        step(10)
    assert "10/10" in shown.getvalue()
