"""The local broker keeps Kafka's promises, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from moderation.dev import jars
from moderation.dev.kafka import LocalKafka, broker, serve
from moderation.dev.node import Node, pick_ports
from moderation.errors import ConfigError
from moderation.settings import KafkaSettings
from tests.support.topics import make_topics

FULL_CACHE = jars.cache_folder()

HOLD = """
import asyncio, sys
from moderation.dev.kafka import LocalKafka

async def hold():
    async with LocalKafka() as kafka:
        print(kafka.bootstrap, kafka.folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""

RUN = """
import functools, sys
from moderation import lifecycle
from moderation.dev.kafka import serve
from moderation.observability import logs
from moderation.settings import KafkaSettings, LogSettings

logs.configure(LogSettings(format="json"))
sys.exit(lifecycle.run(functools.partial(serve, settings=KafkaSettings(), port=0, partitions=3)))
"""


async def send(kafka: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def values(kafka: str, topic: str, count: int) -> list[bytes]:
    """The first `count` committed records of the topic's only partition."""
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, auto_offset_reset="earliest", isolation_level="read_committed"
    ) as consumer:
        async with asyncio.timeout(30):
            return [(await consumer.getone()).value for _ in range(count)]


async def partitions(kafka: str, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (description,) = await admin.describe_topics([topic])
        return len(description["partitions"])
    finally:
        await admin.close()


def processes_in(folder: Path) -> list[int]:
    """Processes whose working folder is in this one: a broker and its supervisor run in the folder of their node."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            inside = entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:  # ended meanwhile, or of another user
            continue
        if inside:
            pids.append(int(entry.name))
    return pids


async def no_process_left(folder: Path, *, removed: bool = False) -> None:
    """Waits until no process runs in the folder. They are not children of this process: only /proc lists them."""
    async with asyncio.timeout(30):
        while processes_in(folder) or (removed and folder.exists()):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full cache, and no way to Maven Central: HTTPS goes through a proxy address where nothing listens."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jars.cache_folder().parent.mkdir(parents=True)
    jars.cache_folder().symlink_to(FULL_CACHE)


@pytest.fixture
def child(local_kafka: None) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts Python processes that are gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def line(process: subprocess.Popen[str]) -> str:
    """The next line that it writes; empty once it has ended. The fixture's kill ends the wait if the test is over."""
    assert process.stdout
    async with asyncio.timeout(60):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


async def test_read_committed_sees_only_what_a_transaction_committed(kafka: str, names: Callable[[str], str]) -> None:
    posts, verdicts, group, transaction = names("posts"), names("verdicts"), names("group"), names("transaction")
    await make_topics(kafka, posts, verdicts)
    await send(kafka, posts, b"first")
    async with (
        AIOKafkaConsumer(
            posts, bootstrap_servers=kafka, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
        ) as consumer,
        AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=transaction) as producer,
    ):
        post = await consumer.getone()
        (partition,) = consumer.assignment()

        await producer.begin_transaction()
        await producer.send_and_wait(verdicts, b"aborted")
        await producer.send_offsets_to_transaction({partition: post.offset + 1}, group)
        await producer.abort_transaction()
        assert await consumer.committed(partition) is None

        await producer.begin_transaction()
        await producer.send_and_wait(verdicts, b"committed")
        await producer.send_offsets_to_transaction({partition: post.offset + 1}, group)
        await producer.commit_transaction()

        # A commit is acknowledged before its markers are written, and the offset is old until then. The next producer
        # with this id starts after them.
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=transaction):
            assert await consumer.committed(partition) == 1

    await send(kafka, verdicts, b"last")
    assert await values(kafka, verdicts, 2) == [b"committed", b"last"]


async def test_a_broker_of_your_own_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    async with broker() as bootstrap:
        assert bootstrap == "kafka.example:9092"


async def test_a_data_folder_keeps_the_records(local_kafka: None, tmp_path: Path) -> None:
    data = tmp_path / "with a space, a comma and an ü"
    async with LocalKafka(data=data) as first:
        await first.create_topics("posts", partitions=1)
        await send(first.bootstrap, "posts", b"one", b"two")
    async with LocalKafka(data=data) as second:
        await second.create_topics("posts", partitions=5)  # it exists: it stays as it is
        assert await partitions(second.bootstrap, "posts") == 1
        assert await values(second.bootstrap, "posts", 2) == [b"one", b"two"]
    with pytest.raises(ConfigError, match="holds 1 brokers, not 3"):
        await LocalKafka(data=data, nodes=3).start()


