"""The quiet caller, then the caller beside an attack, then quiet again: in one run against one process."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from tests.hostile.attacks import Attack, Target
from tests.hostile.harness import MIB, Server, calling


async def beside(server: Server, attack: Attack, target: Target, pace: float, seconds: float) -> dict[str, Any]:
    """What the good caller, the attacker and the process's memory came to.

    `ratio` is the attacked p99 over the quiet one, which is the slower of before and after.
    """
    async with calling(server, pace, seconds) as quiet:
        before = await quiet
    server.peak = resting = server.rss()
    sampling = asyncio.create_task(server.sample())
    began = time.monotonic()
    try:
        async with calling(server, pace, seconds) as good:
            attacking = asyncio.create_task(_run(attack, target))
            try:
                attacked = await good
            finally:
                attacking.cancel()
                with suppress(asyncio.CancelledError):
                    await attacking
    finally:
        sampling.cancel()
    took, held = time.monotonic() - began, server.descriptors()
    async with calling(server, pace, seconds) as quiet:
        after = await quiet
    return {
        "quiet": before,
        "attacked": attacked,
        "after": after,
        "ratio": round(attacked["p99_ms"] / max(before["p99_ms"], after["p99_ms"]), 2),
        "refused": sum(count for code, count in attacked["codes"].items() if code != "OK"),
        "refused_after": sum(count for code, count in after["codes"].items() if code != "OK"),
        "memory_mib": {
            name: at // MIB for name, at in (("before", resting), ("peak", server.peak), ("after", server.rss()))
        },
        "descriptors": held,
        "attacker": dict(target.done),
        "seconds": round(took, 1),
    }


async def _run(attack: Attack, target: Target) -> None:
    await attack(target)
