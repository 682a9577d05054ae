"""`moderation bench lookup`: lookups against a bare handler that answers a constant of the same size, in one run.

The command starts a real Kafka, puts verdicts on a topic, and starts `moderation api` as shipped. The folding speed is
measured until the view has caught up. Then a client process calls the API and the bare server in turns, round by round.
Rates, latencies and the server's CPU time for each call are medians of the rounds. The client shares the cores with the
server, so the CPU time says more about the server than the rates.
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
from moderation.bench import processes
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
    """The options of a run."""

    verdicts: int = 60_000
    rounds: int = 3
    seconds: float = 4.0
    concurrencies: tuple[int, ...] = (1, 8, 64)
    format: Literal["json", "protobuf"] = "protobuf"


@dataclass(frozen=True, slots=True)
class Server:
    """A server process."""

    process: asyncio.subprocess.Process
    address: str

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far."""
        return processes.cpu_s(self.process.pid)


async def run(plan: Plan, console: Console, output: Path | None = None) -> dict[str, Any]:
    """Measures and returns all results, with the machine's data."""
    with tempfile.TemporaryDirectory(prefix="moderation-bench-") as name:
        async with LocalKafka(progress=console.print) as broker:
            settings = KafkaSettings(bootstrap=broker.bootstrap, verdict_format=plan.format)
            await create_service_topics(settings, partitions=PARTITIONS)
            size = await _fill(settings, plan)
            environment = {"MODERATION_KAFKA__BOOTSTRAP": broker.bootstrap, "MODERATION_LOG__FORMAT": "json"}
            rows: list[dict[str, Any]] = []
            async with _api(environment, Path(name)) as (api, fold_s), _bare(size) as bare:
                for method in ("GetVerdict", "BatchGetVerdicts"):
                    for concurrency in plan.concurrencies:
                        rows.append(await _compare(method, concurrency, {"api": api, "bare": bare}, plan))
                        console.print(_summary(rows[-1]), highlight=False)
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
        output.write_text(json.dumps(results, indent=1) + "\n")  # noqa: ASYNC240  nothing else runs any more
    return results


def print_tables(results: Mapping[str, Any], console: Console) -> None:
    """Prints the results as tables."""
    fold = results["fold"]
    console.print(f"folding: {fold['per_s']} verdicts/s, from Kafka to the view ({results['plan']['format']})")
    table = Table(
        "method", "at a time", "API/s", "bare/s", "rate", "p99 API", "p99 bare", "p99", "CPU us API/bare", "CPU"
    )
    for row in results["lookups"]:
        api, bare = row["api"], row["bare"]
        table.add_row(
            row["method"],
            str(row["concurrency"]),
            f"{api['per_s']:.0f}",
            f"{bare['per_s']:.0f}",
            f"{row['rate']:.2f}",
            f"{api['p99']:.2f} ms",
            f"{bare['p99']:.2f} ms",
            f"{row['p99']:.2f}x",
            f"{api['cpu_us']:.0f}/{bare['cpu_us']:.0f}",
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
    """Puts each verdict on its topic once. Returns the bytes of a verdict in Protobuf."""
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
    """The API as shipped, once its view has caught up, and the seconds that this took."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moderation", "api"),
        env=processes.environment(
            {
                **environment,
                "MODERATION_API__LISTEN": "127.0.0.1:0",
                "MODERATION_API__VIEW": str(folder / "view.sqlite"),
                "MODERATION_API__DRAIN_DELAY_S": "0",
                **extra,
            }
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        caught_up = await _event(process, "view_caught_up")
        ready = await _event(process, "api_ready")
        yield Server(process, f"127.0.0.1:{ready['port']}"), caught_up["seconds"]
    finally:
        await _end(process)


async def _event(process: asyncio.subprocess.Process, name: str) -> dict[str, Any]:
    """The next event of this name in the log of a process."""
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
    """A server whose responses have as many bytes as the API's."""
    point = len(pb.GetVerdictResponse(state=pb.LOOKUP_STATE_FOUND).SerializeToString()) + size + 3
    batch = KEYS * (point + len(post_id(0)) + 2 + 3)
    command = ["-m", "moderation.bench.bare", str(point), str(batch)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None:
            raise RuntimeError("the bare server has no output")
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
        for name in sorted(servers, reverse=bool(number % 2)):  # they take turns at being first
            rounds[name].append(await _call(servers[name], method, concurrency, plan))
    row: dict[str, Any] = {"method": method, "concurrency": concurrency}
    for name, figures in rounds.items():
        row[name] = {key: round(median(each[key] for each in figures), 3) for key in figures[0]}
    api, bare = row["api"], row["bare"]
    row["rate"] = round(api["per_s"] / bare["per_s"], 3)
    row["p99"] = round(api["p99"] / bare["p99"], 3)
    row["cpu"] = round(bare["cpu_us"] / api["cpu_us"], 3)
    return row


async def _call(server: Server, method: str, concurrency: int, plan: Plan) -> dict[str, float]:
    before = server.cpu_s()
    result = await _client(server.address, method, concurrency, plan)
    if set(result["codes"]) != {"OK"}:
        raise RuntimeError(f"{method}: {result['codes']}")
    total = result["all"]
    return {
        "per_s": result["per_s"],
        "p50": result["p50"],
        "p99": result["p99"],
        "cpu_us": 1e6 * (server.cpu_s() - before) / total,
    }


async def _client(address: str, method: str, concurrency: int, plan: Plan) -> dict[str, Any]:
    numbers = (concurrency, plan.seconds, plan.verdicts, KEYS)
    command = ["-m", "moderation.bench.load", address, method, *map(str, numbers)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(plan.seconds + START_S):
        written, _ = await process.communicate()
    result: dict[str, Any] = json.loads(written)
    return result


async def _overload(environment: Mapping[str, str], folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """The server with as many concurrent calls as it queues, and with ten times as many."""
    limit = 64
    extra = {"MODERATION_API__MAX_QUEUED_CALLS": str(limit)}
    rows = []
    async with _api(environment, folder, **extra) as (server, _):
        for concurrency in (limit, 10 * limit):
            result = await _client(server.address, "GetVerdict", concurrency, plan)
            rows.append({"limit": limit, "concurrency": concurrency, **result})
    return rows


def _summary(row: Mapping[str, Any]) -> str:
    return (
        f"{row['method']} at {row['concurrency']}: rate {row['rate']:.2f}, p99 {row['p99']:.2f}x, CPU {row['cpu']:.2f}"
    )
