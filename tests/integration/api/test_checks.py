"""Health follows the lag of the view behind its topic."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.api import role
from moderation.client import Client
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_FOUND as FOUND,
)
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_NOT_FOUND as NOT_FOUND,
)
from moderation.view.stores import StoreUnavailableError
from moderation.view.stores.sqlite import Sqlite
from tests.support.builders import a_verdict
from tests.support.logged import events
from tests.support.lookups import (
    NOT_SERVING,
    SERVING,
    Api,
    service,
    watch_health,
)


async def test_a_lagging_view_changes_health_and_still_serves_lookups(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_api.set(max_lag=5)
    stalled = asyncio.Event()
    async with running_api.running() as channel:
        health = watch_health(channel)
        assert (await health.read()).status == SERVING
        real = Sqlite.fold

        async def full(self: Any, *arguments: Any) -> Any:
            if stalled.is_set():
                return await real(self, *arguments)
            raise StoreUnavailableError("as with a full disk")

        monkeypatch.setattr(Sqlite, "fold", full)
        monkeypatch.setattr("moderation.view.view.STORE_RETRY_S", 0.1)
        await running_api.put(*(a_verdict(f"p{n}") for n in range(30)))
        assert (await asyncio.wait_for(health.read(), 30)).status == NOT_SERVING
        response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="p1"))
        assert response.state == NOT_FOUND  # lookups are answered from what the view holds
        stalled.set()
        assert (await asyncio.wait_for(health.read(), 30)).status == SERVING
        response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="p1"))
        assert response.state == FOUND


async def test_a_starting_api_serves_once_its_view_is_close_to_the_topics_current_end(
    running_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_on() -> None:
        """Lets the API run for a moment."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), 0.05)

    def lag() -> float | None:
        return REGISTRY.get_sample_value("moderation_view_lag_records")

    running_api.set(max_lag=5)
    await running_api.put(*(a_verdict(f"old{n}") for n in range(10)))
    grown, stalled = asyncio.Event(), asyncio.Event()
    fold, serve = Sqlite.fold, Sqlite.serve

    async def grows(self: Any) -> Any:
        """While the view folded in what was on the topic at the start, the topic has grown."""
        await running_api.put(*(a_verdict(f"new{n}") for n in range(30)))
        grown.set()
        return await serve(self)

    async def full(self: Any, *arguments: Any) -> Any:
        if grown.is_set() and not stalled.is_set():
            raise StoreUnavailableError("as with a full disk")
        return await fold(self, *arguments)

    monkeypatch.setattr(Sqlite, "serve", grows)
    monkeypatch.setattr(Sqlite, "fold", full)
    monkeypatch.setattr("moderation.view.view.STORE_RETRY_S", 0.1)
    with capture_logs() as logged:
        serving = asyncio.create_task(role.serve(running_api.settings, running_api.stop))
        try:
            async with grpc.aio.insecure_channel(running_api.address) as channel, asyncio.timeout(60):
                health = watch_health(channel)
                assert (await health.read()).status == NOT_SERVING
                await grown.wait()
                while not (events(logged, "view_caught_up") and lag() == 30):
                    await run_on()
                response = await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="old1"))
                assert response.state == FOUND  # lookups are answered, and health is not serving yet
                assert not events(logged, "api_ready")
                stalled.set()
                assert (await health.read()).status == SERVING
                assert (lag() or 0) <= 2  # half of the bound
                health.cancel()
        finally:
            running_api.stop.set()
            await serving


async def test_a_client_can_wait_until_an_api_serves(running_api: Api) -> None:
    async with Client(running_api.address) as client:
        waiting = asyncio.create_task(client.serving())
        await asyncio.sleep(0.2)
        assert not waiting.done()  # nothing listens there yet
        async with running_api.running():
            await asyncio.wait_for(waiting, 30)
