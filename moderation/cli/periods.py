"""Times that options name: so long ago, or a time in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from moderation.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
LONGEST_S = 50 * 365 * UNITS["d"]


def time_of(text: str | None, option: str) -> datetime | None:
    """The time, in UTC where it names no zone. Raises ConfigError."""
    if text is None:
        return None
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return datetime.now(UTC) - timedelta(seconds=min(int(ago[1]) * UNITS[ago[2]], LONGEST_S))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} must be like 30m, 6h, 2d or 2026-01-31T22:00, not {text!r}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
