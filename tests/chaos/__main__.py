"""The long run: each scenario, with one seed after another, and a table of the checker's findings.

    python -m tests.chaos --runs 30              as many runs, all scenarios in turn, and two of each mutation
    python -m tests.chaos --scenarios 1,4 --seed 7   some of them, once each
    python -m tests.chaos --json results.json    and writes each run in full

Exits non-zero on any violation, or if no run of a mutation catches it.
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

from tests.chaos.harness import LOGGED, Cluster, cluster, play
from tests.chaos.scenario import Result, Scenario
from tests.chaos.scenarios import BROKERS, SCENARIOS
from tests.chaos.worker import AS_BUILT, DESIGNS, NO_RESEEK, NO_RESTORE, PRODUCER_PER_WORKER

MUTATIONS = (("2w", PRODUCER_PER_WORKER), ("2z", NO_RESEEK), ("10", NO_RESTORE))
COLUMNS = ("missing", "duplicated", "contradictory", "forgotten", "out_of_order")


def show(results: Sequence[Result]) -> Table:
    table = Table("scenario", "design", "faults", title="chaos")
    for column in ("runs", "posts", *(column.replace("_", " ") for column in COLUMNS), "else", "struck"):
        table.add_column(column, justify="right")
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.scenario, result.design, result.faults), []).append(result)
    for (name, design, faults), several in groups.items():
        counts = [sum(getattr(result.findings, column) for result in several) for column in COLUMNS]
        others = sum(result.findings.broken for result in several) - sum(counts)
        others += sum(len(result.problems) for result in several)
        struck: dict[str, int] = {}
        for result in several:
            for fault, count in result.struck.items():
                struck[fault] = struck.get(fault, 0) + count
        hits = sum(count for fault, count in struck.items() if fault not in LOGGED)
        table.add_row(
            name, design, faults, str(len(several)), str(sum(result.posts for result in several)), *map(str, counts),
            str(others), str(hits),
        )  # fmt: skip
    return table


def schedule(args: argparse.Namespace) -> list[Scenario]:
    every = SCENARIOS | BROKERS
    chosen = [every[name] for name in args.scenarios.split(",")] if args.scenarios else list(every.values())
    chosen = [
        replace(
            scenario.with_design(args.design),
            posts=int(scenario.posts * args.scale),
            patience=scenario.patience * max(1.0, args.scale),
        )
        for scenario in chosen
    ]
    planned = list(islice(cycle(chosen), args.runs or len(chosen)))
    return planned + [SCENARIOS[name].with_design(design) for name, design in MUTATIONS] * (2 if args.runs else 0)


def save(path: Path | None, results: Sequence[Result]) -> None:
    """Saves after each run, so that a set that is stopped leaves its results."""
    if path:
        facts = {
            "command": "python -m tests.chaos " + " ".join(sys.argv[1:]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": {name: version(name) for name in ("moderation", "aiokafka", "protobuf")} | {"kafka": "4.3.1"},
            "seconds": round(sum(result.seconds for result in results)),
            "runs": [asdict(result) for result in results],
        }
        path.write_text(json.dumps(facts, indent=1) + "\n")


async def run(args: argparse.Namespace, console: Console) -> list[Result]:
    results: list[Result] = []
    planned = list(enumerate(schedule(args)))
    for nodes, scenarios in ((3, BROKERS), (1, SCENARIOS)):
        here = [(number, scenario) for number, scenario in planned if scenario.name in scenarios]
        if not here:
            continue
        async with cluster(nodes) as made:
            for number, scenario in here:
                results.append(await _once(made, scenario, args.seed + number, console, args.keep))
                save(args.json, results)
    return results


async def _once(cluster: Cluster, scenario: Scenario, seed: int, console: Console, keep: Path | None) -> Result:
    result = await play(cluster, scenario, seed, keep)
    word = "ok" if result.ok else "BROKEN" if scenario.design == AS_BUILT else "caught"
    console.print(f"{word:<7}{scenario.name:<4}seed {seed:<6}{result.seconds:>6} s  {scenario.faults}", soft_wrap=True)
    console.print(f"       {result.struck}", soft_wrap=True)
    if word == "BROKEN":
        console.print(result.summary(), markup=False)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=0, help="default: each scenario once")
    parser.add_argument("--scenarios", default="", help="names, separated by commas; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of posts")
    parser.add_argument(
        "--design", default=AS_BUILT, choices=DESIGNS, help="a mutation of the worker, which must be caught"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--keep", type=Path, help="folder for the logs of runs that fail")
    args = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each connection that is cut
    console = Console(width=150, highlight=False)
    results = asyncio.run(run(args, console))
    console.print(show(results))
    stood = all(result.ok for result in results if result.design == AS_BUILT)
    mutations = {result.design for result in results} - {AS_BUILT}
    caught = {result.design for result in results if result.findings.broken}
    return 0 if stood and mutations <= caught else 1


if __name__ == "__main__":
    sys.exit(main())
