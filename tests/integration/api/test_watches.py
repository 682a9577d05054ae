"""Watches over real sockets and a real Kafka: filters, positions, slow readers, and their end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import grpc
import pytest

from moderation.client import Client
from moderation.settings import ApiSettings
from moderation.types import Outcome
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.verdict_pb2 import Outcome as OutcomeMessage
from tests.support.builders import a_verdict
from tests.support.lookups import (
    Api,
    changes,
    refused,
    service,
    watching,
)

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_watch_sends_what_passes_its_filters_and_its_position(running_api: Api) -> None:
    await running_api.put(a_verdict("before"))
    async with running_api.running() as channel:
        remove, p = [OutcomeMessage.OUTCOME_REMOVE], ["p"]
        async with (
            watching(channel) as everything,
            watching(channel, outcomes=remove, policy_ids=p) as some,
            watching(channel, outcomes=remove, tenant="t") as of_tenant,
        ):
            assert not everything.first.changes
            await running_api.put(
                a_verdict("a", outcome=Outcome.REMOVE, deciding_policy="p", content_digest="1" * 64),
                a_verdict("b", outcome=Outcome.REMOVE, deciding_policy="q", tenant="t", content_digest="2" * 64),
                a_verdict("c", outcome=Outcome.ALLOW, content_digest="3" * 64),
                "b",
            )
            assert sorted(await changes(everything, 4)) == [("a", "1"), ("b", "2"), ("b", "erased"), ("c", "3")]
            assert sorted(await changes(some, 2)) == [("a", "1"), ("b", "erased")]
            assert await changes(of_tenant, 2) == [("b", "2"), ("b", "erased")]
        token = everything.first.consistency_token
        async with watching(channel, consistency_token=token, outcomes=[OutcomeMessage.OUTCOME_ALLOW]) as again:
            seen = [(change.post_id, change.HasField("erasure")) for change in again.first.changes]
            while len(seen) < 2:
                message = await asyncio.wait_for(again.read(), 30)
                seen += [(change.post_id, change.HasField("erasure")) for change in message.changes]
            assert sorted(seen) == [("b", True), ("c", False)]  # of b only the last change
            await running_api.put(a_verdict("d", content_digest="4" * 64))
            assert await changes(again, 1) == [("d", "4")]


async def test_a_client_continues_a_watch_without_a_gap_after_a_restart(running_api: Api) -> None:
    seen: list[str] = []
    async with Client(running_api.address) as client:
        async with running_api.running():
            watch = client.watch()
            assert not (await anext(watch)).changes
            await running_api.put(a_verdict("a"))
            seen += [change.post_id for change in (await anext(watch)).changes]
            going_on = asyncio.ensure_future(anext(watch))
        await running_api.put(a_verdict("meanwhile"))
        running_api.stop.clear()
        async with running_api.running():
            async with asyncio.timeout(60):
                while "meanwhile" not in seen:
                    seen += [change.post_id for change in (await going_on).changes]
                    going_on = asyncio.ensure_future(anext(watch))
            going_on.cancel()
            await asyncio.wait([going_on])
            await watch.aclose()
    assert seen == ["a", "meanwhile"]


async def test_a_slow_reader_is_disconnected(running_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiSettings, "watch_buffer", 1)
    monkeypatch.setattr(ApiSettings, "watch_stall_s", 0.5)
    async with running_api.running() as channel:
        stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await stream.read()
        large = a_verdict("x", content_digest="x" * 60_000)
        async with refused(EXHAUSTED, "SLOW_READER", retry=True):
            async with asyncio.timeout(60):
                for _ in range(20):
                    await running_api.put(*[replace(large, post_id=f"x{n}") for n in range(20)])
            while await stream.read() is not grpc.aio.EOF:  # it reads only now
                pass
        async with watching(channel):  # other watches are not affected
            pass


async def test_a_watch_has_a_maximum_age(running_api: Api) -> None:
    running_api.set(watch_s=4.0, max_watches=1)
    async with running_api.running() as channel:
        stream = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
        await stream.read()
        async with refused(EXHAUSTED, "OVERLOADED", retry=True):
            await service(channel).WatchVerdicts(pb.WatchVerdictsRequest()).read()
        async with refused(grpc.StatusCode.UNAVAILABLE, "STOPPING", retry=True):
            await asyncio.wait_for(stream.read(), 30)


async def test_a_timeout_in_a_service_config_ends_a_watch_unless_its_methods_are_named(running_api: Api) -> None:
    """As the callers' page says."""
    names = {"all": [{"service": "moderation.v1.ModerationService"}]}
    names["others"] = [{**names["all"][0], "method": method} for method in ("GetVerdict", "WaitVerdict")]
    async with running_api.running():
        for covers, name in names.items():
            config = json.dumps({"methodConfig": [{"name": name, "timeout": "1s"}]})
            async with grpc.aio.insecure_channel(
                running_api.address, options=[("grpc.service_config", config)]
            ) as channel:
                watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest())
                ended = asyncio.ensure_future(watch.code())
                await asyncio.wait([ended], timeout=30 if covers == "all" else 2)
                assert ended.done() == (covers == "all")
                watch.cancel()
                assert (await ended == grpc.StatusCode.DEADLINE_EXCEEDED) == (covers == "all")
