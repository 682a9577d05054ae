"""A database that refuses the view for a while: nothing ends, lookups say what is known, and it goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import grpc
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation.dev.ports import free_ports
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.stores import FIND_S
from moderation.view.stores import postgres as store
from moderation.view.stores.postgres_generations import NAME
from tests.support.builders import a_verdict
from tests.support.lookups import Api, refused, service
from tests.support.replicas import Replicas, delayed
from tests.support.view_stores import sql

SECRET = "a-password-that-is-never-shown"  # noqa: S105


class Database:
    """A database as its administrator has it, and a role that may do no more than the view needs."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = parts.path.removeprefix("/")
        self.role = f"r{uuid4().hex}"
        self.url = urlunsplit(parts._replace(netloc=f"{self.role}:{SECRET}@{parts.hostname}:{parts.port}"))
        self._url = url
        self._elsewhere = urlunsplit(parts._replace(path="/postgres"))

    async def do(self, *statements: str) -> None:
        """As its administrator, in the database itself."""
        await self._do(self._url, statements)

    async def do_elsewhere(self, *statements: str) -> None:
        """As its administrator, in another database."""
        await self._do(self._elsewhere, statements)

    async def cut(self) -> None:
        """Ends the role's connections."""
        await self.do_elsewhere(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'"  # noqa: S608
        )

    async def _do(self, url: str, statements: Sequence[str]) -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture
async def view_database(database: str) -> Database:
    made = Database(database)
    await made.do(
        f"CREATE ROLE {made.role} LOGIN PASSWORD '{SECRET}'",
        f"GRANT CREATE, CONNECT ON DATABASE {made.name} TO {made.role}",
    )
    return made


@asynccontextmanager
async def read_only(database: Database) -> AsyncIterator[None]:
    await database.do(f"ALTER ROLE {database.role} SET default_transaction_read_only = on")
    await database.cut()
    yield
    await database.do(f"ALTER ROLE {database.role} RESET default_transaction_read_only")
    await database.cut()  # a session keeps what it began with


@asynccontextmanager
async def schema_revoked(database: Database) -> AsyncIterator[None]:
    await database.do(f"REVOKE ALL ON SCHEMA {NAME} FROM {database.role}")
    yield
    await database.do(f"GRANT ALL ON SCHEMA {NAME} TO {database.role}")


@asynccontextmanager
async def writes_revoked(database: Database) -> AsyncIterator[None]:
    await database.do(f"REVOKE INSERT, UPDATE ON ALL TABLES IN SCHEMA {NAME} FROM {database.role}")
    yield
    await database.do(f"GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA {NAME} TO {database.role}")


@asynccontextmanager
async def another_password(database: Database) -> AsyncIterator[None]:
    await database.do(f"ALTER ROLE {database.role} PASSWORD 'another'")
    await database.cut()
    yield
    await database.do(f"ALTER ROLE {database.role} PASSWORD '{SECRET}'")


@asynccontextmanager
async def no_login(database: Database) -> AsyncIterator[None]:
    await database.do(f"ALTER ROLE {database.role} NOLOGIN")
    await database.cut()
    yield
    await database.do(f"ALTER ROLE {database.role} LOGIN")


@asynccontextmanager
async def no_connections(database: Database) -> AsyncIterator[None]:
    await database.do(f"ALTER ROLE {database.role} CONNECTION LIMIT 0")
    await database.cut()
    yield
    await database.do(f"ALTER ROLE {database.role} CONNECTION LIMIT -1")


