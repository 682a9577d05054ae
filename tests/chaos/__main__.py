"""The long run: every scenario, again and again with other seeds, and a table of what the checker says.

    python -m tests.chaos --runs 30              as many runs, all rows in turn, and two of each mutation
    python -m tests.chaos --rows 1,4 --seed 7    some rows, once each
    python -m tests.chaos --json results.json    and all that is known of each run

Exits non-zero on any violation, and where a mutation is caught in none of its runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.harness import TOLD, Cluster, Result, Scenario, cluster, play
from tests.chaos.rows import BROKERS, ROWS
from tests.chaos.worker import AS_BUILT, DESIGNS, NO_RECALL, NO_RESEEK, PRODUCER_PER_WORKER

MUTATIONS = (("2w", PRODUCER_PER_WORKER), ("2z", NO_RESEEK), ("10", NO_RECALL))
COLUMNS = ("missing", "duplicated", "contradictory", "forgotten", "out_of_order")


def show(results: Sequence[Result]) -> Table:
    table = Table("row", "design", "faults", title="chaos")
    for name in ("runs", "posts", *(name.replace("_", " ") for name in COLUMNS), "else", "struck"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one.row, one.design, one.faults), []).append(one)
    for (row, design, faults), several in groups.items():
        counts = [sum(getattr(one.findings, name) for one in several) for name in COLUMNS]
        others = sum(one.findings.broken for one in several) - sum(counts) + sum(len(one.problems) for one in several)
        struck: dict[str, int] = {}
        for one in several:
            for name, count in one.struck.items():
                struck[name] = struck.get(name, 0) + count
        hits = sum(n for name, n in struck.items() if name not in TOLD)
        table.add_row(
            row, design, faults, str(len(several)), str(sum(one.posts for one in several)), *map(str, counts),
            str(others), str(hits),
        )  # fmt: skip
    return table


def schedule(args: argparse.Namespace) -> list[Scenario]:
    every = ROWS | BROKERS
    chosen = [every[row] for row in args.rows.split(",")] if args.rows else list(every.values())
    chosen = [
        replace(one.of(args.design), posts=int(one.posts * args.scale), patience=one.patience * max(1.0, args.scale))
        for one in chosen
    ]
    planned = list(islice(cycle(chosen), args.runs or len(chosen)))
    return planned + [ROWS[row].of(design) for row, design in MUTATIONS] * (2 if args.runs else 0)


def save(path: Path | None, results: Sequence[Result]) -> None:
    """After each run: a long one that is stopped has shown something, too."""
    if path:
        facts = {
            "command": "python -m tests.chaos " + " ".join(sys.argv[1:]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": {name: version(name) for name in ("moderation", "aiokafka", "protobuf")} | {"kafka": "4.3.1"},
            "seconds": round(sum(one.seconds for one in results)),
            "runs": [asdict(one) for one in results],
        }
        path.write_text(json.dumps(facts, indent=1) + "\n")


async def run(args: argparse.Namespace, console: Console) -> list[Result]:
    results: list[Result] = []
    planned = list(enumerate(schedule(args)))
    for nodes, rows in ((3, BROKERS), (1, ROWS)):
        mine = [(number, one) for number, one in planned if one.row in rows]
        if not mine:
            continue
        async with cluster(nodes) as made:
            for number, one in mine:
                results.append(await _once(made, one, args.seed + number, console, args.keep))
                save(args.json, results)
    return results


async def _once(made: Cluster, one: Scenario, seed: int, console: Console, keep: Path | None) -> Result:
    result = await play(made, one, seed, keep)
    word = "ok" if result.ok else "BROKEN" if one.design == AS_BUILT else "caught"
    console.print(f"{word:<7}row {one.row:<4}seed {seed:<6}{result.seconds:>6} s  {one.faults}", soft_wrap=True)
    console.print(f"       {result.struck}", soft_wrap=True)
    if word == "BROKEN":
        console.print(result.summary(), markup=False)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=0, help="default: one of each row")
    parser.add_argument("--rows", default="", help="of the matrix, separated by commas; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of posts")
    parser.add_argument(
        "--design", default=AS_BUILT, choices=DESIGNS, help="a mutation of the worker, which must be caught"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--keep", type=Path, help="folder for the logs of runs that fail")
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every connection that we cut
    console = Console(width=150, highlight=False)
    results = asyncio.run(run(args, console))
    console.print(show(results))
    stood = all(one.ok for one in results if one.design == AS_BUILT)
    mutations = {one.design for one in results} - {AS_BUILT}
    caught = {one.design for one in results if one.findings.broken}
    return 0 if stood and mutations <= caught else 1


if __name__ == "__main__":
    sys.exit(main())
