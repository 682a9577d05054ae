"""Log events that structlog's capture_logs has captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def events(logged: Sequence[Any], name: str) -> list[Any]:
    """Returns the events with this name, in order."""
    return [event for event in logged if event["event"] == name]
