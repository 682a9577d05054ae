"""A right that is taken away is named, with its resource and the command that gives it back. No offset is moved for it.

Each row has a user, topics and a group of its own, on one broker that holds its clients to their rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from moderation import lifecycle
from moderation.api import role as api_role
from moderation.client import Client
from moderation.dev.kafka import LocalKafka
from moderation.dev.ports import free_ports
from moderation.dev.topics import create_service_topics
from moderation.errors import ConfigError, ModerationError
from moderation.settings import Settings, load
from moderation.v1.post_pb2 import Post
from moderation.worker import role as worker_role
from tests.support.commands import Role, Service, produce
from tests.support.lookups import a_free_address, until_serving
from tests.support.rights import as_user, denied, granted, guarded_properties, set_rules
from tests.support.topics import committed_records, run_apart

ROWS = 40  # users that the broker knows
NUMBERS = itertools.count()
POSTS = [(b"p0", b'{"id": "p0", "text": "hello"}', ()), (b"broken", b"{", ())]


@dataclass(frozen=True)
class Row:
    """A right that a role loses. `PREFIX` stands for what the names of the row begin with."""

    role: str  # worker, api, or at_least_once: a worker for brokers without transactions
    kind: str
    name: str  # as in the manifests
    right: str
    running: bool  # loses it while it runs; otherwise it starts without it

    @property
    def id(self) -> str:
        return "-".join([self.role, self.kind, self.name, self.right, "running" if self.running else "start"])


RUNNING, START = True, False
# Fetches go on without it. The worker finds out when it asks for the topic's ends, for its operations port.
LATE = Row("worker", "topic", "posts", "Describe", RUNNING)
TABLE = [
    Row("worker", "topic", "posts", "Read", RUNNING),
    Row("worker", "topic", "posts", "Read", START),
    LATE,
    Row("worker", "topic", "posts", "Describe", START),
    Row("worker", "topic", "verdicts", "Read", START),
    Row("worker", "topic", "verdicts", "Write", RUNNING),
    Row("worker", "topic", "verdicts", "Write", START),
    Row("worker", "topic", "verdicts", "Describe", START),
    Row("worker", "topic", "posts.moderation.dlq", "Write", RUNNING),
    Row("worker", "topic", "posts.moderation.dlq", "Describe", START),
    Row("worker", "group", "moderation", "Read", RUNNING),
    Row("worker", "group", "moderation", "Read", START),
    Row("worker", "group", "moderation", "Describe", START),
    Row("worker", "transactionalId", "moderation-posts-", "Write", RUNNING),
    Row("worker", "transactionalId", "moderation-posts-", "Write", START),
    Row("worker", "transactionalId", "moderation-posts-", "Describe", START),
    Row("at_least_once", "topic", "posts", "Read", RUNNING),
    Row("at_least_once", "topic", "verdicts", "Write", RUNNING),
    Row("at_least_once", "topic", "verdicts", "Read", START),
    Row("at_least_once", "group", "moderation", "Read", RUNNING),
    Row("at_least_once", "group", "moderation", "Read", START),
    Row("api", "topic", "verdicts", "Read", RUNNING),
    Row("api", "topic", "verdicts", "Read", START),
    Row("api", "topic", "verdicts", "Describe", RUNNING),
    Row("api", "topic", "verdicts", "Describe", START),
    Row("api", "topic", "posts", "Write", RUNNING),
    Row("api", "topic", "posts", "Write", START),  # asked for as a right on the cluster: to write any topic
    Row("api", "topic", "posts", "Describe", START),
]


@dataclass(frozen=True)
class Guarded:
    """The broker. `open`: where every client is a superuser."""

    open: str
    port: int

    async def scene(self, row: Row, folder: Path) -> Scene:
        """Users, topics and settings of a row."""
        number = next(NUMBERS)
        user, prefix = f"row-{number}", f"r{number}-"
        service = Service(self.open, f"{prefix}posts", f"{prefix}verdicts", f"{prefix}moderation", "fake", folder)
        own = {"MODERATION_KAFKA__DEAD_LETTER_TOPIC": f"{prefix}posts.moderation.dlq"}
        times = {"SESSION_TIMEOUT_MS": "6000", "CONNECT_TIMEOUT_S": "20", "TRANSACTION_TIMEOUT_MS": "10000"}
        own |= {f"MODERATION_KAFKA__{name}": value for name, value in times.items()}
        if row.role == "at_least_once":
            own["MODERATION_KAFKA__DELIVERY"] = row.role
        if row == LATE:
            own["MODERATION_OPS__LISTEN"] = a_free_address()
        environment = service.environment | own | as_user(user, self.port)
        settings = load(environment | {"MODERATION_API__LISTEN": a_free_address()})
        opened = settings.kafka.model_copy(update={"bootstrap": self.open, "security_protocol": "PLAINTEXT"})
        await create_service_topics(opened, partitions=1)
        role = "moderation-api" if row.role == "api" else "moderation-worker"
        await set_rules(self.open, granted(role, user, prefix))
        # The prefix of ids: {group}-{posts topic}-
        ids = f"{prefix}moderation-{prefix}posts-"
        if row.role == "worker":
            await set_rules(self.open, [(5, ids, 4, f"User:{user}", "*", right, 3) for right in (4, 8)])
        name = ids if row.kind == "transactionalId" else prefix + row.name
        pattern = "prefix" if row.kind == "transactionalId" else "literal"
        loss = denied(user, row.kind, name, row.right, pattern)
        return Scene(self.open, settings, environment, user, name, loss)


@dataclass(frozen=True)
class Scene:
    """What a row plays on."""

    broker: str
    settings: Settings
    environment: dict[str, str]
    user: str
    name: str  # of the resource
    loss: tuple[int, str, int, str, str, int, int]

    async def lose(self) -> None:
        await set_rules(self.broker, [self.loss])

    async def post(self) -> None:
        await produce(self.broker, self.settings.kafka.posts_topic, POSTS)

    async def put_verdict(self) -> None:
        """So that there is something to read at the start."""
        await produce(self.broker, self.settings.kafka.verdicts_topic, [(b"p0", None, ())])

    async def verdicts(self, count: int) -> None:
        await committed_records(self.broker, self.settings.kafka.verdicts_topic, count, 30)


@pytest.fixture(scope="module")
def guarded(local_kafka: None) -> Iterator[Guarded]:
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "moderation.dev.kafka.properties", guarded_properties(port, [f"row-{number}" for number in range(ROWS)])
        )
        kafka = LocalKafka()
        run_apart(kafka.start())
        yield Guarded(kafka.bootstrap, port)
        run_apart(kafka.stop())


async def ended(scene: Scene, row: Row) -> ModerationError:
    """What ends the role, without the right."""
    stop = asyncio.Event()
    run = api_role.serve if row.role == "api" else worker_role.run
    if not row.running:
        await scene.put_verdict()
        await scene.lose()
        await scene.post()
    role = asyncio.create_task(run(scene.settings, stop))
    try:
        if row.running:
            await begun(scene, row)
            await scene.lose()
            await (asked(scene) if row.role == "api" and row.right == "Write" else scene.post())
        await asyncio.wait([role], timeout=40)
    finally:
        stop.set()
        with contextlib.suppress(Exception, ExceptionGroup):
            await asyncio.wait_for(asyncio.shield(role), 20)
    error = lifecycle.moderation_error(role.exception() or AssertionError("it did not end"))
    assert error is not None, role.exception()
    return error


async def begun(scene: Scene, row: Row) -> None:
    """Until the role does its work."""
    if row.role != "api":
        await scene.post()
        await scene.verdicts(2)
        return
    async with grpc.aio.insecure_channel(scene.settings.api.listen) as channel, asyncio.timeout(30):
        await until_serving(channel)


async def asked(scene: Scene) -> None:
    """A caller has a post moderated."""
    async with Client(scene.settings.api.listen) as client:
        with contextlib.suppress(Exception):
            await client.moderate(Post(id="asked", text="hello"), 5.0)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
async def test_a_missing_right_is_named(guarded: Guarded, tmp_path: Path, row: Row) -> None:
    scene = await guarded.scene(row, tmp_path)
    error = await ended(scene, row)
    print(f"\n{row.id}: exit code {error.exit_code}\n{error}")  # what an operator sees, with -rP
    kinds = {"transactionalId": ("transactional id", "transactional-id")}
    words, option = kinds.get(row.kind, (row.kind, row.kind))
    assert f"{scene.user} lacks the right {row.right} on {words}" in str(error)
    assert isinstance(error, ConfigError)
    (command,) = error.commands
    assert command.startswith(f"kafka-acls.sh --bootstrap-server 127.0.0.1:{guarded.port} --command-config ")
    assert f"--allow-principal User:{scene.user} --operation {row.right} --{option} {scene.name}" in command
    assert "reset-offsets" not in str(error)


async def test_the_log_of_a_worker_that_loses_a_right_holds_the_command_that_gives_it_back(
    guarded: Guarded, tmp_path: Path
) -> None:
    scene = await guarded.scene(Row("worker", "topic", "posts", "Read", RUNNING), tmp_path)
    with Role("worker", environment=scene.environment) as worker:
        await scene.post()
        await scene.verdicts(2)
        await scene.lose()
        await scene.post()
        assert worker.wait() == 2
    rejected = worker.wait_for("configuration_rejected")
    assert f"{scene.user} lacks the right Read on topic {scene.name}" in rejected["message"]
    (command,) = rejected["commands"]
    assert command.endswith(f"--add --allow-principal User:{scene.user} --operation Read --topic {scene.name}")
    assert "reset-offsets" not in worker.log


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sasl_password": SecretStr("wrong")}, "refuse the login of row-"),
        ({"sasl_mechanism": "SCRAM-SHA-512"}, "do not take logins by SCRAM-SHA-512"),
    ],
)
async def test_a_login_that_is_refused_ends_a_role_at_once(
    guarded: Guarded, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    scene = await guarded.scene(Row("worker", "topic", "posts", "Read", START), tmp_path)
    kafka = scene.settings.kafka.model_copy(update=change)
    with pytest.raises(ConfigError, match=f"refused the connection: they {text}"):
        await asyncio.wait_for(worker_role.run(scene.settings.model_copy(update={"kafka": kafka}), asyncio.Event()), 10)
