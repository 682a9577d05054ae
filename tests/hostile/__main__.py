"""`python -m tests.hostile`: every attack on a real API that a good caller uses, as a table and as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moderation.dev.kafka import LocalKafka
from moderation.dev.topics import create_service_topics
from moderation.settings import KafkaSettings
from tests.hostile import attacks, harness
from tests.hostile.measure import Plan, under_attack
from tests.support.credentials import Credentials

POD_MIB = 1_024
ATTACKER = "127.0.0.2"  # an open API distinguishes callers by their addresses


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _line(row: dict[str, Any]) -> str:
    quiet, attacked, memory = row["quiet"], row["attacked"], row["memory_mib"]
    return (
        f"{row['api']:8} {row['by']:15} {row['attack']:20} p50 {quiet['p50_ms']:7.1f} > {attacked['p50_ms']:9.1f} ms  "
        f"p99 {quiet['p99_ms']:7.1f} > {attacked['p99_ms']:9.1f} ms ({row['ratio']:7.2f}x)  refused {row['refused']:4}"
        f" +{row['refused_after']:4}  memory {memory['before']:4} > {memory['peak']:5} > {memory['after']:5} MiB"
        f"  CPU {row['cpu_s']:5.1f} s"
    )


async def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each attack. Each attack gets a new API process."""
    rows = []
    plan = Plan(options.rounds, options.seconds, options.pace)
    async with LocalKafka(progress=print) as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        await create_service_topics(settings, partitions=3)
        await harness.put_verdict(broker.bootstrap, settings.verdicts_topic)
        environment = {"MODERATION_KAFKA__BOOTSTRAP": broker.bootstrap}
        for api, by, name in _plan(options):
            with tempfile.TemporaryDirectory(prefix="moderation-hostile-") as folder:
                credentials = Credentials(Path(folder)) if api == "secured" else None
                async with harness.api(
                    environment, Path(folder), credentials, tree=options.tree, nice=options.nice
                ) as server:
                    token = credentials.token("hostile") if credentials and by == "caller" else ""
                    measured = await under_attack(server, name, token, ATTACKER, plan)
                    logged = server.events()
            rows.append({"api": api, "by": by, "attack": name, **measured, "log_lines": len(logged)})
            print(_line(rows[-1]), flush=True)
            if options.json:
                _write(options, rows)
            for text in sorted({str(event.get("line", event["event"])) for event in logged})[: options.log]:
                print("    ", text[:300], flush=True)
    return rows


def _plan(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    plan = [("secured", "unauthenticated", name) for name in attacks.UNAUTHENTICATED]
    plan += [("secured", "caller", name) for name in attacks.ADMITTED]
    plan += [("open", "anyone", name) for name in attacks.ADMITTED]
    chosen = [set(text.split(",")) if text else None for text in (options.api, options.by, options.attacks)]
    return [row for row in plan if all(not some or part in some for part, some in zip(row, chosen, strict=True))]


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    machine = {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version()}
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    results = {
        "command": f"python -m tests.hostile {' '.join(sys.argv[1:])}",
        "revision": revision.strip() if options.tree is None else "another tree",
        "machine": machine | {"grpcio": version("grpcio")},
        "rows": rows,
    }
    options.json.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    """Returns 0 if every attack stays within the bounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", default="", help="secured, open")
    parser.add_argument("--by", default="", help="unauthenticated, caller, anyone")
    parser.add_argument("--attacks", default="", help="names, separated by commas; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="each a phase without the attack and one with it")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    parser.add_argument("--pace", type=float, default=50.0, help="calls a second of the good caller")
    parser.add_argument("--nice", type=int, default=0, help="of the API and the good caller; the attacker has 19")
    parser.add_argument("--tree", type=Path, help="a checkout whose code is attacked in place of this one")
    parser.add_argument("--log", type=int, default=0, help="how many kinds of events of the API's log to show")
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args()
    rows = asyncio.run(run(options))
    bad = [row for row in rows if row["refused"] or row["ratio"] > 2 or row["memory_mib"]["peak"] > 0.75 * POD_MIB]
    for row in bad:
        print(f"OUT OF BOUNDS: {row['api']} {row['by']} {row['attack']}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
