"""A real Apache Kafka on this machine, for the demo, the tests and `moderation dev kafka`.

It needs nothing but Python (see jars.py). The brokers end with this process, however it ends (see supervise.py).
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
from aiokafka.errors import KafkaError

from moderation.dev import supervise, topics
from moderation.dev.jars import fetch_jars, find_java
from moderation.dev.node import Node, pick_ports, properties
from moderation.errors import ConfigError
from moderation.lifecycle import unless_stopped
from moderation.settings import KafkaSettings

log = structlog.get_logger()

JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",  # else the broker stays and does nothing
    "-Dlog4j2.level=WARN",
)

START_S = 90.0
STOP_S = 10.0  # from SIGTERM to SIGKILL: the last of several brokers cannot sign off, because no controller is left
ATTEMPTS = 3  # another process may take a free port before the broker binds it


class LocalKafka:
    """Brokers that live as long as this object's `async with`, and never longer than this process.

    `host`: an address of this machine, for instance of the bridge that containers are on. `port`: port of the first
    broker, the others follow; 0 takes free ports. `data`: a folder that keeps the records; without it the records are
    deleted at the end. `progress` is called with a line before something that takes long. `proxies`: port of a proxy
    for each broker. A proxy forwards to one of `proxied_ports`, where the brokers advertise only the proxies. The
    object is bound to no event loop.
    """

    def __init__(  # noqa: PLR0913  keyword-only, and each has a default
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
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # the supervisor of each broker, by node id
        self._folder = Path()
        self._held = contextlib.ExitStack()  # the lock on `data`
        self._java: tuple[str, ...] = ()

    @property
    def bootstrap(self) -> str:
        """host:port of each broker, separated by commas; empty unless started."""
        return ",".join(f"{node.host}:{node.port}" for node in self._nodes)

    @property
    def proxied_ports(self) -> tuple[int, ...]:
        """Port that the proxy of each broker must forward to."""
        return tuple(node.proxied_port for node in self._nodes)

    @property
    def folder(self) -> Path:
        """Folder of records and logs, while the brokers run."""
        return self._folder

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the brokers and waits until their coordinators are ready.

        Raises KafkaUnavailable, or ConfigError with the end of the log when a broker does not start.
        """
        java, jars = await asyncio.to_thread(lambda: (find_java(), fetch_jars(self._progress)))
        self._java = (str(java), f"-Xmx{self._heap_mb}m", *JVM, "-cp", f"{jars}{os.sep}*")
        for attempt in range(ATTEMPTS):
            try:
                await self._try_to_start()
            except ConfigError:
                port_taken = any("Address already in use" in self._log(node) for node in self._nodes)
                await self._halt()
                if self._port or not port_taken or attempt == ATTEMPTS - 1:
                    raise  # the folder stays, because the message names a log in it
                self._remove()
            except BaseException:
                await self.stop()
                raise
            else:
                return

    async def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL after STOP_S. Leaves no process and no folder, even if this call is cancelled."""
        try:
            await self._halt()
        finally:
            self._remove()

    async def died(self) -> None:
        """Waits until a broker ends, then raises ConfigError. Returns after `stop`."""
        processes = tuple(self._processes.values())
        exits = [asyncio.create_task(asyncio.to_thread(process.wait)) for process in processes]
        try:
            await asyncio.wait(exits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in exits:
                waiter.cancel()
        self.check()

    def kill(self, node: int) -> None:
        """Sends SIGKILL to the broker with this id (ids start at 1), as when its machine is lost."""
        _kill(self._processes.pop(node))

    async def revive(self, node: int) -> None:
        """Restarts a killed broker on its ports with its records. Returns when it listens."""
        (revived,) = (candidate for candidate in self._nodes if candidate.id == node)
        self._run(revived, "kafka.Kafka", "server.properties")
        async with asyncio.timeout(START_S):
            while not await _listens(revived):
                self.check()
                await asyncio.sleep(0.05)

    async def create_topics(self, *names: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        """Creates the topics that do not exist yet. Returns when the topics can be used. Raises KafkaError."""
        await topics.create_topics(
            self.bootstrap, *names, partitions=partitions, replication=min(3, self._count), configs=configs
        )

    async def _try_to_start(self) -> None:
        self._nodes = pick_ports(self._count, self._port, self._proxies, self._host)
        self._folder = (
            self._lock_folder(self._data) if self._data else Path(tempfile.mkdtemp(prefix="moderation-kafka-"))
        )
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
                await self._wait_until_ready()
        except TimeoutError:
            raise ConfigError(f"Kafka did not answer in {START_S:.0f} s; {self._log_tail(self._nodes[0])}") from None

    def _lock_folder(self, data: Path) -> Path:
        """Kafka locks its folder too, but too late: the log of the broker in it would be overwritten by then."""
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
        """Starts a JVM under supervise.py, outside the terminal's process group: the broker must stop last on Ctrl-C.

        The JVM runs in the node's folder and gets relative paths only, so that property files need no escapes.
        """
        scratch = () if self._data else ("--rm", str(self._folder))
        supervised = (
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
                supervised,
                cwd=self._node_folder(node),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )

    async def _wait_until_ready(self) -> None:
        """Waits until the metadata has all nodes and both kinds of coordinator respond: an open port is not enough."""
        for node in self._nodes:
            while not await _listens(node):
                self.check()
                await asyncio.sleep(0.05)
        while True:
            self.check()
            with contextlib.suppress(KafkaError):  # until the broker is ready; the caller has a deadline
                async with topics.admin_client(self.bootstrap) as admin:
                    brokers = (await admin.describe_cluster())["brokers"]
                    for kind in (0, 1):  # of a group, of a transaction: the first request creates the internal topics
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
    """Ends the supervision. The byte means that this process is alive and removes the folder itself."""
    if process.stdin and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):  # the supervisor has ended already
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
async def broker(progress: Callable[[str], object] = lambda _: None) -> AsyncIterator[str]:
    """Bootstrap servers: KAFKA_BOOTSTRAP_SERVERS if it is set, else a local broker that ends with this context."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
        return
    async with LocalKafka(progress=progress) as kafka:
        yield kafka.bootstrap


async def serve(
    stop: asyncio.Event,
    settings: KafkaSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 9092,
    data: Path | None = None,
    partitions: int = 6,
) -> None:
    """Runs `moderation dev kafka`: a broker with the topics that the settings name, until `stop` or cancellation.

    Stops the broker before it returns. Raises KafkaUnavailable, or ConfigError when the broker does not start or ends.
    """

    async def run() -> None:
        def progress(line: str) -> None:
            log.info("kafka_fetch_started", message=line)

        async with LocalKafka(host=host, port=port, data=data, progress=progress) as kafka:
            here = settings.model_copy(update={"bootstrap": kafka.bootstrap})
            await topics.create_service_topics(here, partitions=partitions)
            log.info("kafka_started", bootstrap=kafka.bootstrap, data=str(data or ""))
            await kafka.died()

    await unless_stopped(stop, run())
