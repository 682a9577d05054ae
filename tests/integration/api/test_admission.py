"""Admission: decided by the headers, before a request is read."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from moderation.api.grpc.requests import LOOKUP_BYTES
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Image, Post
from tests.support import frames
from tests.support.builders import a_verdict
from tests.support.connection import CLOSED, connected
from tests.support.credentials import Credentials
from tests.support.lookups import NOT_SERVING, SERVICE, SERVING, Api, a_free_address, refused, service


@pytest.fixture
def credentials(running_api: Api, tmp_path: Path) -> Credentials:
    """Credentials that the API needs from now on."""
    made = Credentials(tmp_path)
    prefix = "MODERATION_AUTH__"
    running_api.set(auth={name.removeprefix(prefix).lower(): value for name, value in made.environment.items()})
    return made


def trusting(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(credentials.ca.read_bytes())


def bearer(credentials: Credentials) -> Any:
    return (("authorization", f"Bearer {credentials.token('svc')}"),)


async def test_health_is_watched_with_credentials_and_checked_without(
    running_api: Api, credentials: Credentials
) -> None:
    async with running_api.running(trusting(credentials)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        async with refused(grpc.StatusCode.UNIMPLEMENTED):  # clients that watch by themselves then do without
            await stub.Watch(request).read()
        assert (await stub.Check(request)).status == SERVING
        async with refused(grpc.StatusCode.NOT_FOUND):
            await stub.Check(health_pb2.HealthCheckRequest(service="another"))
        watch = stub.Watch(request, metadata=bearer(credentials))
        assert (await watch.read()).status == SERVING
        running_api.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        async with asyncio.timeout(30):
            assert await watch.read() == grpc.aio.EOF


async def test_probes_watch_on_their_own_port(running_api: Api, credentials: Credentials) -> None:
    listen = a_free_address()
    running_api.set(health_listen=listen)
    async with running_api.running(trusting(credentials)), grpc.aio.insecure_channel(listen) as probes:
        stub: Any = health_pb2_grpc.HealthStub(probes)
        assert (await stub.Watch(health_pb2.HealthCheckRequest()).read()).status == SERVING


async def test_reflection_that_is_on_needs_credentials_like_any_method(
    running_api: Api, credentials: Credentials
) -> None:
    running_api.set(reflection="on")
    message: Any = reflection_pb2
    stubs: Any = reflection_pb2_grpc
    async with running_api.running(trusting(credentials)) as channel:
        stub, asked = stubs.ServerReflectionStub(channel), message.ServerReflectionRequest(list_services="")
        async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await stub.ServerReflectionInfo(iter([asked])).read()
        responses = [
            response async for response in stub.ServerReflectionInfo(iter([asked, asked]), metadata=bearer(credentials))
        ]
        assert [len(response.list_services_response.service) for response in responses] == [4, 4]


async def test_a_request_larger_than_its_method_takes(running_api: Api) -> None:
    async with running_api.running() as channel:
        large = pb.GetVerdictRequest(post_id="a", consistency_token=b"x" * LOOKUP_BYTES)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as details:
            await service(channel).GetVerdict(large)
        assert details == [f"the request is larger than {LOOKUP_BYTES} bytes"]
        longest = pb.BatchGetVerdictsRequest(post_ids=[f"{number:0512}" for number in range(1_000)])
        assert len((await service(channel).BatchGetVerdicts(longest)).results) == 1_000


async def test_a_compressed_request_is_refused(running_api: Api) -> None:
    await running_api.put(a_verdict("a"))
    async with running_api.running() as channel:
        get = pb.GetVerdictRequest(post_id="a", content_digest="0" * 1_000)
        async with refused(grpc.StatusCode.UNIMPLEMENTED):
            await service(channel).GetVerdict(get, compression=grpc.Compression.Gzip)


async def test_invalid_bytes(running_api: Api) -> None:
    async with running_api.running() as channel:
        for method, text in (
            ("GetVerdict", "the request is not a valid GetVerdictRequest"),
            ("ModeratePost", "INVALID_POST: the message is not well-formed"),
        ):
            call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
            async with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
                await call(b"\x0a\xff")
            assert details == [text]


async def test_a_post_of_many_small_parts_is_refused_before_it_is_parsed(running_api: Api) -> None:
    async with running_api.running() as channel:
        many = pb.ModeratePostRequest(post=Post(id="a", images=[Image(data=b"x")] * 5_000))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_POST", field="post") as details:
            await service(channel).ModeratePost(many)
        assert details == ["INVALID_POST: the message has more than 4000 fields"]


async def test_one_caller_cannot_take_all_places(running_api: Api) -> None:
    """Of ten places it has nine; what it asks beyond is refused, late, and takes no place meanwhile."""
    running_api.set(max_waits=10)
    async with running_api.running() as channel:
        waits = [
            asyncio.ensure_future(service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id=f"p{number}"), timeout=60))
            for number in range(12)
        ]
        async with asyncio.timeout(30):
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            ended = [wait for wait in waits if wait.done()]
            while len(ended) < 3:
                await asyncio.sleep(0.02)
                ended = [wait for wait in waits if wait.done()]
        for wait in ended:
            error = wait.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(ended) == 3
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def test_endless_checks_hold_up_no_probe(running_api: Api) -> None:
    """Ten addresses with three such calls each: on the port of calls and on that of probes."""
    listen = a_free_address()
    running_api.set(health_listen=listen)
    async with running_api.running(), AsyncExitStack() as held:
        for port in (running_api.address, listen):
            for number in range(2, 12):
                connection = await held.enter_async_context(connected(port, None, f"127.0.0.{number}"))
                for _ in range(3):
                    await connection.open("/grpc.health.v1.Health/Check")
        async with grpc.aio.insecure_channel(listen) as probes:
            stub: Any = health_pb2_grpc.HealthStub(probes)
            for _ in range(20):
                assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)).status == SERVING


@pytest.mark.parametrize("probes", [False, True])
async def test_calls_of_unknown_methods_count_as_unauthenticated(running_api: Api, probes: bool) -> None:
    listen = a_free_address()
    running_api.set(health_listen=listen, unauthenticated_timeout_s=600.0)
    async with running_api.running():
        address = listen if probes else running_api.address
        async with connected(address, None, "127.0.0.2") as connection, asyncio.timeout(30):
            with suppress(*CLOSED):
                for path in itertools.cycle(("/another.Service/Method", f"/{SERVICE}/Another")):
                    await connection.open(path, body=frames.message(b""))
                    await asyncio.sleep(0.002)
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/another.Service/Method")
            async with refused(grpc.StatusCode.UNIMPLEMENTED) as details:
                await call(b"")
            assert details == ["the method is not known"]
            stub: Any = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
