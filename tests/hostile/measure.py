"""The quiet caller, then the caller beside an attack, then quiet again: in one run against one process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.hostile.harness import MIB, Server, calling

SETTLE_S = 2.0  # of an attack, before what is beside it counts


async def beside(server: Server, attack: str, token: str, source: str, pace: float, seconds: float) -> dict[str, Any]:
    """What the good caller, the attacker and the process came to. `ratio`: the attacked p99 over the quiet one."""
    async with calling(server, pace, seconds) as quiet:
        before = await quiet
    server.peak = resting = server.rss()
    sampling = asyncio.create_task(server.sample())
    cpu = server.cpu_s()
    done: dict[str, int] = {}
    try:
        async with _attacked(server, attack, token, source, done), calling(server, pace, seconds) as good:
            attacked = await good
            held = server.descriptors()
    finally:
        sampling.cancel()
    cpu = server.cpu_s() - cpu
    async with calling(server, pace, seconds) as quiet:
        after = await quiet
    return {
        "quiet": before,
        "attacked": attacked,
        "after": after,
        "ratio": round(attacked["p99_ms"] / before["p99_ms"], 2),
        "refused": sum(count for code, count in attacked["codes"].items() if code != "OK"),
        "refused_after": sum(count for code, count in after["codes"].items() if code != "OK"),
        "memory_mib": {"before": resting // MIB, "peak": server.peak // MIB, "after": server.rss() // MIB},
        "cpu_s": round(cpu, 2),
        "descriptors": held,
        "attacker": done,
    }


@asynccontextmanager
async def _attacked(server: Server, attack: str, token: str, source: str, done: dict[str, int]) -> AsyncIterator[None]:
    command = ["-m", "tests.hostile.attacker", attack, server.address, server.ca, token or "-", source]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        await asyncio.sleep(SETTLE_S)
        yield
        async with asyncio.timeout(30):
            written, _ = await process.communicate(b"")
        done.update(json.loads(written))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
