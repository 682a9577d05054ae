"""Causes each alert for real, and prints what an operator is told.

    python -m tests.alerts                          all situations
    python -m tests.alerts --only worker-killed     some
    python -m tests.alerts --scale 20               rules and limits this many times as fast (the default)
    python -m tests.alerts --json FILE              writes the figures; rows of situations that did not run stay

Real workers and APIs on a real Kafka; a real Prometheus scrapes them, with the rules of deploy/observe/rules.yaml.
Exits non-zero if an alert does not fire, does not name its culprit, or does not resolve once the cause is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

import moderation
from moderation.dev import jars
from moderation.dev.kafka import LocalKafka
from tests.alerts import kafka_away, model_servers, operations, policies, roles, topics, views  # noqa: F401  they register
from tests.alerts.prometheus import NAMESPACE, Prometheus, program, prometheus
from tests.alerts.site import Site, site
from tests.alerts.situation import SITUATIONS, Alert, Situation

SCALE = 20.0
AT_ONCE = 5  # installations on one machine


@dataclass
class Row:
    """An alert in a situation. Minutes are seconds of the rig times the factor: an upper bound, because processes that
    start, end or join a group are no faster than elsewhere."""

    alert: str
    situation: str
    caused: str
    silent: str = ""
    fired_after_s: float | None = None
    fired_after_min: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    top: str = ""
    top_as_wanted: bool | None = None  # None: nothing was asked of it
    resolved_after_min: float | None = None
    also: list[str] = field(default_factory=list)  # other alerts of the installation
    note: str = ""
    problem: str = ""


async def run(some: Situation, kafka: str, server: Prometheus, folder: Path, factor: float) -> list[Row]:
    """Plays one situation. Returns a row for each alert."""
    rows = [Row(each.name, some.name, some.caused, some.silent) for each in some.alerts or (Alert("none"),)]
    try:
        async with site(some.name, kafka, server, folder, factor) as here, aclosing(some.story(here)) as story:
            here.watched = {each.name for each in some.alerts}
            await anext(story)
            await _told(here, some, rows)
            if not rows[0].problem:
                await anext(story, None)
                undone = time.monotonic()
                resolving = zip(some.alerts, rows, strict=False)
                await asyncio.gather(*(_resolves(here, some, each, row, undone) for each, row in resolving))
            for row in rows:
                row.note = here.note
    except Exception:  # noqa: BLE001  the other situations go on
        rows[0].problem = traceback.format_exc()[-1500:]
    return rows


async def _told(here: Site, some: Situation, rows: list[Row]) -> None:
    """What the alerts say, and what the page says then."""
    if some.quiet:
        await _expect_nothing(here, some, rows[0])
    await asyncio.gather(*(_fires(here, some, each, row) for each, row in zip(some.alerts, rows, strict=False)))
    line, code = await here.top()
    for row in rows:
        row.top = line
    if some.top or some.quiet:
        rows[0].top_as_wanted = some.top in line and code == int(bool(some.top))
        if not rows[0].top_as_wanted and not rows[0].problem:
            rows[0].problem = f"top says {line!r}, not {some.top!r}"
    firing = await here.prometheus.firing(here.name)
    rows[0].also = sorted({each["alertname"] for each in firing} - here.watched)


async def _expect_nothing(here: Site, some: Situation, row: Row) -> None:
    until = time.monotonic() + some.quiet
    while time.monotonic() < until:
        if firing := await here.prometheus.firing(here.name):
            row.problem = f"it fires: {firing}"
            return
        await asyncio.sleep(0.5)


def _matching(firing: list[dict[str, str]], alert: Alert) -> list[dict[str, str]]:
    return [labels for labels in firing if labels["alertname"] == alert.name]


async def _fires(here: Site, some: Situation, alert: Alert, row: Row) -> None:
    """Waits for the alert with the labels that name the culprit."""
    seen: list[dict[str, str]] = []
    while time.monotonic() < here.since + some.limit_s:
        seen = _matching(await here.prometheus.firing(here.name), alert)
        for labels in seen:
            if alert.labels.items() <= labels.items() and labels.get("namespace") == NAMESPACE:
                row.fired_after_s = round(time.monotonic() - here.since, 1)
                row.fired_after_min = round(row.fired_after_s * here.factor / 60, 1)
                hidden = {"alertname", "severity", "namespace", "installation"}
                row.labels = {name: value for name, value in labels.items() if name not in hidden}
                return
        await asyncio.sleep(0.25)
    row.problem = f"fired without {alert.labels}: {seen}" if seen else f"silent for {some.limit_s:.0f} s"


async def _resolves(here: Site, some: Situation, alert: Alert, row: Row, undone: float) -> None:
    if row.fired_after_s is None:
        return
    while time.monotonic() < undone + some.limit_s:
        if not _matching(await here.prometheus.firing(here.name), alert):
            row.resolved_after_min = round((time.monotonic() - undone) * here.factor / 60, 1)
            return
        await asyncio.sleep(0.25)
    row.problem = row.problem or f"still fires {some.limit_s:.0f} s after its cause has gone"


async def play(names: list[str], factor: float, file: Path | None) -> list[Row]:
    """Plays the situations, some at once. Writes the rows of each to the file when it has ended, and returns all."""
    with tempfile.TemporaryDirectory(prefix="moderation-alerts-") as name:
        folder = Path(name)
        async with LocalKafka(progress=print) as kafka, prometheus(folder / "prometheus", factor) as server:
            places = asyncio.Semaphore(AT_ONCE)

            async def one(some: Situation) -> list[Row]:
                async with places:
                    print(f"{datetime.now(UTC):%H:%M:%S} {some.name}: {some.caused}", flush=True)
                    rows = await run(some, kafka.bootstrap, server, folder, factor)
                    for row in rows:
                        said = row.problem or f"after {row.fired_after_min} min, resolved {row.resolved_after_min} min"
                        print(f"{datetime.now(UTC):%H:%M:%S} {some.name}: {row.alert} {said}", flush=True)
                    if file:
                        write(file, rows, server.version, factor)
                    return rows

            played = await asyncio.gather(*(one(SITUATIONS[each]) for each in names))
            return [row for rows in played for row in rows]


def show(rows: list[Row]) -> None:
    table = Table(title="what an operator is told", title_justify="left")
    for column in ("alert", "caused", "fired after, min", "labels", "top", "resolved after, min", "also"):
        table.add_column(column)
    for row in rows:
        labels = ", ".join(f"{name}={value}" for name, value in row.labels.items())
        times = [str(each) if each is not None else "-" for each in (row.fired_after_min, row.resolved_after_min)]
        name = f"{row.alert} FAILED: {row.problem}" if row.problem else row.alert
        table.add_row(name, row.caused, times[0], labels, row.top, times[1], ", ".join(row.also))
    Console(width=200).print(table)


def write(path: Path, rows: list[Row], version: str, factor: float) -> None:
    """Adds the rows to those of the file."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    played = {row.situation for row in rows}
    kept = [row for row in known if row["situation"] not in played and row["situation"] in SITUATIONS]
    order = list(SITUATIONS)
    every = sorted(kept + [asdict(row) for row in rows], key=lambda row: order.index(row["situation"]))
    head = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m tests.alerts",
        "scale": factor,
        "moderation": moderation.__version__,
        "prometheus": version,
        "kafka": jars.VERSION,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    path.write_text(json.dumps(head | {"rows": every}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.alerts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", default="", help=f"names, separated by commas, of: {', '.join(SITUATIONS)}")
    parser.add_argument("--scale", type=float, default=SCALE, help="how many times as fast the rules are")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(SITUATIONS)
    if unknown := set(names) - SITUATIONS.keys():
        parser.error(f"no such situation: {', '.join(sorted(unknown))}")
    if program() is None:
        print("NOTHING WAS TESTED: this machine has no `prometheus` on its path", file=sys.stderr)
        return 2
    rows = asyncio.run(play(names, options.scale, options.json))
    show(rows)
    return int(any(row.problem for row in rows))


if __name__ == "__main__":
    sys.exit(main())
