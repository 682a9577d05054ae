"""The API role: overload, drain, connections, ports, brokers that are away."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moderation.api import role
from moderation.client import CallError, Client
from moderation.errors import ConfigError
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_FOUND as FOUND,
)
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_NOT_FOUND as NOT_FOUND,
)
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_PENDING as PENDING,
)
from moderation.v1.post_pb2 import Post
from tests.support.builders import a_verdict
from tests.support.lookups import (
    NOT_SERVING,
    SERVING,
    Api,
    refused,
    service,
    source_of,
    watch_health,
)

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_overload_is_refused_and_other_calls_are_answered(running_api: Api) -> None:
    running_api.set(max_waits=1)
    async with running_api.running() as channel, running_api.posts() as consumer:
        waiting = asyncio.ensure_future(
            service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a")), timeout=60)
        )
        record = await asyncio.wait_for(consumer.getone(), 30)
        async with refused(EXHAUSTED, "OVERLOADED", retry=True) as details:
            await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="a"))
        assert details == ["too many calls at once; try again later"]
        await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))  # lookups have room of their own
        health: Any = health_pb2_grpc.HealthStub(channel)
        check = await health.Check(health_pb2.HealthCheckRequest())
        assert check.status == SERVING
        await running_api.put(a_verdict("a", source=source_of(record)))
        assert (await waiting).state == FOUND
        await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="a"))


async def test_failed_calls_give_their_places_back(running_api: Api) -> None:
    running_api.set(max_waits=1)
    async with running_api.running() as channel, running_api.posts() as consumer:
        async with refused(INVALID):
            await service(channel).WaitVerdict(pb.WaitVerdictRequest())
        gone = service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a")), timeout=60)
        await asyncio.wait_for(consumer.getone(), 30)
        gone.cancel()
        async with asyncio.timeout(30):
            while True:
                try:
                    await service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="b"), timeout=0.2)
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() == EXHAUSTED


async def test_drain_answers_what_is_under_way(running_api: Api) -> None:
    async with running_api.running() as channel, running_api.posts() as consumer:
        waiting = asyncio.ensure_future(
            service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a")), timeout=60)
        )
        await asyncio.wait_for(consumer.getone(), 30)
        health = watch_health(channel)
        assert (await health.read()).status == SERVING
        running_api.stop.set()
        assert (await health.read()).status == NOT_SERVING
        lookups = 0
        while not waiting.done():
            try:
                await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="b"))
                lookups += 1
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert lookups  # meanwhile they are answered
        assert waiting.result().state == PENDING


async def test_a_drain_cuts_nothing(running_api: Api) -> None:
    running_api.set(drain_delay_s=0.3)
    await running_api.put(a_verdict("a"))
    codes: Counter[str] = Counter()
    async with running_api.running() as channel:
        waits = [
            asyncio.ensure_future(service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="none"), timeout=60))
            for _ in range(50)
        ]
        watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await watch.read()

        async def ask() -> None:
            while True:
                try:
                    await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), timeout=5)
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                    return

        asking = [asyncio.create_task(ask()) for _ in range(20)]
        while codes["OK"] < 100:  # noqa: ASYNC110  the tasks above count
            await asyncio.sleep(0)
        before = codes["OK"]
        running_api.stop.set()
        await asyncio.gather(*asking)
        assert codes["OK"] > before  # also while it says that it goes
        assert codes.keys() == {"OK", "UNAVAILABLE"}
        async with refused(grpc.StatusCode.UNAVAILABLE, "STOPPING", retry=True):
            await watch.read()
        assert {response.state for response in await asyncio.gather(*waits)} == {NOT_FOUND}


async def test_an_aged_connection_is_replaced_without_an_error(running_api: Api) -> None:
    running_api.set(connection_age_s=0.3)
    await running_api.put(a_verdict("a"))
    async with running_api.running() as channel:
        watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await watch.read()
        long = asyncio.ensure_future(service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="none"), timeout=2.0))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            call = service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
            assert (await call).state == FOUND
            await asyncio.sleep(0.02)
        assert (await long).state == NOT_FOUND
        await running_api.put(a_verdict("b"))
        assert (await asyncio.wait_for(watch.read(), 30)).changes[0].post_id == "b"


async def test_a_port_that_is_taken(running_api: Api) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        running_api.set(listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ConfigError, match="MODERATION_API__LISTEN"):
            await role.serve(running_api.settings, running_api.stop)


async def test_a_client_without_an_api() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(CallError, match=r"127\.0\.0\.1:1: UNAVAILABLE"):
            await client.get("a")


@pytest.fixture
def without_brokers() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An API as a process, and an address that does not answer."""
    program = (
        "import sys; from moderation import lifecycle, settings; from moderation.api import role; "
        "from moderation.observability import logs; some = settings.load();"
        "logs.configure(some.log); sys.exit(lifecycle.run(lambda stop: role.serve(some, stop)))"
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = {"MODERATION_KAFKA__BOOTSTRAP": address, "MODERATION_KAFKA__CONNECT_TIMEOUT_S": "3"}
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            yield process, address
            process.kill()


def test_unreachable_brokers_end_the_process_with_a_message(without_brokers: tuple[subprocess.Popen[str], str]) -> None:
    process, address = without_brokers
    started = time.monotonic()
    _, logged = process.communicate(timeout=60)
    assert process.returncode == 4
    assert time.monotonic() - started < 45  # it would try for a minute by default
    assert f"Kafka at {address}" in logged
    assert '"event": "broker_unreachable"' in logged
    assert "library_warned" not in logged


def test_a_start_without_brokers_can_be_stopped(without_brokers: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = without_brokers
    assert process.stderr
    assert "policies_loaded" in process.stderr.readline()
    assert "broker_unreachable" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
