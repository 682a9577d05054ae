"""`moderation bench lookup`: lookups against a bare handler that answers a constant of the same size, in one run.

It starts a real Kafka, puts verdicts on a topic, and lets `moderation api`, as shipped, fold them in: that is the
folding speed, until the view is caught up. Then it and the bare server, each a process, are called in turn, round by
round, by a client that is a process too. Rates, latencies and the server's own CPU time a call are told as medians of
the rounds: with the client on the same cores, the last is the one that says most about the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from moderation import wire
from moderation.bench.load import post_id
from moderation.dev.kafka import LocalKafka
from moderation.dev.topics import create_service_topics
from moderation.kafka import clients
from moderation.settings import KafkaSettings
from moderation.types import Finding, ModelInfo, Origin, Outcome, Score, Severity, Source, Status, Thresholds, Verdict
from moderation.v1 import moderation_service_pb2 as pb

KEYS = 100  # in a batch
PARTITIONS = 6
FINDINGS = 6
START_S = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    verdicts: int = 60_000
    rounds: int = 3
    seconds: float = 4.0
    concurrencies: tuple[int, ...] = (1, 8, 64)
    format: Literal["json", "protobuf"] = "protobuf"


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers."""

    process: asyncio.subprocess.Process
    address: str

    def cpu_s(self) -> float:
        """CPU seconds of all its threads, so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(plan: Plan, console: Console, output: Path | None = None) -> dict[str, Any]:
    """The results, and the machine they were measured on."""
    with tempfile.TemporaryDirectory(prefix="moderation-bench-") as name:
        async with LocalKafka(progress=console.print) as broker:
            settings = KafkaSettings(bootstrap=broker.bootstrap, verdict_format=plan.format)
            await create_service_topics(settings, partitions=PARTITIONS)
            size = await _fill(settings, plan)
            environment = {"MODERATION_KAFKA__BOOTSTRAP": broker.bootstrap, "MODERATION_LOG__FORMAT": "json"}
            rows: list[dict[str, Any]] = []
            async with _api(environment, Path(name)) as (ours, fold_s), _bare(size) as bare:
                for method in ("GetVerdict", "BatchGetVerdicts"):
                    for concurrency in plan.concurrencies:
                        rows.append(await _compare(method, concurrency, {"ours": ours, "bare": bare}, plan))
                        console.print(_told(rows[-1]), highlight=False)
            overload = await _overload(environment, Path(name), plan)
    results = {
        "plan": asdict(plan),
        "verdict_bytes": size,
        "fold": {"verdicts": plan.verdicts, "seconds": fold_s, "per_s": round(plan.verdicts / fold_s)},
        "lookups": rows,
        "overload": overload,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "grpcio": version("grpcio")},
    }
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")  # noqa: ASYNC240  nothing runs beside it any more
    return results


def show(results: Mapping[str, Any], console: Console) -> None:
    """As tables."""
    fold = results["fold"]
    console.print(f"folding: {fold['per_s']} verdicts/s, from Kafka to the view ({results['plan']['format']})")
    table = Table(
        "method", "at a time", "ours/s", "bare/s", "rate", "p99 ours", "p99 bare", "p99", "CPU us ours/bare", "CPU"
    )
    for row in results["lookups"]:
        ours, bare = row["ours"], row["bare"]
        table.add_row(
            row["method"],
            str(row["concurrency"]),
            f"{ours['per_s']:.0f}",
            f"{bare['per_s']:.0f}",
            f"{row['rate']:.2f}",
            f"{ours['p99']:.2f} ms",
            f"{bare['p99']:.2f} ms",
            f"{row['p99']:.2f}x",
            f"{ours['cpu_us']:.0f}/{bare['cpu_us']:.0f}",
            f"{row['cpu']:.2f}",
        )
    console.print(table)
    for row in results["overload"]:
        console.print(
            f"limit {row['limit']}, {row['concurrency']} at a time: {row['per_s']:.0f}/s served, "
            f"p50 {row['p50']:.1f} ms, p99 {row['p99']:.1f} ms; {row['codes']}",
            highlight=False,
        )


def _verdict(number: int) -> Verdict:
    thresholds = Thresholds(0.5, 0.9, 0.5)
    findings = tuple(
        Finding(
            policy_id=f"policy-{index}",
            policy_version=1,
            outcome=Outcome.ALLOW,
            severity=Severity.MEDIUM,
            thresholds=thresholds,
            score=Score(0.01 * (number % 40), -2.0, 0.98),
            windows=1,
            counts=True,
        )
        for index in range(FINDINGS)
    )
    return Verdict(
        post_id=post_id(number),
        tenant="",
        content_digest=f"{number:064x}",
        policy_set_digest="p" * 64,
        model=ModelInfo("microsoft/Phi-3-vision-128k-instruct", "main", "m" * 64),
        outcome=Outcome.ALLOW,
        status=Status.FINAL,
        origin=Origin.MODEL,
        deciding_policy="",
        severity=Severity.NONE,
        findings=findings,
        decided_at_ms=1_790_000_000_000 + number,
        source=Source("posts", number % PARTITIONS, number // PARTITIONS, 1_790_000_000_000 + number),
    )


async def _fill(settings: KafkaSettings, plan: Plan) -> int:
    """Puts verdicts on their topic, each once; returns how long one is as Protobuf."""
    producer = clients.producer(settings, linger_ms=20)
    await clients.connected(producer.start, settings)
    try:
        for start in range(0, plan.verdicts, 5_000):
            sent = []
            for number in range(start, min(start + 5_000, plan.verdicts)):
                value, headers = wire.verdict_record(_verdict(number), plan.format)
                key = post_id(number).encode()
                partition = number % PARTITIONS
                sent.append(await producer.send(settings.verdicts_topic, value, key, partition, headers=headers))
            await asyncio.gather(*sent)
    finally:
        await clients.stop(producer)
    return wire.verdict_message(_verdict(0)).ByteSize()


@asynccontextmanager
async def _api(environment: Mapping[str, str], folder: Path, **extra: str) -> AsyncIterator[tuple[Server, float]]:
    """The API as shipped, caught up, and the seconds that its view took."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moderation", "api"),
        env=inherited
        | dict(environment)
        | {"MODERATION_API__LISTEN": "127.0.0.1:0", "MODERATION_API__VIEW": str(folder / "view.sqlite")}
        | {"MODERATION_API__DRAIN_DELAY_S": "0"}
        | extra,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        caught_up = await _event(process, "view_caught_up")
        ready = await _event(process, "api_ready")
        yield Server(process, f"127.0.0.1:{ready['port']}"), caught_up["seconds"]
    finally:
        await _end(process)


