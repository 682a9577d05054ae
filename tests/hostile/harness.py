"""A real API process, secured or open, and its measurements."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from moderation import wire
from tests.hostile.caller import POST
from tests.support.builders import a_verdict
from tests.support.connection import trusting
from tests.support.credentials import Credentials

START_S = 120.0
MIB = 1 << 20


@dataclass
class Server:
    """A process of the API."""

    process: asyncio.subprocess.Process
    address: str
    ca: str = "-"
    token: str = "-"  # noqa: S105  a file
    log: Path = Path()
    nice: int = 0
    peak: int = 0  # bytes of resident memory, since `reset`

    def rss(self) -> int:
        """Bytes of resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """CPU seconds of all threads of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """How many files and sockets the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def sample(self) -> None:
        """Records the peak of the process's memory, until it is cancelled."""
        while True:
            self.peak = max(self.peak, self.rss())
            await asyncio.sleep(0.02)

    def events(self) -> list[dict[str, Any]]:
        """The events that the process has logged."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"event": "no event", "line": line} for line in lines]


async def put_verdict(bootstrap: str, topic: str) -> None:
    """The verdict that the good caller looks up."""
    value, headers = wire.verdict_record(a_verdict(POST), "json")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value, key=POST.encode(), headers=headers)


@asynccontextmanager
async def api(
    environment: Mapping[str, str],
    folder: Path,
    credentials: Credentials | None,
    *,
    tree: Path | None = None,
    nice: int = 0,
) -> AsyncIterator[Server]:
    """The API as shipped, once it serves. `tree`: another checkout to run. `nice`: priority of the process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    log = folder / "api.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", str(nice), sys.executable, "-m", "moderation", "api"),
            env=inherited
            | {
                "MODERATION_LOG__FORMAT": "json",
                "MODERATION_API__LISTEN": "127.0.0.1:0",
                "MODERATION_API__VIEW": str(folder / "view.sqlite"),
                "MODERATION_API__DRAIN_DELAY_S": "0",
                "MODERATION_API__DRAIN_TIMEOUT_S": "2",
            }
            | (credentials.environment if credentials else {})
            | dict(environment),
            stderr=stderr,
            cwd=tree,
        )
    try:
        port = await _ready(log, process)
        server = Server(process, f"127.0.0.1:{port}", log=log, nice=nice)
        if credentials:
            server.ca, server.token = str(credentials.ca), str(credentials.good_token)
        yield server
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(log: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(START_S):
        while process.returncode is None:
            for line in _lines(log):
                if '"api_ready"' in line:
                    return int(json.loads(line)["port"])
            await asyncio.sleep(0.1)
    raise RuntimeError("\n".join(_lines(log)))


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


@asynccontextmanager
async def calling(server: Server, pace: float, seconds: float) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
    """The good caller, calling. The task returns the codes and latencies."""
    command = ["-m", "tests.hostile.caller", server.address, server.ca, server.token, str(pace), str(seconds)]
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", str(server.nice), sys.executable, *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async def result() -> dict[str, Any]:
        if process.stdout is None:
            raise RuntimeError("no output")
        measured: dict[str, Any] = json.loads(await process.stdout.read())
        return measured

    task = asyncio.create_task(result())
    try:
        if process.stderr is None:
            raise RuntimeError("no output")
        async with asyncio.timeout(60):
            await process.stderr.readline()  # it is connected
        yield task
    finally:
        task.cancel()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def target_tls(server: Server) -> Any:
    """The TLS context that an attacker connects with."""
    return trusting(server.ca) if server.ca != "-" else None
