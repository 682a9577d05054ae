"""One installation: topics, policies, and roles as processes, which Prometheus scrapes under names of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from prometheus_client.parser import text_string_to_metric_families

from moderation.client import Client
from moderation.dev.kafka import LocalKafka
from tests.alerts.prometheus import Prometheus
from tests.support.commands import Role
from tests.support.harness import POLICY
from tests.support.lookups import a_free_address
from tests.support.operations_port import ask
from tests.support.topics import make_topics

PARTITIONS = 3
START_S = 240.0  # of a busy machine
Text = Callable[[int], str]


class Site:
    """See the module's text. What it starts ends with `stack`."""

    def __init__(self, name: str, kafka: str, prometheus: Prometheus, folder: Path, factor: float) -> None:
        self.name, self.kafka, self.prometheus, self.folder, self.factor = name, kafka, prometheus, folder, factor
        self.posts, self.verdicts, self.group = f"{name}-posts", f"{name}-verdicts", f"{name}-group"
        self.stack = AsyncExitStack()
        self.roles: dict[str, Role] = {}
        self.listen: dict[tuple[str, str], str] = {}
        self.since = 0.0  # when the cause was there, by time.monotonic
        self.extra: dict[str, str] = {}  # settings of all roles
        self.note = ""  # what else was seen
        self.watched: set[str] = set()  # names of the alerts of its situation
        self._numbers = itertools.count()
        self.policies = folder / "policies"
        self.policies.mkdir(parents=True)
        self.policy()

    def policy(self, *, review: float = 0.5, remove: float = 0.9, version: int = 1, folder: str = "policies") -> Path:
        """Writes the one policy. Its title is the installation's, so that no two have one set."""
        path = self.folder / folder
        path.mkdir(exist_ok=True)
        text = POLICY.replace("Spam", f"Spam of {self.name}").replace("version: 1", f"version: {version}")
        (path / "spam.yaml").write_text(text.replace("0.5", str(review)).replace("0.9", str(remove)))
        return path

    async def own_kafka(self, **options: Any) -> LocalKafka:
        """A broker of its own, to be stopped. `options`: of LocalKafka."""
        kafka = await self.stack.enter_async_context(LocalKafka(**options))
        self.kafka = kafka.bootstrap
        return kafka

    async def topics(self, partitions: int = PARTITIONS) -> None:
        await make_topics(self.kafka, self.posts, self.verdicts, self.dead_letters, partitions=partitions)

    @property
    def dead_letters(self) -> str:
        return f"{self.posts}.{self.group}.dlq"

    def environment(self, instance: str) -> dict[str, str]:
        return {
            "MODERATION_KAFKA__BOOTSTRAP": self.kafka,
            "MODERATION_KAFKA__POSTS_TOPIC": self.posts,
            "MODERATION_KAFKA__VERDICTS_TOPIC": self.verdicts,
            "MODERATION_KAFKA__GROUP": self.group,
            "MODERATION_MODEL": "fake",
            "MODERATION_POLICIES": str(self.policies),
            "MODERATION_MEDIA__ROOTS": str(self.folder),
            "MODERATION_WORKER__ENCODE_THREADS": "1",
            "MODERATION_API__LISTEN": "127.0.0.1:0",
            "MODERATION_API__VIEW": str(self.folder / f"{instance}.sqlite"),
        } | self.extra

    def start(self, role: str = "worker", number: int = 0, /, module: str = "moderation", **settings: str) -> Role:
        """Starts a role. `settings` without their prefix: `MODEL="fake?step_ms=50"`. A restart keeps name and port."""
        instance = f"{role}-{number}"
        listen = self.listen.setdefault((role, instance), a_free_address())
        self.prometheus.targets(self.name, self.listen)
        environment = self.environment(instance) | {"MODERATION_OPS__LISTEN": listen}
        environment |= {f"MODERATION_{name}": value for name, value in settings.items()}
        self.roles[instance] = made = Role(role, environment=environment, module=module)
        self.stack.callback(_end, made)
        return made

    async def ready(self, *instances: str) -> None:
        """Returns once these roles, or all, are ready."""
        await asyncio.sleep(0)  # a task may be about to start one
        for (_, instance), listen in self.listen.items():
            if instances and instance not in instances:
                continue
            until = time.monotonic() + START_S
            while not await _is_ready(listen):
                role = self.roles[instance]
                assert role.process.poll() is None, f"{instance} ended with {role.process.poll()}: {role.log[-1500:]}"
                assert time.monotonic() < until, f"{instance} is not ready in {START_S} s: {role.log[-1500:]}"
                await asyncio.sleep(0.2)

    async def answers(self, instance: str) -> None:
        """Returns once the role's operations port answers."""
        await asyncio.sleep(0)
        (listen,) = [listen for (_, each), listen in self.listen.items() if each == instance]
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(ask, listen, "/livez")
                return
            await asyncio.sleep(0.2)

    async def calm(self) -> None:
        """Returns once all roles are ready, and their start has left no alert that is waited for: not even pending."""
        await self.ready()
        async with asyncio.timeout(START_S):
            while await self._stirred():  # noqa: ASYNC110  Prometheus's state
                await asyncio.sleep(0.2)

    async def _stirred(self) -> bool:
        alerts = await self.prometheus.alerts(self.name)
        return any(each["labels"]["alertname"] in self.watched for each in alerts)

    async def begin(self, *, workers: int = 1, apis: int = 0, partitions: int = PARTITIONS, **settings: str) -> None:
        """Topics, and roles that are ready."""
        await self.topics(partitions)
        for number in range(workers):
            self.start("worker", number, **settings)
        for number in range(apis):
            self.start("api", number, **settings)
        await self.calm()

    async def kill(self, instance: str) -> None:
        await asyncio.to_thread(self.roles[instance].stop, signal.SIGKILL)

    async def stop(self, instance: str) -> None:
        """As at a rollout: the role leaves its group."""
        await asyncio.to_thread(self.roles[instance].stop)

    def caused(self) -> None:
        """From now on the alert's time counts."""
        self.since = time.monotonic()

    async def again(self, role: str = "worker", /, module: str = "moderation", **settings: str) -> None:
        """Starts a role whenever it ends, after a second, until cancelled: as a kubelet does."""
        while True:
            made = self.start(role, 0, module, **settings)
            await asyncio.to_thread(made.process.wait)
            await asyncio.sleep(1)

    @asynccontextmanager
    async def meanwhile(self, *works: Any) -> AsyncIterator[None]:
        """Coroutines that run until the end of the block. One that fails says so."""
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def during(self, *works: Any) -> None:
        """Coroutines that run until the installation ends."""
        await self.stack.enter_async_context(self.meanwhile(*works))

    def a_post(self, text: str | None = None, **fields: Any) -> tuple[bytes, bytes]:
        """Key and value."""
        number = next(self._numbers)
        name = f"post-{number}"
        value = {"id": name, "text": f"this is number {number}" if text is None else text} | fields
        return name.encode(), json.dumps(value).encode()

    async def put(self, count: int, text: str | None = None, **options: Any) -> None:
        """Sends so many posts. `options`: of AIOKafkaProducer.send."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka) as producer:
            for _ in range(count):
                key, value = self.a_post(text)
                await producer.send(self.posts, value, key=key, **options)

    async def erase(self, post_id: str) -> None:
        """A null under the post's key."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka) as producer:
            await producer.send_and_wait(self.posts, None, key=post_id.encode())

    async def stream(self, rate: float = 10, make: Callable[[int], tuple[bytes, bytes]] | None = None) -> None:
        """Posts at this rate a second, until cancelled. `make`: key and value of the post with this number."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka, retry_backoff_ms=200) as producer:
            for number in itertools.count():
                key, value = make(number) if make else self.a_post()
                with contextlib.suppress(KafkaError):  # while the broker is away
                    await producer.send(self.posts, value, key=key)
                await asyncio.sleep(1 / rate)

    async def open_transaction(self, topic: str, partition: int = 0, value: bytes = b"") -> AIOKafkaProducer:
        """A producer whose transaction stays open: with one record."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka, transactional_id=f"{self.name}-upstream", transaction_timeout_ms=600_000
        )
        await producer.start()
        self.stack.push_async_callback(producer.stop)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, value or self.a_post()[1], key=b"held", partition=partition)
        return producer

    async def remove(self, topic: str) -> None:
        """Removes all records of a topic, as retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            every = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            await admin.delete_records({each: RecordsToDelete(-1) for each in every})
        finally:
            await admin.close()

    async def metric(self, instance: str, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        (listen,) = [listen for (_, each), listen in self.listen.items() if each == instance]
        _, text = await asyncio.to_thread(ask, listen, "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, least: float, instance: str, name: str, **labels: str) -> None:
        """Returns once the metric is so high."""
        async with asyncio.timeout(START_S):
            while await self.metric(instance, name, **labels) < least:  # noqa: ASYNC110  another process's state
                await asyncio.sleep(0.2)

    async def judged(self, count: int, instance: str = "worker-0") -> None:
        """Returns once the worker has judged so many posts since its start."""
        await self.until(count, instance, "moderation_verdict_origins_total")

    def client(self, number: int = 0, **options: Any) -> Client:
        port = self.roles[f"api-{number}"].wait_for("api_ready")["port"]
        return Client(f"127.0.0.1:{port}", **options)

    async def pulses(self, instance: str, stopped_s: float, running_s: float) -> None:
        """Stops a process for a moment, again and again, until cancelled."""
        process = self.roles[instance].process
        try:
            while True:
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(stopped_s)
                process.send_signal(signal.SIGCONT)
                await asyncio.sleep(running_s)
        finally:
            process.send_signal(signal.SIGCONT)

    async def top(self) -> tuple[str, int]:
        """What `moderation top --once` calls wrong first, and its exit code."""
        command = [sys.executable, "-m", "tests.alerts.top", str(self.factor), *self.listen.values()]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        wrong = [line.removeprefix("WRONG").strip() for line in out.decode().splitlines() if line.startswith("WRONG")]
        names = {listen: instance for (_, instance), listen in self.listen.items()}
        line = wrong[0] if wrong else ""
        for listen, instance in names.items():
            line = line.replace(listen, instance)
        return line, int(process.returncode or 0)

    def event(self, instance: str, *names: str) -> str:
        """The last line of the log with one of these events, as JSON."""
        found = [event for event in self.roles[instance].events if event["event"] in names]
        return json.dumps(found[-1]) if found else ""


async def _is_ready(listen: str) -> bool:
    try:
        return (await asyncio.to_thread(ask, listen, "/readyz"))[0] == 200
    except OSError:
        return False


def _end(role: Role) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(role.process.pid, signal.SIGCONT)
    role.__exit__(None)


@asynccontextmanager
async def site(name: str, kafka: str, prometheus: Prometheus, folder: Path, factor: float) -> AsyncIterator[Site]:
    made = Site(name, kafka, prometheus, folder / name, factor)
    try:
        async with made.stack:
            yield made
    finally:
        prometheus.targets(name, {})
        shutil.rmtree(folder / name, ignore_errors=True)
