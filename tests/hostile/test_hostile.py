"""Hostile clients against a real API process: a good caller is served, and memory stays bounded.

`make hostile` measures the same attacks in full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc
from tests.hostile import attacks, harness
from tests.hostile.attacks import Target
from tests.hostile.caller import POST
from tests.support import frames
from tests.support.connection import Connection, connected
from tests.support.credentials import Credentials
from tests.support.topics import make_topics

MIB = 1 << 20
ROOM_MIB = 512  # half of the pod's limit
CALLS = 20
ATTACKER = "127.0.0.2"


class Case:
    """A secured and an open API, on new topics."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.credentials = Credentials(folder)

    @asynccontextmanager
    async def api(self, *, secured: bool, **changed: str) -> AsyncIterator[harness.Server]:
        credentials = self.credentials if secured else None
        async with harness.api(self.environment | changed, self.folder, credentials) as server:
            yield server

    def target(self, server: harness.Server, *, token: str = "", scale: float = 1.0) -> Target:
        return Target(server.address, harness.target_tls(server), token, ATTACKER, scale)

    @asynccontextmanager
    async def good(self, server: harness.Server) -> AsyncIterator[Callable[[], Any]]:
        """A function that looks a verdict up, with a bearer token if the API needs one."""
        metadata = (("authorization", f"Bearer {self.credentials.good_token.read_text()}"),)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        if server.ca == "-":
            channel = grpc.aio.insecure_channel(server.address, options=options)
        else:
            trusted = grpc.ssl_channel_credentials(self.credentials.ca.read_bytes())
            channel = grpc.aio.secure_channel(server.address, trusted, options=options)
        async with channel:
            stub: Any = pb_grpc.ModerationServiceStub(channel)  # type: ignore[no-untyped-call]

            async def look() -> None:
                response = await stub.GetVerdict(pb.GetVerdictRequest(post_id=POST), metadata=metadata, timeout=20)
                assert response.state == pb.LOOKUP_STATE_FOUND

            yield look