@asynccontextmanager
async def another_name(database: Database) -> AsyncIterator[None]:
    name = database.name
    await database.do_elsewhere(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await database.cut()
    await database.do_elsewhere(f"ALTER DATABASE {name} RENAME TO {name}_away")
    yield
    await database.do_elsewhere(
        f"ALTER DATABASE {name}_away RENAME TO {name}", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"
    )


@asynccontextmanager
async def locked(database: Database) -> AsyncIterator[None]:
    holder = await asyncpg.connect(database._url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(sql(f"LOCK TABLE {NAME}.generations, {NAME}.partitions, {NAME}.verdicts_1"))
    yield
    await transaction.rollback()
    await holder.close()


Fault = Callable[[Database], Any]
# What is done to the database, the SQLSTATE, and whether it can be read meanwhile.
FAULTS: list[tuple[Fault, str, bool]] = [
    (read_only, "25006", True),
    (schema_revoked, "42501", False),
    (writes_revoked, "42501", True),
    (another_password, "28P01", False),
    (no_login, "28000", False),
    (no_connections, "53300", False),
    (another_name, "3D000", False),
    (locked, "55P03", False),
]


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  a log line wakes no task
            await asyncio.sleep(0.02)


def reasons(logged: Sequence[Any]) -> list[str]:
    return [event["reason"] for event in logged if event["event"] == "view_stalled"]


@pytest.mark.parametrize(("fault", "state", "readable"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
async def test_a_fault_of_the_database_stalls_the_view_and_ends_nothing(
    running_api: Api,
    view_database: Database,
    fault: Fault,
    state: str,
    readable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "LOCK_S", 1.0)
    running_api.set(view_database=SecretStr(view_database.url))
    with capture_logs() as logged:
        async with running_api.running() as channel:
            lookups = service(channel)

            async def lookup(post_id: str) -> Any:
                return await lookups.GetVerdict(pb.GetVerdictRequest(post_id=post_id), timeout=30)

            async def wait(post_id: str) -> Any:
                return await lookups.WaitVerdict(pb.WaitVerdictRequest(post_id=post_id), timeout=60)

            await running_api.put(a_verdict("before"))
            assert (await wait("before")).state == pb.LOOKUP_STATE_FOUND
            async with AsyncExitStack() as broken:
                await broken.enter_async_context(fault(view_database))
                await running_api.put(a_verdict("meanwhile"))
                await until(lambda: any(state in reason for reason in reasons(logged)))
                assert REGISTRY.get_sample_value("moderation_view_stalled") == 1
                assert (await lookup("before")).state == pb.LOOKUP_STATE_FOUND  # from memory
                if readable:
                    assert (await lookup("unheard-of")).state == pb.LOOKUP_STATE_NOT_FOUND
                else:
                    begun = time.monotonic()
                    async with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry=True):
                        await lookup("unheard-of")
                    assert time.monotonic() - begun < FIND_S + 1
            await until(lambda: any(event["event"] == "view_recovered" for event in logged))
            assert (await lookup("meanwhile")).state == pb.LOOKUP_STATE_FOUND
            assert (await lookup("unheard-of")).state == pb.LOOKUP_STATE_NOT_FOUND
            assert REGISTRY.get_sample_value("moderation_view_stalled") == 0
    assert SECRET not in str(logged)


async def test_an_api_that_its_database_refuses_at_the_start_waits_for_it(
    running_api: Api, view_database: Database
) -> None:
    running_api.set(view_database=SecretStr(view_database.url))
    await running_api.put(a_verdict("before"))
    with capture_logs() as logged:
        async with AsyncExitStack() as stack:
            broken = await stack.enter_async_context(AsyncExitStack())
            await broken.enter_async_context(another_password(view_database))

            async def heal() -> None:
                await until(lambda: any("28P01" in reason for reason in reasons(logged)))
                await broken.aclose()

            healing = asyncio.create_task(heal())
            async with running_api.running() as channel:
                await healing
                response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="before"))
                assert response.state == pb.LOOKUP_STATE_FOUND
    assert SECRET not in str(logged)


async def test_an_api_whose_database_is_away_at_the_start_waits_for_it(running_api: Api, database: str) -> None:
    (port,) = free_ports(1)
    parts = urlsplit(database)
    away = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}")
    running_api.set(view_database=SecretStr(urlunsplit(away)))
    assert running_api.settings.api.view_start_s == running_api.settings.kafka.connect_timeout_s  # the same patience
    await running_api.put(a_verdict("before"))
    with capture_logs() as logged:
        async with AsyncExitStack() as stack:

            async def start() -> None:
                await until(lambda: any("ConnectionRefusedError" in reason for reason in reasons(logged)))
                await stack.enter_async_context(delayed(database, 0.0, port))

            starting = asyncio.create_task(start())
            async with running_api.running() as channel:
                await starting
                response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="before"))
                assert response.state == pb.LOOKUP_STATE_FOUND


async def test_an_api_that_its_database_goes_on_refusing_says_why_and_ends(
    running_api: Api, view_database: Database
) -> None:
    kafka = running_api.settings.kafka
    replicas = Replicas(kafka.bootstrap, kafka.posts_topic, kafka.verdicts_topic, view_database.url)
    async with another_password(view_database):
        with replicas.starting(api__view_start_s="1") as role:
            assert await asyncio.to_thread(role.wait) == 2
    (rejected,) = replicas.events("configuration_rejected")
    assert "28P01" in rejected["message"]
    assert SECRET not in role.log
