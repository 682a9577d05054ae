"""The long run: thousands of hostile posts through real workers, and a table of what became of them.

    python -m tests.fire                        20,000 hostile posts, 3,000 of them with pictures
    python -m tests.fire --records 1000 --pictures 60 --heavy 8 --hanging 2
    python -m tests.fire --json fire.json       and writes the figures

Exits non-zero if a process ended, if the verdict of a good post changed, if a word of a hostile post was found in a
log, a status, a metric or a verdict, or if memory went beyond its bound. The seed is printed, and makes the same posts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from moderation.dev.kafka import LocalKafka
from tests.fire.harness import SETTINGS, Fire, Result
from tests.fire.posts import Plan
from tests.support.harness import a_harness


async def run(plan: Plan, seed: int, timeout: float) -> Result:
    """Plays the plan on brokers of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with LocalKafka(progress=print) as kafka:
            harness = await a_harness(kafka.bootstrap, lambda kind: f"{kind}-{uuid4().hex[:8]}", Path(folder))
            return await Fire(harness, Path(folder)).play(plan, seed, timeout)


def show(result: Result) -> None:
    """Prints what became of each kind of record."""
    table = Table("kind", "records", "outcome and reasons")
    for kind, counts in sorted(result.outcomes.items()):
        table.add_row(kind, str(counts.total()), ", ".join(f"{name}: {count}" for name, count in counts.most_common(6)))
    Console().print(table)
    print(
        f"{result.hostile} hostile posts, {result.pictures} with pictures, among {result.neighbours} good posts, in "
        f"{result.seconds:.0f} s; peak memory {result.peak_mib} MiB of {result.bound_mib} a worker; "
        f"{result.dead_letters} dead letters; statuses of the API {result.statuses}"
    )
    for name in ("exits", "codes", "changed", "milder", "leaks"):
        wrong = getattr(result, name)
        print(f"  {name}: {wrong[:5] if any(wrong) else 'none'}")


def main() -> int:
    """Returns 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--pictures", type=int, default=3_000, help="posts with images, of the records")
    parser.add_argument("--heavy", type=int, default=200, help="of the pictures: files that take a second or more")
    parser.add_argument("--hanging", type=int, default=24, help="of the pictures: files that decode for a minute")
    parser.add_argument("--bombs", type=int, default=8, help="besides: small records that unpack to many megabytes")
    parser.add_argument("--calls", type=int, default=200, help="besides: hostile calls of the API")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--timeout", type=float, default=3_600.0, help="seconds until all posts must have a verdict")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    plan = Plan(options.records, options.pictures, options.heavy, options.hanging, options.bombs, options.calls)
    print(f"seed {options.seed}", flush=True)
    result = asyncio.run(run(plan, options.seed, options.timeout))
    show(result)
    if options.json:
        reasons = Counter[str]()
        for counts in result.outcomes.values():
            reasons.update(counts)
        report = {
            "command": "python -m tests.fire " + " ".join(sys.argv[1:]),
            "seed": options.seed,
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "pillow": version("pillow")},
            "settings": SETTINGS,
            "by_outcome": dict(reasons.most_common()),
            **{name: value for name, value in vars(result).items() if name != "outcomes"},
            "by_kind": {kind: dict(counts) for kind, counts in sorted(result.outcomes.items())},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if result.sound else 1


if __name__ == "__main__":
    sys.exit(main())
