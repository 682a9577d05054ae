"""`moderation top --once` in a world whose time runs faster: `python -m tests.alerts.top FACTOR ENDPOINT...`."""

from __future__ import annotations

import sys

from rich.console import Console

from moderation.cli.top import render, troubles
from moderation.cli.top.limits import LIMITS, OPEN_TRANSACTION_S
from moderation.cli.top.reading import address

AS_THEY_ARE = {  # no times, or times that the rules do not write in minutes
    "moderation_group_foreign_members",
    "moderation_memory_bytes",
    "moderation_log_lines_waiting",
    "moderation_loop_tick_age_seconds",
}


def faster(factor: float) -> dict[str, float]:
    """The limits of the page, divided as `scaled_rules.scaled` divides those of the alerts."""
    return {name: limit if name in AS_THEY_ARE else limit / factor for name, limit in LIMITS.items()}


def main() -> int:
    factor, endpoints = float(sys.argv[1]), sys.argv[2:]
    LIMITS.update(faster(factor))
    setattr(troubles, "OPEN_TRANSACTION_S", OPEN_TRANSACTION_S / factor)  # noqa: B010  so that mypy lets us
    console = Console(width=250, no_color=True)
    return not render([address(each) for each in endpoints], console, interval=0.5, once=True)


if __name__ == "__main__":
    sys.exit(main())
