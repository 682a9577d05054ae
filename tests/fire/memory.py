"""The memory of processes with all their children, sampled while they work."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

MIB = 1 << 20
PAUSE_S = 0.1


class Memory:
    """Peaks of the memory of processes, each with its children. What several share counts in shares (PSS)."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids
        self.peaks = [0] * len(pids)

    @asynccontextmanager
    async def sampled(self) -> AsyncIterator[None]:
        """Samples until the context is left."""
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _sample(self) -> None:
        while True:
            now = await asyncio.to_thread(lambda: [memory_of(pid) for pid in self.pids])
            self.peaks = [max(pair) for pair in zip(self.peaks, now, strict=True)]
            await asyncio.sleep(PAUSE_S)


def memory_of(pid: int) -> int:
    """Bytes of a process and of all processes below it."""
    below: defaultdict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _read(folder / "stat").rpartition(")")[2].split()
            if len(fields) > 1:
                below[int(fields[1])].append(int(folder.name))
    total, left = 0, [pid]
    while left:
        one = left.pop()
        left += below[one]
        lines = _read(Path(f"/proc/{one}/smaps_rollup")).splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""
