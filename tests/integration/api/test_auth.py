"""Authentication over real sockets: TLS, client certificates, bearer tokens, tenants, rates."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from moderation.api import role
from moderation.api.auth import LEEWAY_S
from moderation.api.grpc import checks
from moderation.client import CallError, Client
from moderation.errors import ConfigError
from moderation.types import Outcome
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Post
from tests.support.builders import a_verdict
from tests.support.deployment import Deployment, bearer, token
from tests.support.lookups import SERVING, Api, a_free_address, refused, service

DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


async def test_tokens_over_tls(running_api: Api, deployment: Deployment) -> None:
    running_api.set(auth=deployment.tls | deployment.jwt)
    await running_api.put(a_verdict("a"))
    async with running_api.running(deployment.channel()) as channel:
        get = pb.GetVerdictRequest(post_id="a")
        response = await service(channel).GetVerdict(get, **bearer())
        assert response.state == pb.LOOKUP_STATE_FOUND
        async with refused(UNKNOWN, "UNAUTHENTICATED"):
            await service(channel).GetVerdict(get)
        async with refused(UNKNOWN, "UNAUTHENTICATED"):
            await service(channel).GetVerdict(get, **bearer(exp=1))
        async with refused(DENIED, "MISSING_SCOPE"):
            await service(channel).GetVerdict(get, **bearer(scope="posts:write"))
        async with refused(DENIED, "MISSING_SCOPE"):
            watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(), **bearer(scope="posts:write"))
            await watch.read()
        for method in pb.DESCRIPTOR.services_by_name["ModerationService"].methods:
            request = getattr(pb, method.input_type.name)()
            call = getattr(service(channel), method.name)(request)
            async with refused(UNKNOWN, "UNAUTHENTICATED"):
                await (call.read() if method.server_streaming else call)
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING  # probes have no tokens
        reflection: Any = reflection_pb2_grpc
        message: Any = reflection_pb2
        stub = reflection.ServerReflectionStub(channel)
        async with refused(grpc.StatusCode.UNIMPLEMENTED):  # off where credentials are needed, unless switched on
            await stub.ServerReflectionInfo(iter([message.ServerReflectionRequest(list_services="")])).read()
        async with Client(running_api.address, ca=deployment.folder / "ca.pem", token=token) as client:
            assert (await client.get("a")).state == pb.LOOKUP_STATE_FOUND
            assert (await client.policies()).policies
        async with Client(running_api.address) as client:  # in the clear
            with pytest.raises(CallError, match="UNAVAILABLE"):
                await client.get("a")
    with pytest.raises(ConfigError, match="needs TLS"):
        Client("api.example:50051", token=token)


async def test_a_tenant_sees_its_own(running_api: Api, deployment: Deployment) -> None:
    running_api.set(auth=deployment.tls | deployment.jwt)
    await running_api.put(
        a_verdict("of-t1", tenant="t1"), a_verdict("of-t2", tenant="t2", outcome=Outcome.REMOVE), a_verdict("of-none")
    )
    ids = ["of-t1", "of-t2", "of-none"]
    async with running_api.running(deployment.channel()) as channel:
        stub, me = service(channel), bearer(tenant="t1")
        states = [(await stub.GetVerdict(pb.GetVerdictRequest(post_id=id), **me)).state for id in ids]
        found, not_found = pb.LOOKUP_STATE_FOUND, pb.LOOKUP_STATE_NOT_FOUND
        assert states == [found, not_found, not_found]
        batch = await stub.BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=ids), **me)
        assert [result.state for result in batch.results] == states
        assert [result.HasField("verdict") for result in batch.results] == [True, False, False]
        listed = await stub.ListVerdicts(pb.ListVerdictsRequest(), **me)
        assert [verdict.post_id for verdict in listed.verdicts] == ["of-t1"]
        waited = await stub.WaitVerdict(pb.WaitVerdictRequest(post_id="of-t2"), timeout=3, **me)
        assert waited.state == not_found
        for name, request in (
            ("GetVerdict", pb.GetVerdictRequest(post_id="of-t2", tenant="t2")),
            ("BatchGetVerdicts", pb.BatchGetVerdictsRequest(post_ids=["of-t2"], tenant="")),
            ("ListVerdicts", pb.ListVerdictsRequest(tenant="t2")),
            ("WaitVerdict", pb.WaitVerdictRequest(post_id="of-t2", tenant="t2")),
            ("ModeratePost", pb.ModeratePostRequest(post=Post(id="x", tenant="t2"))),
        ):
            async with refused(DENIED, "OTHER_TENANT"):
                await getattr(stub, name)(request, **me)
        async with refused(DENIED, "OTHER_TENANT", field="post.id"):  # it would supersede the other's verdict
            await stub.ModeratePost(pb.ModeratePostRequest(post=Post(id="of-t2")), **me)
        await running_api.accepted(channel, Post(id="of-none"), **me)  # nobody's, and it locks nobody out
        assert (await stub.GetVerdict(pb.GetVerdictRequest(post_id="of-none"), **me)).state == pb.LOOKUP_STATE_PENDING
        watch = stub.WatchVerdicts(pb.WatchVerdictsRequest(), **me)
        await watch.read()
        await running_api.put(a_verdict("more-of-t2", tenant="t2"), "of-t2", "of-t1", a_verdict("new", tenant="t1"))
        seen: list[tuple[str, bool]] = []
        async with asyncio.timeout(30):
            while len(seen) < 2:
                seen += [(change.post_id, change.HasField("erasure")) for change in (await watch.read()).changes]
        assert sorted(seen) == [("new", False), ("of-t1", True)]
        watch.cancel()
        await running_api.accepted(channel, Post(id="x"), **me)
        async with refused(DENIED, "OTHER_TENANT", field="post.id"):  # nor may it supersede a pending post
            await stub.ModeratePost(pb.ModeratePostRequest(post=Post(id="x")), **bearer(tenant="t2"))
        calls = [
            stub.ModeratePost(pb.ModeratePostRequest(post=Post(id="y")), timeout=5, **bearer(tenant=f"t{number}"))
            for number in range(4)
        ]
        states = await asyncio.gather(*calls, return_exceptions=True)  # the first caller's post is put
        assert len([outcome for outcome in states if isinstance(outcome, pb.ModeratePostResponse)]) == 1
        assert [outcome.code() for outcome in states if isinstance(outcome, grpc.aio.AioRpcError)] == [DENIED] * 3
        assert (await stub.GetVerdict(pb.GetVerdictRequest(post_id="x"), **me)).state == pb.LOOKUP_STATE_PENDING
        other = await stub.GetVerdict(pb.GetVerdictRequest(post_id="x"), **bearer(tenant="t2"))
        assert other.state == not_found
        both = await stub.BatchGetVerdicts(pb.BatchGetVerdictsRequest(post_ids=["new", "more-of-t2"]), **bearer())
        assert [result.state for result in both.results] == [found, found]  # a caller without a tenant sees all


async def test_a_watch_ends_with_its_token_and_goes_on_with_a_new_one(running_api: Api, deployment: Deployment) -> None:
    running_api.set(auth=deployment.tls | deployment.jwt)
    given: list[str] = []

    def short() -> str:
        """A bearer token that is valid for two more seconds: the leeway of the clocks is nearly used up."""
        given.append(token(exp=time.time() - LEEWAY_S + 2))
        return given[-1]

    async with running_api.running(deployment.channel()) as channel:
        metadata = (("authorization", f"Bearer {short()}"),)
        stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(), metadata=metadata)
        await stream.read()
        async with refused(UNKNOWN, "UNAUTHENTICATED") as details:
            await asyncio.wait_for(stream.read(), 30)
        assert "expired" in details[0]
        ca = deployment.folder / "ca.pem"
        async with Client(running_api.address, ca=ca, token=short) as client, asyncio.timeout(60):
            watch = client.watch()
            await anext(watch)
            await anext(watch)  # of the stream that the client has opened again
            assert len(set(given)) == 3
            await watch.aclose()
        async with Client(running_api.address, ca=ca, token=lambda: given[0]) as client, asyncio.timeout(60):
            with pytest.raises(CallError, match="expired"):
                await anext(client.watch())
        given.append(token(exp=time.time() - LEEWAY_S + 2))
        async with Client(running_api.address, ca=ca, token=lambda: given[-1]) as client, asyncio.timeout(60):
            watch = client.watch()
            await anext(watch)
            with pytest.raises(CallError, match=r"expired|is not valid"):  # there is no newer token
                await anext(watch)


async def test_a_health_watch_ends_with_its_token(
    running_api: Api, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "RECHECK_S", 0.1)
    running_api.set(auth=deployment.tls | deployment.jwt)
    async with running_api.running(deployment.channel()) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        short = bearer(exp=time.time() - LEEWAY_S + 2)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), **short)
        assert (await watch.read()).status == SERVING
        async with refused(UNKNOWN, "UNAUTHENTICATED"):
            await asyncio.wait_for(watch.read(), 30)
        async with refused(grpc.StatusCode.UNIMPLEMENTED, "UNAUTHENTICATED"):
            await stub.Watch(health_pb2.HealthCheckRequest(), **short).read()


async def test_expired_keys_end_a_health_watch_as_unavailable(
    running_api: Api, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "RECHECK_S", 0.1)
    running_api.set(auth=deployment.tls | deployment.jwt | {"jwt_refresh_s": 0.05, "jwt_keys_max_age_s": 1.0})
    async with running_api.running(deployment.channel()) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), **bearer())
        assert (await watch.read()).status == SERVING
        (deployment.folder / "jwt.pem").write_bytes(b"{")
        for each in (watch, stub.Watch(health_pb2.HealthCheckRequest(), **bearer())):
            async with refused(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry=True), asyncio.timeout(30):
                while await each.read() is not grpc.aio.EOF:
                    pass


async def test_client_certificates(running_api: Api, deployment: Deployment) -> None:
    running_api.set(auth=deployment.mtls | {"tls_client_names": "reader.internal, other.internal"})
    await running_api.put(a_verdict("a"))
    async with running_api.running(deployment.channel("reader.internal")) as channel:
        get = pb.GetVerdictRequest(post_id="a")
        assert (await service(channel).GetVerdict(get)).state == pb.LOOKUP_STATE_FOUND
        forged = trustme.CA().issue_cert("reader.internal")
        chain, key = forged.cert_chain_pems[0].bytes(), forged.private_key_pem.bytes()
        for credentials, code in (
            (deployment.channel("unknown.internal"), UNKNOWN),
            (deployment.channel(), grpc.StatusCode.UNAVAILABLE),  # without a certificate
            (grpc.ssl_channel_credentials(deployment.ca.cert_pem.bytes(), key, chain), grpc.StatusCode.UNAVAILABLE),
        ):
            async with grpc.aio.secure_channel(running_api.address, credentials) as unknown, refused(code):
                await service(unknown).GetVerdict(get, timeout=10)


async def test_a_renewed_certificate_is_used(running_api: Api, deployment: Deployment) -> None:
    running_api.set(auth=deployment.tls)
    async with running_api.running(deployment.channel()):
        deployment.ca = trustme.CA()  # a caller that trusts the new CA alone refuses the old certificate
        deployment.renew()
        async with grpc.aio.secure_channel(running_api.address, deployment.channel()) as channel:
            response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), timeout=10)
            assert response.state == pb.LOOKUP_STATE_NOT_FOUND


async def test_missing_certificates(running_api: Api, deployment: Deployment) -> None:
    running_api.set(auth=deployment.tls | {"tls_key": deployment.folder / "none.key"})
    with pytest.raises(ConfigError, match="MODERATION_AUTH__TLS"):
        await role.serve(running_api.settings, running_api.stop)


async def test_a_caller_is_held_to_its_rate(running_api: Api) -> None:
    running_api.set(calls_per_second=5.0)
    async with running_api.running() as channel:
        batch = pb.BatchGetVerdictsRequest(post_ids=["a"] * 400)
        await service(channel).BatchGetVerdicts(batch)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry=True):
            await service(channel).BatchGetVerdicts(batch)
        async with asyncio.timeout(30):
            while True:  # a bucket fills by itself
                try:
                    await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_probes_have_a_port_of_their_own(running_api: Api) -> None:
    listen = a_free_address()
    running_api.set(health_listen=listen)
    async with running_api.running(), grpc.aio.insecure_channel(listen) as probes:
        health: Any = health_pb2_grpc.HealthStub(probes)
        for name in ("", "moderation.v1.ModerationService"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        async with refused(grpc.StatusCode.UNIMPLEMENTED):
            await service(probes).GetVerdict(pb.GetVerdictRequest(post_id="a"))