async def _event(process: asyncio.subprocess.Process, name: str) -> dict[str, Any]:
    """The next event of this name in its log."""
    lines: list[bytes] = []
    async with asyncio.timeout(START_S):
        while process.stderr and (line := await process.stderr.readline()):
            lines.append(line)
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
    raise RuntimeError(b"".join(lines).decode())


@asynccontextmanager
async def _bare(size: int) -> AsyncIterator[Server]:
    """A server that answers as many bytes as ours."""
    point = len(pb.GetVerdictResponse(state=pb.LOOKUP_STATE_FOUND).SerializeToString()) + size + 3
    batch = KEYS * (point + len(post_id(0)) + 2 + 3)
    command = ["-m", "moderation.bench.bare", str(point), str(batch)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None:
            raise RuntimeError("it has no output")
        async with asyncio.timeout(START_S):
            port = int(await process.stdout.readline())
        yield Server(process, f"127.0.0.1:{port}")
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(20):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _compare(method: str, concurrency: int, servers: Mapping[str, Server], plan: Plan) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for number in range(plan.rounds):
        for name in sorted(servers, reverse=bool(number % 2)):  # who comes first takes turns
            rounds[name].append(await _call(servers[name], method, concurrency, plan))
    row: dict[str, Any] = {"method": method, "concurrency": concurrency}
    for name, found in rounds.items():
        row[name] = {key: round(median(one[key] for one in found), 3) for key in found[0]}
    ours, bare = row["ours"], row["bare"]
    row["rate"] = round(ours["per_s"] / bare["per_s"], 3)
    row["p99"] = round(ours["p99"] / bare["p99"], 3)
    row["cpu"] = round(bare["cpu_us"] / ours["cpu_us"], 3)
    return row


async def _call(server: Server, method: str, concurrency: int, plan: Plan) -> dict[str, float]:
    before = server.cpu_s()
    found = await _client(server.address, method, concurrency, plan)
    if set(found["codes"]) != {"OK"}:
        raise RuntimeError(f"{method}: {found['codes']}")
    total = found["all"]
    return {
        "per_s": found["per_s"],
        "p50": found["p50"],
        "p99": found["p99"],
        "cpu_us": 1e6 * (server.cpu_s() - before) / total,
    }


async def _client(address: str, method: str, concurrency: int, plan: Plan) -> dict[str, Any]:
    numbers = (concurrency, plan.seconds, plan.verdicts, KEYS)
    command = ["-m", "moderation.bench.load", address, method, *map(str, numbers)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(plan.seconds + START_S):
        written, _ = await process.communicate()
    found: dict[str, Any] = json.loads(written)
    return found


async def _overload(environment: Mapping[str, str], folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """As many calls at a time as may wait, and ten times as many."""
    limit = 64
    extra = {"MODERATION_API__MAX_QUEUED_CALLS": str(limit)}
    rows = []
    async with _api(environment, folder, **extra) as (server, _):
        for concurrency in (limit, 10 * limit):
            found = await _client(server.address, "GetVerdict", concurrency, plan)
            rows.append({"limit": limit, "concurrency": concurrency, **found})
    return rows


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['method']} at {row['concurrency']}: rate {row['rate']:.2f}, p99 {row['p99']:.2f}x, CPU {row['cpu']:.2f}"
    )
