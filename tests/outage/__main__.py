"""The long run: a worker through outages of its model server, in real time, and a table of what became of the posts.

    python -m tests.outage                              outages of one minute and of one hour
    python -m tests.outage --outages 20,90 --outage-s 60    shorter ones
    python -m tests.outage --json results.json          and writes the figures

Exits non-zero if a post is missing or doubled, if a worker ended, or if it was not ready at any time.
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
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from moderation.dev.kafka import LocalKafka
from tests.support.commands import Role
from tests.support.harness import POLICY
from tests.support.lookups import a_free_address
from tests.support.model_server import MODEL, ModelServer, model_server
from tests.support.operations_port import ask
from tests.support.topics import committed_records, make_topics

PARTITIONS = 6
QUIET_S = 10.0  # with a working server, before and after each outage


@dataclass
class Outage:
    """What an outage of this length did. Times are seconds since the server went away, or since it came back."""

    seconds: float
    posts: int = 0  # that were sent while the server was away
    scored: int = 0  # of them
    on_error: int = 0  # of them
    first_on_error_s: float | None = None
    most_in_hand: float = 0.0  # in the last nine tenths of the outage
    not_ready: int = 0  # probes, one a second
    first_score_s: float | None = None  # after the server's return
    caught_up_s: float | None = None  # after the server's return, until every post had its verdict
    sent: dict[str, float] = field(default_factory=dict, repr=False)  # when each post was sent


class Run:
    """One worker, its topics, its server, and a steady stream of posts."""

    def __init__(self, kafka: str, server: ModelServer, outage_s: float, rate: float, folder: Path) -> None:
        self.kafka, self.server, self.rate = kafka, server, rate
        self.listen = a_free_address()
        (folder / "spam.yaml").write_text(POLICY)
        self.environment: Mapping[str, str] = {
            "MODERATION_KAFKA__BOOTSTRAP": kafka,
            "MODERATION_KAFKA__POSTS_TOPIC": "posts",
            "MODERATION_KAFKA__VERDICTS_TOPIC": "verdicts",
            "MODERATION_POLICIES": str(folder),
            "MODERATION_MODEL": f"openai:{MODEL}",
            "MODERATION_MODEL__URL": server.url,
            "MODERATION_MODEL__OUTAGE_S": str(outage_s),
            "MODERATION_OPS__LISTEN": self.listen,
        }
        self.posts = 0
        self.verdicts: dict[str, tuple[float, dict[str, Any]]] = {}  # by post id: when it came, and the verdict
        self.doubled = 0

    async def produce(self, outage: Outage | None, until: float) -> None:
        """Sends posts at the rate, until this moment of time.monotonic."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka) as producer:
            while time.monotonic() < until:
                name = f"post-{self.posts}"
                value = json.dumps({"id": name, "text": f"number {self.posts}"}).encode()
                await producer.send_and_wait("posts", value, name.encode(), self.posts % PARTITIONS)
                if outage is not None:
                    outage.sent[name] = time.monotonic()
                self.posts += 1
                await asyncio.sleep(1 / self.rate)

    async def follow(self) -> None:
        """Reads the verdicts as they come, until cancelled."""
        consumer = AIOKafkaConsumer(
            "verdicts", bootstrap_servers=self.kafka, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        async with consumer:
            async for record in consumer:
                verdict = json.loads(record.value)
                self.doubled += verdict["postId"] in self.verdicts
                self.verdicts[verdict["postId"]] = time.monotonic(), verdict

    async def watch(self, outage: Outage) -> None:
        """Asks the probes once a second, until cancelled."""
        begun = time.monotonic()
        while True:
            status, _ = await asyncio.to_thread(ask, self.listen, "/readyz")
            outage.not_ready += status != 200
            _, metrics = await asyncio.to_thread(ask, self.listen, "/metrics")
            held = next(line for line in metrics.splitlines() if line.startswith("moderation_worker_in_flight_posts "))
            if outage.seconds / 10 < time.monotonic() - begun < outage.seconds:
                outage.most_in_hand = max(outage.most_in_hand, float(held.split()[1]))
            await asyncio.sleep(1)

    async def outage(self, seconds: float) -> Outage:
        """Takes the server away for so long, and returns what it did."""
        outage = Outage(seconds)
        await self.produce(None, time.monotonic() + QUIET_S)
        watching = asyncio.create_task(self.watch(outage))
        begun = time.monotonic()
        self.server.down()
        await self.produce(outage, begun + seconds)
        self.server.up()
        back = time.monotonic()
        while not outage.sent.keys() <= self.verdicts.keys():  # noqa: ASYNC110  verdicts have no event
            await asyncio.sleep(0.1)
        watching.cancel()
        came = {name: self.verdicts[name] for name in outage.sent}
        scored = [at for at, verdict in came.values() if verdict["status"] == "STATUS_FINAL"]
        unavailable = [at for at, verdict in came.values() if verdict["reason"] == "UNAVAILABLE"]
        outage.posts, outage.scored, outage.on_error = len(came), len(scored), len(unavailable)
        outage.first_on_error_s = round(min(unavailable) - begun, 1) if unavailable else None
        outage.first_score_s = round(min(scored) - back, 1) if scored else None
        outage.caught_up_s = round(max(at for at, _ in came.values()) - back, 1)
        return outage


async def run(args: argparse.Namespace) -> int:
    """Runs all outages. Returns the exit code."""
    outages: list[Outage] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(model_server())
        kafka = LocalKafka()
        await kafka.start()
        stack.push_async_callback(kafka.stop)
        await make_topics(kafka.bootstrap, "posts", "verdicts", "posts.moderation.dlq", partitions=PARTITIONS)
        running = Run(kafka.bootstrap, server, args.outage_s, args.rate, folder)
        worker = stack.enter_context(Role("worker", environment=running.environment))
        await asyncio.to_thread(worker.wait_for, "worker_ready")
        following = asyncio.create_task(running.follow())
        for seconds in map(float, args.outages.split(",")):
            outages.append(await running.outage(seconds))
            print(asdict(outages[-1]) | {"sent": len(outages[-1].sent)}, flush=True)
        await running.produce(None, time.monotonic() + QUIET_S)
        records = await committed_records(kafka.bootstrap, "verdicts", running.posts)
        following.cancel()
        ended = worker.process.poll() is not None
        events = Counter(event["event"] for event in worker.events if event["event"].startswith("model_"))
        code = await asyncio.to_thread(worker.stop)
    wrong = running.doubled or len(records) != running.posts or ended or code or any(o.not_ready for o in outages)
    show(outages)
    report = {
        "command": "python -m tests.outage " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"CPU, {os.cpu_count()} cores, shared",
        "python": platform.python_version(),
        "openai": version("openai"),
        "outage_s": args.outage_s,
        "posts_a_second": args.rate,
        "posts": running.posts,
        "verdicts": len(records),
        "doubled": running.doubled,
        "worker_ended": ended,
        "events": events,
        "outages": [{name: value for name, value in asdict(outage).items() if name != "sent"} for outage in outages],
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if wrong else 0


def show(outages: list[Outage]) -> None:
    """Prints a row for each outage."""
    columns = ["seconds", "posts", "scored", "on_error", "first_on_error_s", "most_in_hand", "first_score_s"]
    columns += ["caught_up_s", "not_ready"]
    table = Table(*columns, title="outages of the model server")
    for outage in outages:
        table.add_row(*(str(getattr(outage, column)) for column in columns))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outages", default="60,3600", help="their lengths in seconds, separated by commas")
    parser.add_argument("--outage-s", type=float, default=900.0, help="MODERATION_MODEL__OUTAGE_S")
    parser.add_argument("--rate", type=float, default=1.0, help="posts a second")
    parser.add_argument("--json", type=Path, help="file for the figures")
    sys.exit(asyncio.run(run(parser.parse_args())))
