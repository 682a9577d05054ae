"""A real Apache Kafka on this machine, for the demo, the tests and `moderation dev kafka`.

Python is all it counts on (see jars.py), and nothing of it outlives this process (see supervise.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from moderation.dev import supervise
from moderation.dev.jars import fetch_jars, find_java
from moderation.dev.node import Node, pick_ports, properties
from moderation.errors import ConfigError
from moderation.kafka import clients as connections
from moderation.kafka.topics import check_topics
from moderation.settings import KafkaSettings

log = structlog.get_logger()

JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Dlog4j2.level=WARN")

START_S = 90.0
STOP_S = 10.0  # from SIGTERM to SIGKILL: the last of several brokers has no controller left to say goodbye to
ATTEMPTS = 3  # a free port can be lost between finding it and the broker's bind


class LocalKafka:
    """Brokers that live as long as this object's `async with`, and never longer than this process.

    `host`: an address of this machine, of the bridge that containers are on, say. `port`: of the first broker, the
    others follow; 0 takes free ones. `data`: a folder that keeps the records; without one they are gone with the
    broker. `progress` gets a line when something takes long. `proxies`: the port of a proxy to each broker; whoever
    comes through it to one of `proxied_ports` is told of the proxies only. Belongs to no event loop.
    """

    def __init__(  # noqa: PLR0913  named, and each with its default
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        data: Path | None = None,
        nodes: int = 1,
        heap_mb: int = 256,
        proxies: Sequence[int] = (),
        progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._host = host
        self._port = port
        self._data = data.absolute() if data else None
        self._count = nodes
        self._heap_mb = heap_mb
        self._proxies = proxies
        self._progress = progress
        self._nodes: tuple[Node, ...] = ()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # leashes, by node id
        self._folder = Path()
        self._held = contextlib.ExitStack()  # the lock on `data`
        self._java: tuple[str, ...] = ()

    @property
    def bootstrap(self) -> str:
        """What `bootstrap_servers` takes; empty unless started."""
        return ",".join(f"{node.host}:{node.port}" for node in self._nodes)

    @property
    def proxied_ports(self) -> tuple[int, ...]:
        """Where the proxy of each broker passes its connections on to."""
        return tuple(node.proxied_port for node in self._nodes)

    @property
    def folder(self) -> Path:
        """Where records and logs are, while it runs."""
        return self._folder

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when coordinators answer.

        Raises KafkaUnavailable, or ConfigError with the end of the log when a broker does not come up.
        """
        java, jars = await asyncio.to_thread(lambda: (find_java(), fetch_jars(self._progress)))
        self._java = (str(java), f"-Xmx{self._heap_mb}m", *JVM, "-cp", f"{jars}{os.sep}*")
        for attempt in range(ATTEMPTS):
            try:
                await self._try_to_start()
            except ConfigError:
                lost = any("Address already in use" in self._log(node) for node in self._nodes)
                await self._halt()
                if self._port or not lost or attempt == ATTEMPTS - 1:
                    raise  # and the folder stays: the message names a log in it
                self._remove()
            except BaseException:
                await self.stop()
                raise
            else:
                return

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left after STOP_S. Nothing remains even if this is cancelled."""
        try:
            await self._halt()
        finally:
            self._remove()

    async def died(self) -> None:
        """Waits until a broker is gone. Raises ConfigError; after `stop`, returns."""
        processes = tuple(self._processes.values())
        exits = [asyncio.create_task(asyncio.to_thread(process.wait)) for process in processes]
        try:
            await asyncio.wait(exits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in exits:
                waiter.cancel()
        self.check()

    def kill(self, node: int) -> None:
        """SIGKILL to the broker with this id (they count from 1), as a machine would lose it."""
        _kill(self._processes.pop(node))

    async def revive(self, node: int) -> None:
        """Starts a broker that was killed, on its ports and with what it had written; returns when it listens."""
        (it,) = (each for each in self._nodes if each.id == node)
        self._run(it, "kafka.Kafka", "server.properties")
        async with asyncio.timeout(START_S):
            while not await _listens(it):
                self.check()
                await asyncio.sleep(0.05)

    async def create_topics(self, *names: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        """Those that exist already stay as they are."""
        await create_topics(
            self.bootstrap, *names, partitions=partitions, replication=min(3, self._count), configs=configs
        )

    async def _try_to_start(self) -> None:
        self._nodes = pick_ports(self._count, self._port, self._proxies, self._host)
        self._folder = self._own(self._data) if self._data else Path(tempfile.mkdtemp(prefix="moderation-kafka-"))
        known = sorted(path.parent.parent for path in self._folder.glob("node-*/log/meta.properties"))
        if known and len(known) != self._count:
            raise ConfigError(f"{self._folder} holds {len(known)} brokers, not {self._count}: choose another folder")
        cluster = _cluster_id(known[0]) if known else secrets.token_urlsafe(16)
        fresh = [node for node in self._nodes if self._node_folder(node) not in known]
        for node in self._nodes:
            self._node_folder(node).mkdir(parents=True, exist_ok=True)
            (self._node_folder(node) / "server.properties").write_text(properties(node, self._nodes), "ascii")
        try:
            async with asyncio.timeout(START_S):
                for node in fresh:
                    self._run(
                        node, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", "server.properties"
                    )
                for node in fresh:
                    if await asyncio.to_thread(self._processes[node.id].wait):
                        raise ConfigError(f"could not format storage for Kafka; {self._log_tail(node)}")
                for node in self._nodes:
                    self._run(node, "kafka.Kafka", "server.properties")
                await self._answers()
        except TimeoutError:
            raise ConfigError(f"Kafka did not answer in {START_S:.0f} s; {self._log_tail(self._nodes[0])}") from None

    def _own(self, data: Path) -> Path:
        """Kafka locks its folder too, but late: by then we would have overwritten the log of the broker in it."""
        data.mkdir(parents=True, exist_ok=True)
        lock = self._held.enter_context((data / ".lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another local Kafka runs in {data}: stop it, or choose another folder") from None
        return data

    async def _halt(self) -> None:
        processes, self._processes = tuple(self._processes.values()), {}
        self._nodes = ()
        try:
            for process in processes:
                _let_go(process)
            await asyncio.gather(*(asyncio.to_thread(_wait, process, STOP_S + 5) for process in processes))
        finally:
            for process in processes:
                _kill(process)
            self._held.close()

    def _remove(self) -> None:
        if not self._data and self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = Path()

    def _node_folder(self, node: Node) -> Path:
        return self._folder / f"node-{node.id}"

    def _run(self, node: Node, *command: str) -> None:
        """A JVM on a leash, out of the terminal's process group: Ctrl-C is ours to handle, the broker stops last.

        It runs in the node's folder and knows only relative paths, which spares property files their escapes.
        """
        scratch = () if self._data else ("--rm", str(self._folder))
        held = (
            sys.executable,
            "-IS",
            supervise.__file__,
            str(os.getpid()),
            str(STOP_S),
            *scratch,
            *self._java,
            *command,
        )
        if previous := self._processes.get(node.id):
            _let_go(previous)
        with (self._node_folder(node) / "broker.log").open("wb") as log:
            self._processes[node.id] = subprocess.Popen(  # noqa: S603
                held,
                cwd=self._node_folder(node),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )

    async def _answers(self) -> None:
        """An open port is not yet a broker: all nodes in the metadata, and both kinds of coordinator found."""
        for node in self._nodes:
            while not await _listens(node):
                self.check()
                await asyncio.sleep(0.05)
        while True:
            self.check()
            with contextlib.suppress(KafkaError):  # what it answers until it is ready; there is a deadline outside
                async with _admin(self.bootstrap) as admin:
                    brokers = (await admin.describe_cluster())["brokers"]
                    for kind in (0, 1):  # of a group, of a transaction: the first question creates the topics behind
                        await admin.find_coordinator("moderation-ready", kind)
                if len(brokers) == self._count:
                    return
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Raises ConfigError, with the end of its log, when a broker that should run has ended."""
        for node in self._nodes:
            process = self._processes.get(node.id)
            if process and process.poll() is not None:
                raise ConfigError(f"Kafka exited with {process.returncode}; {self._log_tail(node)}")

    def _log(self, node: Node) -> str:
        path = self._node_folder(node) / "broker.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _log_tail(self, node: Node, lines: int = 20) -> str:
        path = self._node_folder(node) / "broker.log"
        return f"the last lines of {path}:\n" + "\n".join(self._log(node).splitlines()[-lines:])


