"""Waiting for what other processes do: asked again and again, with a deadline that says what was missing."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_S = 0.25


def until(true: Callable[[], bool], timeout_s: float, missing: Callable[[], str]) -> None:
    """Returns once it is true. Raises AssertionError with what is missing."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s: {missing()}")
        time.sleep(PAUSE_S)
