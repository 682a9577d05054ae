"""Processes that a bench starts and watches: their environment, CPU time and memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings of the service in place of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")} | dict(settings)


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