def _cluster_id(node_folder: Path) -> str:
    text = (node_folder / "log" / "meta.properties").read_text()
    return text.partition("cluster.id=")[2].partition("\n")[0]


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """The byte says that we live, and look after the folder ourselves."""
    if process.stdin and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            process.stdin.write(b".")
        process.stdin.close()


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):  # the caller kills what is left
        process.wait(timeout_s)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _let_go(process)


async def _listens(node: Node) -> bool:
    try:
        _, writer = await asyncio.open_connection(node.host, node.port)
    except OSError:
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def create_topics(
    bootstrap: str,
    *names: str,
    partitions: int = 1,
    replication: int = 1,
    configs: Mapping[str, str] | None = None,
) -> None:
    """Returns when the topics can be used; those that exist already stay as they are. Raises KafkaError."""
    topics = [NewTopic(name, partitions, replication, topic_configs=dict(configs or {})) for name in names]
    async with _admin(bootstrap) as admin:
        answer = await admin.create_topics(topics)
        for name, code, message in answer.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise for_code(code)(f"topic {name}: {message}")
        # The controller knows them first. A group that subscribes before the brokers do waits minutes for metadata.
        async with asyncio.timeout(START_S):
            while True:
                known = await admin.describe_topics(list(names))
                if not any(topic["error_code"] or any(p["error_code"] for p in topic["partitions"]) for topic in known):
                    return
                await asyncio.sleep(0.02)


