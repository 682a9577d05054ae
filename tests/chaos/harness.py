"""One chaos run: topics, workers that are started again when they end, posts at a steady rate, faults, check."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from moderation.dev.kafka import LocalKafka
from moderation.dev.ports import free_ports
from moderation.dev.topics import create_topics
from moderation.errors import DeliveryError
from moderation.kafka import offsets
from tests.chaos import checker
from tests.chaos.checker import Findings, Sent
from tests.chaos.fleet import Worker
from tests.chaos.proxy import Proxy
from tests.chaos.scenario import Misfit, Result, Scenario
from tests.support.harness import POLICY
from tests.support.topics import committed_records

PARTITIONS = 6
AUTHORS = 24  # keys
TRANSACTION_S = 5.0
SESSION_S = 6.0
REBALANCE_S = 12.0
LOGGED = (
    "partition_assigned",
    "producer_replaced",
    "exception_unretrieved",
)  # in logs; counted in Result.struck


class Cluster:
    """Brokers with a port before each that proxies may listen on. Outlives many runs."""

    def __init__(self, nodes: int = 1) -> None:
        self.nodes = nodes
        self.ports = free_ports(nodes)
        self.kafka = LocalKafka(nodes=nodes, proxies=self.ports)

    @property
    def bootstrap(self) -> str:
        """Past the proxies."""
        return self.kafka.bootstrap

    @property
    def proxied(self) -> str:
        """The address that workers get: they reach brokers through proxies only."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)


