"""Lookups that are sent together end separately. A bearer token stays on the machine or needs TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from moderation.client import RETRIES, CallError, Client
from moderation.errors import ConfigError
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc

INVALID, CANCELLED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED


class Lookups(pb_grpc.ModerationServiceServicer):
    """Knows no post, and refuses a batch with an id that is empty, as the API does."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.called = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def BatchGetVerdicts(self, request: Any, context: Any) -> Any:
        self.asked.append(list(request.post_ids))
        self.called.set()
        await self.open.wait()
        if "" in request.post_ids:
            await context.abort(INVALID, "post_ids[0] is empty")
        return pb.BatchGetVerdictsResponse(results=[pb.LookupResult(post_id=id) for id in request.post_ids])


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Lookups, str]]:
    """The servicer while it is served, and its address."""
    server, lookups = grpc.aio.server(), Lookups()
    pb_grpc.add_ModerationServiceServicer_to_server(lookups, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield lookups, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_an_invalid_id_fails_alone() -> None:
    async with served() as (lookups, address), Client(address) as client:
        bad = ["", "a\n", "x" * 513, "\ud800"]
        first, *refused, last = await asyncio.gather(*map(client.get, ["a", *bad, "b"]), return_exceptions=True)
        assert [result.post_id for result in (first, last) if isinstance(result, pb.LookupResult)] == ["a", "b"]
        assert [(error.code, error.reason) for error in refused if isinstance(error, CallError)] == [
            (INVALID, "INVALID_FIELD")
        ] * len(bad)
        assert lookups.asked == [["a", "b"]]


@pytest.mark.parametrize("broken", [{"token": lambda: open("/none").read()}, {"tenant": "\ud800"}])  # noqa: SIM115
async def test_every_caller_of_a_batch_gets_the_error_that_breaks_it(broken: Any) -> None:
    async with served() as (lookups, address), Client(address, **broken) as client, asyncio.timeout(30):
        errors = await asyncio.gather(client.get("a"), client.get("b"), return_exceptions=True)
        assert {type(error) for error in errors} <= {FileNotFoundError, UnicodeEncodeError, ValueError}
        assert lookups.asked == []


async def test_a_closed_client_ends_every_lookup() -> None:
    async with served() as (lookups, address), asyncio.timeout(30):
        lookups.open.clear()
        async with Client(address) as client:
            under_way = asyncio.create_task(client.get("a"))
            await lookups.called.wait()
            queued = asyncio.create_task(client.get("b"))
            await asyncio.sleep(0)
        for error in await asyncio.gather(under_way, queued, return_exceptions=True):
            assert isinstance(error, CallError)
            assert error.code is CANCELLED
        assert lookups.asked == [["a"]]


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.0.1:50051", True),
        ("[::1]:50051", True),
        ("localhost:50051", True),
        ("unix:/run/moderation.sock", True),
        ("127.example.com:50051", False),
        ("127.0.0.1.example.com:50051", False),
        ("localhost.example.com:50051", False),
        ("localhost:x.example.com", False),
        ("[::1].example.com:50051", False),
        ("10.0.0.1:50051", False),
        ("dns:///127.0.0.1:50051", False),
    ],
)
async def test_a_bearer_token_without_tls_stays_on_the_machine(address: str, local: bool) -> None:
    if local:
        async with Client(address, token=lambda: "t"):
            return
    with pytest.raises(ConfigError, match="needs TLS"):
        Client(address, token=lambda: "t")


def test_the_client_retries_as_the_documented_service_config_does() -> None:
    documented = json.loads((Path(__file__).parents[2] / "protos" / "service_config.json").read_text())
    assert documented["methodConfig"] == RETRIES["methodConfig"]
    assert documented["loadBalancingConfig"] == [{"round_robin": {}}]