async def create_service_topics(settings: KafkaSettings, *, partitions: int, replication: int = 1) -> None:
    """The topics of a deployment. Those that exist already stay as they are. Raises KafkaError."""
    size = {"max.message.bytes": str(settings.max_message_bytes)}
    configs = {
        settings.posts_topic: size,
        settings.verdicts_topic: size | {"cleanup.policy": "compact"},  # the latest verdict of each post is kept
        settings.dead_letters: size,
    }
    for name, config in configs.items():
        await create_topics(settings.bootstrap, name, partitions=partitions, replication=replication, configs=config)


async def create_missing_topics(settings: KafkaSettings, *, partitions: int, replication: int) -> None:
    """`moderation dev topics`: waits for the broker as a role does. Raises ConfigError, too where topics do not fit."""
    if settings.security_protocol != "PLAINTEXT":
        raise ConfigError(
            "MODERATION_KAFKA__SECURITY_PROTOCOL: `dev topics` creates topics of PLAINTEXT brokers only; others are "
            "for the owner of the cluster to create"
        )
    names = [settings.posts_topic, settings.verdicts_topic, settings.dead_letters]
    await connections.connected(
        lambda: create_service_topics(settings, partitions=partitions, replication=replication), settings
    )
    await check_topics(settings, names)


@contextlib.asynccontextmanager
async def broker(progress: Callable[[str], object] = lambda _: None) -> AsyncIterator[str]:
    """Bootstrap servers: those that KAFKA_BOOTSTRAP_SERVERS names, else a broker of our own for as long as this."""
    if given := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    async with LocalKafka(progress=progress) as kafka:
        yield kafka.bootstrap


async def run_until_stopped(
    stop: asyncio.Event,
    settings: KafkaSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 9092,
    data: Path | None = None,
    partitions: int = 6,
) -> None:
    """`moderation dev kafka`: a broker with the topics that the settings name, until `stop` or cancellation.

    Stops the broker before it returns. Raises KafkaUnavailable, or ConfigError when the broker does not start or dies.
    """

    async def serve() -> None:
        def progress(line: str) -> None:
            log.info("kafka_fetch_started", message=line)

        async with LocalKafka(host=host, port=port, data=data, progress=progress) as kafka:
            here = settings.model_copy(update={"bootstrap": kafka.bootstrap})
            await create_service_topics(here, partitions=partitions)
            log.info("kafka_started", bootstrap=kafka.bootstrap, data=str(data or ""))
            await kafka.died()

    serving, stopping = asyncio.create_task(serve()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        serving.cancel()
        stopping.cancel()
        await asyncio.wait((serving, stopping))
    if not serving.cancelled():
        serving.result()
