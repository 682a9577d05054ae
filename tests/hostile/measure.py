"""The good caller alone and next to an attack, in turns, against one process in one run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.hostile.harness import MIB, Server, calling

SETTLE_S = 2.0  # of an attack, before its effect is measured


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and how often."""

    rounds: int
    seconds: float  # of each phase
    pace: float  # calls a second of the good caller


async def under_attack(server: Server, attack: str, token: str, source: str, plan: Plan) -> dict[str, Any]:
    """Medians of the good caller's rounds, what the attacker did, and the highest memory of the process.

    `ratio`: the attacked p99 over the quiet one of the same round. On a busy machine a single
    p99 means little. This is the median ratio.
    """
    quiet: list[dict[str, Any]] = []
    attacked: list[dict[str, Any]] = []
    done: dict[str, int] = {}
    resting = server.rss()
    server.peak = 0
    sampling = asyncio.create_task(server.sample())
    cpu = server.cpu_s()
    try:
        for _ in range(plan.rounds):
            async with calling(server, plan.pace, plan.seconds) as good:
                quiet.append(await good)
            async with _attacked(server, attack, token, source, done), calling(server, plan.pace, plan.seconds) as good:
                attacked.append(await good)
        async with calling(server, plan.pace, plan.seconds) as good:
            after = await good
    finally:
        sampling.cancel()
    return {
        "quiet": _median(quiet),
        "attacked": _median(attacked),
        "ratio": round(median(b["p99_ms"] / a["p99_ms"] for a, b in zip(quiet, attacked, strict=True)), 2),
        "rounds": {"quiet": quiet, "attacked": attacked},
        "refused": sum(map(_refused, attacked)),
        "refused_after": _refused(after),
        "memory_mib": {"before": resting // MIB, "peak": server.peak // MIB, "after": server.rss() // MIB},
        "cpu_s": round(server.cpu_s() - cpu, 2),
        "attacker": done,
    }


def _median(rounds: list[dict[str, Any]]) -> dict[str, float]:
    return {name: round(median(measured[name] for measured in rounds), 2) for name in ("p50_ms", "p99_ms", "max_ms")}


def _refused(calls: dict[str, Any]) -> int:
    return sum(count for code, count in calls["codes"].items() if code != "OK")


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
        for name, count in json.loads(written).items():
            done[name] = done.get(name, 0) + count
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