class Run:
    """A run in progress. Faults act on it."""

    def __init__(self, cluster: Cluster, scenario: Scenario, seed: int, folder: Path) -> None:
        self.cluster = cluster
        self.scenario = scenario
        self.random = random.Random(seed)
        self.folder = folder
        self.name = uuid4().hex[:8]
        self.posts, self.verdicts = f"posts-{self.name}", f"verdicts-{self.name}"
        self.group = f"group-{self.name}"
        self.letters = f"{self.posts}.{self.group}.dlq"
        self.sent: list[Sent] = []
        self.struck: Counter[str] = Counter()
        self.workers: list[Worker] = []
        self.proxies: list[Proxy] = []
        self.committed: dict[int, int] = {}
        self.fell: list[str] = []  # falls of committed offsets
        self.fed = asyncio.Event()
        self.over = asyncio.Event()  # no further faults come

    # What faults may do

    async def sleep(self, low: float, high: float = 0.0) -> None:
        await asyncio.sleep(self.random.uniform(low, max(low, high)))

    async def answered(self, share: float, timeout: float = 90) -> None:
        """Until this share of all posts is committed."""
        async with asyncio.timeout(timeout):
            while sum(self.committed.values()) < share * self.scenario.posts:  # noqa: ASYNC110  Kafka sets no event
                await asyncio.sleep(0.1)

    def strike_counts(self) -> Counter[str]:
        """Returns how often each fault and each logged event has happened."""
        counts = Counter(self.struck)
        for worker in self.workers:
            events = worker.events
            counts.update(f"{event['step']} struck" for event in events if event["event"] == "struck")
            counts.update(event["event"] for event in events if event["event"] in LOGGED)
        for proxy in self.proxies:
            counts.update(proxy.struck)
        return counts

    def spared(self) -> list[str]:
        """Returns the faults that must strike and have not."""
        counts = self.strike_counts()
        return [name for name in self.scenario.must if not counts[name]]

    def pick(self) -> Worker:
        return self.random.choice(self.workers)

    def hit(self, worker: Worker, number: signal.Signals) -> None:
        worker.signal(number)
        self.struck[number.name] += 1

    async def wake(self, after: float) -> None:
        """Wakes all workers some time later: some may have stopped themselves."""
        await asyncio.sleep(after)
        for worker in self.workers:
            worker.signal(signal.SIGCONT)

    def start_worker(self, plans: Sequence[Mapping[str, Any]] = ()) -> Worker:
        number = len(self.workers)
        worker = Worker(number, self._environment(), plans, self.folder / f"worker-{number}.log")
        worker.rest = dict(self.scenario.every_life) | {"design": self.scenario.design}
        self.workers.append(worker)
        self._keepers.append(self._tasks.create_task(worker.run()))
        return worker

    async def retire(self, worker: Worker, timeout: float = 60) -> None:
        """SIGTERM, as an orchestrator would."""
        worker.wanted = False
        worker.signal(signal.SIGTERM)
        async with asyncio.timeout(timeout):
            await self._keepers[worker.number]

    # The run

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
        return inherited | {
            "MODERATION_KAFKA__BOOTSTRAP": self.cluster.proxied,
            "MODERATION_KAFKA__POSTS_TOPIC": self.posts,
            "MODERATION_KAFKA__VERDICTS_TOPIC": self.verdicts,
            "MODERATION_KAFKA__GROUP": self.group,
            "MODERATION_KAFKA__TRANSACTION_TIMEOUT_MS": str(int(TRANSACTION_S * 1000)),
            "MODERATION_KAFKA__SESSION_TIMEOUT_MS": str(int(SESSION_S * 1000)),
            "MODERATION_KAFKA__REBALANCE_TIMEOUT_MS": str(int(REBALANCE_S * 1000)),
            "MODERATION_MODEL": self.scenario.model,
            "MODERATION_POLICIES": str(self.folder / "policies"),
            "MODERATION_WORKER__ENCODE_THREADS": "1",
            "MODERATION_WORKER__BATCH_TOKENS": "160",
            "MODERATION_LOG__FORMAT": "json",
            **self.scenario.settings,
        }

    async def play(self) -> tuple[Findings, list[str]]:
        (self.folder / "policies").mkdir()
        (self.folder / "policies" / "spam.yaml").write_text(POLICY)
        for kind, topic in {"posts": self.posts, "verdicts": self.verdicts, "letters": self.letters}.items():
            configs = dict(self.scenario.topic_settings.get(kind, {}))
            await create_topics(
                self.cluster.bootstrap, topic, partitions=PARTITIONS, replication=self.cluster.nodes, configs=configs
            )
        problems: list[str] = []
        async with contextlib.AsyncExitStack() as stack:
            for port, upstream in zip(self.cluster.ports, self.cluster.kafka.proxied_ports, strict=True):
                proxy = Proxy(port, upstream, self.random.randrange(1 << 30))
                self.proxies.append(await stack.enter_async_context(proxy))
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._keepers: list[asyncio.Task[None]] = []
            watching = self._tasks.create_task(self._watch())
            for number in range(self.scenario.workers):
                self.start_worker(self.scenario.plans[number] if number < len(self.scenario.plans) else ())
            feeding = self._tasks.create_task(self._feed())
            try:
                await self.scenario.act(self)
            except TimeoutError:
                problems.append("the faults did not come to their end in time")
            for proxy in self.proxies:
                proxy.rules.clear()
            self.over.set()
            await feeding
            drained = await self._drained()
            if not drained:
                problems.append(
                    f"{sum(self.committed.values())} of {len(self.sent)} posts in {self.scenario.patience} s"
                )
            await asyncio.sleep(TRANSACTION_S + 1.5)  # every open transaction is aborted by then
            await self.wake(0)
            if drained:
                problems += await self._farewell()
            watching.cancel()
            for keeper in self._keepers:
                keeper.cancel()
        findings = await self._check()
        problems += self._unexpected()
        problems += [f"this run proves nothing: there was no {name!r}" for name in self.spared()]
        return findings, problems

    async def _feed(self) -> None:
        """Sends all posts at their rate, with the misfits among them."""
        everything: list[Misfit | int] = [*range(self.scenario.posts - len(self.scenario.misfits))]
        for misfit in self.scenario.misfits:
            everything.insert(self.random.randrange(len(everything) + 1), misfit)
        async with AIOKafkaProducer(
            bootstrap_servers=self.cluster.bootstrap, enable_idempotence=True, max_request_size=4 << 20
        ) as producer:
            begun, waiting = time.monotonic(), []
            homes: dict[str, int] = {}  # all posts with one id go to one partition
            for turn, item in enumerate(chain(everything, self._further())):
                key: bytes | None
                if isinstance(item, int):
                    author, reason = self.random.randrange(AUTHORS), ""
                    key, id = f"author-{author}".encode(), f"post-{item}"
                    value: bytes | None = json.dumps({"id": id, "text": f"this is number {item}"}).encode()
                    headers: Sequence[tuple[str, bytes]] = ()
                    partition = author % PARTITIONS
                else:
                    key, value, headers, id, reason = item
                    elsewhere = self.random.randrange(PARTITIONS)
                    partition = homes.setdefault(id, elsewhere) if id else elsewhere
                future = await producer.send(self.posts, value, key, partition, headers=list(headers))
                waiting.append((future, key if isinstance(item, int) else None, id, reason))
                await asyncio.sleep(max(0.0, begun + turn / self.scenario.rate - time.monotonic()))
            for future, author_key, id, reason in waiting:
                done = await future
                self.sent.append(Sent((done.partition, done.offset), author_key, id, reason))
        self.fed.set()

    def _further(self) -> Iterator[int]:
        for number in count(self.scenario.posts):
            if not self.scenario.keeps or self.over.is_set():
                return
            yield number

    async def _watch(self) -> None:
        """Reads the committed offsets of the group, again and again. Waits while no broker answers."""
        partitions = [TopicPartition(self.posts, number) for number in range(PARTITIONS)]
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.cluster.bootstrap, group_id=self.group, enable_auto_commit=False
            )
            try:
                await consumer.start()
                while True:
                    for partition in partitions:
                        async with asyncio.timeout(10):
                            stored = await offsets.committed(consumer, partition)
                        offset, known = stored.offset if stored else 0, self.committed.get(partition.partition, 0)
                        if offset < known:
                            self.fell.append(
                                f"the offset of partition {partition.partition} fell from {known} to {offset}"
                            )
                        self.committed[partition.partition] = offset
                    await asyncio.sleep(0.2)
            except (KafkaError, OSError, TimeoutError):
                await asyncio.sleep(0.5)
            finally:
                await consumer.stop()

    def _ends(self) -> dict[int, int]:
        ends = dict.fromkeys(range(PARTITIONS), 0)
        for sent in self.sent:
            partition, offset = sent.place
            ends[partition] = max(ends[partition], offset + 1)
        return ends

    async def _drained(self) -> bool:
        deadline = time.monotonic() + self.scenario.patience
        while any(self.committed.get(number, 0) < end for number, end in self._ends().items()):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
        return True

    async def _farewell(self) -> list[str]:
        """Checks that all workers end when they are asked to."""
        for worker in self.workers:
            worker.wanted = False
            worker.signal(signal.SIGTERM)
        _, late = await asyncio.wait(self._keepers, timeout=40)
        return [f"{len(late)} workers did not stop"] if late else []

    async def _check(self) -> Findings:
        verdicts = await committed_records(self.cluster.bootstrap, self.verdicts, partitions=PARTITIONS)
        letters = await committed_records(self.cluster.bootstrap, self.letters, partitions=PARTITIONS)
        findings = checker.check(self.sent, verdicts, letters)
        findings.uncommitted = sum(self.committed.get(number, 0) < end for number, end in self._ends().items())
        findings.went_back = 0 if self.scenario.falls else len(self.fell)
        for fall in self.fell:
            findings.note(fall)
        return findings

    def _unexpected(self) -> list[str]:
        # SIGTERM: the worker was asked to stop before it had installed its signal handlers
        expected = {0, -signal.SIGKILL, -signal.SIGTERM, DeliveryError.exit_code} | self.scenario.exits
        return [
            f"worker {worker.number} exited with {code}; the end of its log: {worker.log.read_text()[-1500:]}"
            for worker in self.workers
            for code in set(worker.exits) - expected
        ]


async def play(cluster: Cluster, scenario: Scenario, seed: int, keep: Path | None = None) -> Result:
    """Plays one run and returns its result. `keep`: a folder for the logs of a failed run."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        run = Run(cluster, scenario, seed, Path(folder))
        findings, problems = await run.play()
        exits = Counter(str(code) for worker in run.workers for code in worker.exits)
        seconds = round(time.monotonic() - begun, 1)
        struck = dict(sorted(run.strike_counts().items()))
        result = Result(
            scenario.name, scenario.design, scenario.faults, seed, len(run.sent), struck, dict(exits), seconds,
            findings, problems,
        )  # fmt: skip
        if keep and not result.ok:
            import shutil

            shutil.copytree(folder, keep / f"{scenario.name}-{seed}", dirs_exist_ok=True)
        return result


@contextlib.asynccontextmanager
async def cluster(nodes: int = 1) -> AsyncIterator[Cluster]:
    made = Cluster(nodes)
    async with made.kafka:
        yield made
