"""Metrics of the process that hold for both roles: readiness, start and memory.

Memory is read when Prometheus asks. In a container it is the container's: its limit, and what counts against it. The
page cache of files does not count, because the kernel gives it back before it ends a process. Without a limit it is
the process's resident memory, and the machine's total.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moderation.observability import metrics


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes; NaN: unknown."""

    used: float
    limit: float


@dataclass(frozen=True, slots=True)
class _Cgroups:
    """Where a version of cgroups keeps the memory of a group."""

    mount: str
    controllers: str  # the field of /proc/self/cgroup that names it
    limit: str
    used: str
    cache: tuple[str, ...]  # fields of memory.stat


_VERSIONS = (
    _Cgroups("sys/fs/cgroup", "", "memory.max", "memory.current", ("inactive_file", "active_file")),
    _Cgroups(
        "sys/fs/cgroup/memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


@contextmanager
def shown(role: str, ready: Callable[[], bool]) -> Iterator[None]:
    """Shows the metrics for as long as a role runs. `ready` is asked on the thread of a scrape."""
    metrics.START.labels(role).set(time.time())
    metrics.READY.labels(role).set_function(ready)
    metrics.MEMORY.set_function(lambda: memory().used)
    metrics.MEMORY_LIMIT.set_function(lambda: memory().limit)
    try:
        yield
    finally:
        metrics.READY.remove(role)
        metrics.START.remove(role)


def memory(root: Path = Path("/")) -> Memory:
    """The memory in use, and the limit at which the kernel ends the process. `root`: above /proc and /sys."""
    try:
        total = _fields(root / "proc/meminfo")["MemTotal:"] * 1024
        limits = [found for version in _VERSIONS for found in _limits(root, version) if found[0] < total]
        if not limits:
            pages = int((root / "proc/self/statm").read_text().split()[1])
            return Memory(pages * os.sysconf("SC_PAGE_SIZE"), total)
        limit, group, version = min(limits, key=lambda found: found[0])
        kept = _fields(group / "memory.stat")
        used = int((group / version.used).read_text()) - sum(kept.get(name, 0) for name in version.cache)
        return Memory(max(0, used), limit)
    except (OSError, ValueError, LookupError):
        return Memory(math.nan, math.nan)


def _limits(root: Path, version: _Cgroups) -> Iterator[tuple[int, Path, _Cgroups]]:
    """The limits of the process's group and of the groups around it; a limit of any of them holds.

    A container may see its group at the mount itself, while /proc names the path on the machine.
    """
    mount = root / version.mount
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if version.controllers not in controllers.split(","):
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            file = folder / version.limit
            if file.is_file() and (written := file.read_text().strip()) != "max":
                yield int(written), folder, version
            if folder == mount:
                return


def _fields(file: Path) -> dict[str, int]:
    """The numbers of a file whose lines begin with a name and a number."""
    pairs = (line.split()[:2] for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
