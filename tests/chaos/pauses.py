"""How long verdicts pause after a worker was killed, by session timeout and by how soon it is started again.

    python -m tests.chaos.pauses --sessions 30,10 --again 1,15 --json pauses.json

Three workers share six partitions, with posts at a steady rate. One worker gets SIGKILL. The figures are the longest
times without a verdict: on all partitions together, on those of the killed worker, and on those of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from aiokafka import ConsumerRecord
from rich.console import Console

from tests.chaos.fleet import Worker
from tests.chaos.harness import PARTITIONS, Cluster, Run, cluster
from tests.chaos.scenario import Scenario
from tests.support.topics import committed_records

RATE = 60.0  # posts a second
SETTLED_S = 10.0  # from the first verdicts to the kill
KAFKA_DEFAULT_MS = 120_000  # of a rebalance


@dataclass(frozen=True)
class Pause:
    """The longest times without a verdict, in seconds, around one kill."""

    session_s: float
    again_s: float  # from the kill to the start of the next process
    everywhere: float
    killed: float  # on the partitions of the killed worker
    others: float  # on the other partitions
    whole: bool  # every post has one verdict, in order


def longest(times: Sequence[float], begin: float, end: float) -> float:
    """The longest stretch within [begin, end] without one of the times."""
    marks = [begin, *sorted(at for at in times if begin < at < end), end]
    return max(after - before for before, after in pairwise(marks))


def owned(worker: Worker) -> set[int]:
    """The partitions that the worker has, by its log."""
    held: set[int] = set()
    for event in worker.events:
        if event["event"] == "policies_loaded":
            held = set()
        elif event["event"] == "partition_assigned":
            held.add(event["partition"])
        elif event["event"] == "partition_revoked":
            held.discard(event["partition"])
    return held


async def measured(made: Cluster, session_s: float, again_s: float, seed: int) -> Pause:
    """Plays one kill."""
    watched_s = session_s + again_s + 20.0
    killed_at, partitions = 0.0, set[int]()

    async def kill(run: Run) -> None:
        nonlocal killed_at, partitions
        await run.answered(0.02)
        await asyncio.sleep(SETTLED_S)
        victim = run.pick()
        victim.again_s = again_s
        partitions = owned(victim)
        killed_at = time.time()
        run.hit(victim, signal.SIGKILL)
        await asyncio.sleep(watched_s)

    scenario = Scenario(
        "pause",
        "one worker is killed",
        kill,
        posts=300,
        rate=RATE,
        keeps=True,
        settings={
            "MODERATION_KAFKA__SESSION_TIMEOUT_MS": str(int(session_s * 1000)),
            "MODERATION_KAFKA__REBALANCE_TIMEOUT_MS": str(KAFKA_DEFAULT_MS),
        },
    )
    with tempfile.TemporaryDirectory(prefix="pauses-") as folder:
        run = Run(made, scenario, seed, Path(folder))
        findings, problems = await run.play()
        verdicts = await committed_records(made.bootstrap, run.verdicts, partitions=PARTITIONS)
    others = set(range(PARTITIONS)) - partitions
    begin, end = killed_at - 1.0, killed_at + watched_s
    return Pause(
        session_s,
        again_s,
        longest(_times(verdicts, range(PARTITIONS)), begin, end),
        max(longest(_times(verdicts, [number]), begin, end) for number in partitions),
        max(longest(_times(verdicts, [number]), begin, end) for number in others),
        not (findings.broken or problems),
    )


def _times(verdicts: Sequence[ConsumerRecord], partitions: Collection[int]) -> list[float]:
    return [record.timestamp / 1000 for record in verdicts if record.partition in partitions]


async def _all(args: argparse.Namespace, console: Console) -> list[Pause]:
    pauses: list[Pause] = []
    async with cluster() as made:
        for number in range(args.runs):
            for session_s in args.sessions:
                for again_s in args.again:
                    pause = await measured(made, session_s, again_s, args.seed + number)
                    pauses.append(pause)
                    console.print(
                        f"session {session_s:g} s, again after {again_s:g} s: no verdict for {pause.everywhere:.1f} s, "
                        f"of the killed worker's for {pause.killed:.1f} s, of the others' for {pause.others:.1f} s"
                        f"{'' if pause.whole else '  BROKEN'}"
                    )
    return pauses


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.pauses", description=__doc__)
    parser.add_argument("--sessions", type=_numbers, default=[30.0, 10.0], help="session timeouts, in seconds")
    parser.add_argument("--again", type=_numbers, default=[1.0, 15.0], help="seconds until the worker is started again")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    pauses = asyncio.run(_all(args, Console(width=150, highlight=False)))
    if args.json:
        facts = {
            "command": "python -m tests.chaos.pauses " + " ".join(sys.argv[1:]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": {name: version(name) for name in ("moderation", "aiokafka")} | {"kafka": "4.3.1"},
            "pauses": [asdict(pause) for pause in pauses],
        }
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(pause.whole for pause in pauses) else 1


if __name__ == "__main__":
    sys.exit(main())