async def test_a_data_folder_has_one_broker(local_kafka: None, tmp_path: Path) -> None:
    async with LocalKafka(data=tmp_path):
        with pytest.raises(ConfigError, match="another local Kafka runs in"):
            await LocalKafka(data=tmp_path).start()


async def test_a_broker_that_cannot_start_says_why(local_kafka: None, tmp_path: Path) -> None:
    log = tmp_path / "node-1" / "log"
    await asyncio.to_thread(log.mkdir, parents=True)
    (log / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=FTZZu2o5SLqNRM1pGoxZbA\n")
    with pytest.raises(ConfigError, match=r"(?s)exited with 1; the last lines of .*broker\.log:\n.*node.id"):
        await LocalKafka(data=tmp_path).start()


@linux
async def test_stop_leaves_no_process_and_no_folder(local_kafka: None) -> None:
    async with LocalKafka() as local:
        folder = local.folder
        assert len(processes_in(folder)) == 2
    assert processes_in(folder) == []
    assert not folder.exists()


@linux
async def test_a_start_that_is_cancelled_leaves_nothing(local_kafka: None) -> None:
    local = LocalKafka()
    starting = asyncio.create_task(local.start())
    async with asyncio.timeout(30):
        while not local.bootstrap:  # noqa: ASYNC110 — from here on it runs Java
            await asyncio.sleep(0.01)
    folder = local.folder
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes_in(folder) == []
    assert not folder.exists()


@linux
async def test_a_killed_parent_takes_its_broker_along(child: Callable[[str], subprocess.Popen[str]]) -> None:
    parent = child(HOLD)
    _, folder = (await line(parent)).split(" ", 1)
    assert len(processes_in(Path(folder))) == 2
    parent.kill()
    await no_process_left(Path(folder), removed=True)


@linux
async def test_a_killed_supervisor_takes_its_broker_along(local_kafka: None) -> None:
    async with LocalKafka() as local:
        supervisor = min(processes_in(local.folder))
        os.kill(supervisor, signal.SIGKILL)
        await no_process_left(local.folder)
        with pytest.raises(ConfigError, match="exited with -9"):
            await local.died()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_until_stopped(number: signal.Signals, child: Callable[[str], subprocess.Popen[str]]) -> None:
    parent = child(RUN)
    started = json.loads(await line(parent))
    assert started["event"] == "kafka_started"
    assert await partitions(started["bootstrap"], KafkaSettings().posts_topic) == 3
    parent.send_signal(number)
    assert await asyncio.to_thread(parent.wait, 30) == 0


@linux
async def test_running_until_stopped_can_be_cancelled(local_kafka: None, tmp_path: Path) -> None:
    running = asyncio.create_task(serve(asyncio.Event(), KafkaSettings(), port=0, data=tmp_path))
    async with asyncio.timeout(60):
        while not (tmp_path / "node-1" / "broker.log").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_in(tmp_path) == []


async def test_a_port_lost_to_another_is_given_up_for_a_free_one(
    local_kafka: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    picked: list[Node] = []

    def pick(count: int, first: int, proxies: Sequence[int], host: str) -> tuple[Node, ...]:
        (node,) = pick_ports(count, first, proxies, host)
        picked.append(node if picked else replace(node, controller_port=taken.getsockname()[1]))
        return (picked[-1],)

    monkeypatch.setattr("moderation.dev.kafka.pick_ports", pick)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with LocalKafka() as local:
            assert local.bootstrap == f"127.0.0.1:{picked[1].port}"


async def test_a_full_cache_needs_no_resolver(local_kafka: None, offline: None) -> None:
    said: list[str] = []
    async with LocalKafka(progress=said.append) as local:
        await local.create_topics("posts")
    assert said == []


async def test_three_brokers_lose_one_and_no_record(local_kafka: None) -> None:
    async with LocalKafka(nodes=3) as local:
        await local.create_topics("posts")
        await send(local.bootstrap, "posts", b"before")
        local.kill(2)
        await send(local.bootstrap, "posts", b"after")
        assert await values(local.bootstrap, "posts", 2) == [b"before", b"after"]