@pytest.fixture
async def case(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Case:
    posts, verdicts = names("posts"), names("verdicts")
    await make_topics(kafka, posts, verdicts, max_message_bytes=str(20 * MIB))
    await harness.put_verdict(kafka, verdicts)
    environment = {
        "MODERATION_KAFKA__BOOTSTRAP": kafka,
        "MODERATION_KAFKA__POSTS_TOPIC": posts,
        "MODERATION_KAFKA__VERDICTS_TOPIC": verdicts,
    }
    return Case(environment, tmp_path)


async def until(happened: Callable[[], bool], what: str) -> None:
    """Waits until `happened`, for at most a minute. `what`: for the message."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


@asynccontextmanager
async def attacked(server: harness.Server, attack: attacks.Attack, target: Target) -> AsyncIterator[None]:
    """Runs an attack during the block. Then checks that the process's memory stayed within bounds."""
    sampling = asyncio.create_task(server.sample())
    attacking = asyncio.ensure_future(attack(target))
    try:
        yield
    finally:
        for task in (attacking, sampling):
            task.cancel()
        await asyncio.gather(attacking, sampling, return_exceptions=True)
    assert server.peak < ROOM_MIB * MIB


ATTACKS = [
    ("watches", "streams", 600),
    ("checks", "streams", 2_000),
    ("headers_alone", "streams", 600),
    ("unfinished_bodies", "connections", 20),
    ("unfinished_lookups", "connections", 5),
    ("bombs", "messages", 20),
    ("slow_bodies", "streams", 600),
    ("rapid_resets", "frames", 5_000),
    ("continuations", "connections", 3),
    ("large_metadata", "streams", 70),
    ("refused_calls", "streams", 200),
]


async def test_unauthenticated_callers_take_nothing_from_a_good_caller(case: Case) -> None:
    async with case.api(secured=True) as server, case.good(server) as look:
        for name, what, many in ATTACKS:
            target = case.target(server)
            async with attacked(server, attacks.UNAUTHENTICATED[name], target):
                await until(lambda target=target, what=what, many=many: target.done[what] >= many, name)  # type: ignore[misc]
                for _ in range(CALLS):
                    await look()
        events = server.events()
    refused = [event for event in events if event["event"] == "unauthenticated_calls_refused"]
    assert refused
    assert refused[0]["calls"] > 0
    assert refused[0]["latest_address"] == f"ipv4:{ATTACKER}"
    assert len(events) < 50  # an attack does not fill the log
    assert not [event for event in events if event["event"] == "no event"]


@pytest.mark.parametrize("secured", [True, False])
async def test_an_admitted_caller_takes_no_more_than_its_share(case: Case, secured: bool) -> None:
    async with case.api(secured=secured) as server, case.good(server) as look:
        for name, what, many in (
            ("headers_alone", "streams", 600),
            ("unfinished_bodies", "connections", 20),
            ("unfinished_lookups", "connections", 5),
            ("bombs", "messages", 20),
            ("many_small_parts", "bytes", 8 * MIB),
        ):
            target = case.target(server, token=case.credentials.token("hostile") if secured else "")
            async with attacked(server, attacks.ADMITTED[name], target):
                await until(lambda target=target, what=what, many=many: target.done[what] >= many, name)  # type: ignore[misc]
                for _ in range(CALLS):
                    await look()


async def test_a_connection_has_a_limit_of_streams_and_announces_it(case: Case) -> None:
    changed = {"MODERATION_API__MAX_CONNECTION_CALLS": "7"}
    async with case.api(secured=False, **changed) as server, connected(server.address, None) as connection:
        await until(lambda: connection.limit is not None, "no settings")
        assert connection.limit == 7
        for _ in range(8):
            await connection.open(attacks.GET)
        await until(lambda: connection.received["refused"] == 1, "the eighth")


async def test_connections_of_an_address_have_a_limit(case: Case) -> None:
    """Connections with an admitted call stay, and so do those of another address."""
    async with (
        case.api(secured=False, MODERATION_API__MAX_PEER_CONNECTIONS="5") as server,
        case.good(server) as look,
        contexts(server.address, 3) as old,
    ):
        await look()
        body = frames.message(pb.GetVerdictRequest(post_id=POST).SerializeToString())
        for connection in old:
            await connection.send(await connection.open(attacks.GET), body, end=True)
        await until(lambda: all(connection.received["answered"] for connection in old), "answers")
        async with contexts(server.address, 6) as new:
            await until(lambda: sum(connection.closed.is_set() for connection in new) == 4, "four are too many")
            await look()
        assert not any(connection.closed.is_set() for connection in old)


async def test_a_silent_unauthenticated_connection_is_closed(case: Case) -> None:
    async with (
        case.api(secured=True, MODERATION_API__UNAUTHENTICATED_TIMEOUT_S="0.5") as server,
        case.good(server) as look,
    ):
        await look()
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))  # no handshake
        async with connected(server.address, harness.target_tls(server)) as silent:
            async with asyncio.timeout(30):
                await silent.closed.wait()
                assert await reader.read() == b""
        writer.close()
        await look()  # on the connection that it has had all along


async def test_checks_without_a_body_are_not_held(case: Case) -> None:
    """A few wait to be read. The others count as refused unauthenticated calls, which close the connection."""
    async with (
        case.api(secured=True, MODERATION_API__UNAUTHENTICATED_TIMEOUT_S="600") as server,
        case.good(server) as look,
    ):
        await look()
        async with connected(server.address, harness.target_tls(server), ATTACKER) as connection:
            async with asyncio.timeout(30):
                for _ in range(200):
                    await connection.open(attacks.CHECK)
                await connection.closed.wait()
        await look()


async def test_a_watch_that_takes_nothing_does_not_hold_up_the_stop(case: Case) -> None:
    """The window of the client is 0: nothing that the API writes leaves the API."""
    nothing = frames.frame(frames.SETTINGS, 0, 0, b"\0\x04\0\0\0\0")
    async with case.api(secured=False) as server, connected(server.address, None) as connection:
        await connection.write(nothing)
        for _ in range(3):
            await connection.open(attacks.HEALTH_WATCH, body=frames.message(b""))
        async with case.good(server) as look:
            await look()
        server.process.terminate()
        async with asyncio.timeout(20):
            assert await server.process.wait() == 0


@asynccontextmanager
async def contexts(address: str, count: int) -> AsyncIterator[list[Connection]]:
    """As many connections of the attacker's address."""
    opened = [connected(address, None, ATTACKER) for _ in range(count)]
    try:
        yield [await connection.__aenter__() for connection in opened]
    finally:
        for connection in opened:
            await connection.__aexit__(None, None, None)
