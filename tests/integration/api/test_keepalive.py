"""Clients that ping an idle connection, as fast as they may and faster."""

from __future__ import annotations

import asyncio

import pytest

from moderation.api.grpc.server import PING_MS
from tests.support import frames
from tests.support.connection import connected
from tests.support.lookups import Api, a_free_address

PINGS = 4  # a server closes at the third that comes too early
USUAL_MS = 10_000  # the shortest keepalive that clients in Go and Java take


@pytest.mark.parametrize(("pause_s", "floods"), [(1.1 * PING_MS / 1000, False), (0.0, True)])
async def test_a_client_may_ping_an_idle_connection_and_a_flood_of_pings_ends_it(
    running_api: Api, pause_s: float, floods: bool
) -> None:
    assert 2 * PING_MS <= USUAL_MS  # timers are not exact
    health = a_free_address()
    running_api.set(health_listen=health)

    async def ping(address: str) -> None:
        async with connected(address, None) as connection:
            for _ in range(PINGS):
                await connection.write(frames.frame(frames.PING, 0, 0, bytes(8)))
                await asyncio.sleep(pause_s)
            if floods:
                await asyncio.wait_for(connection.closed.wait(), 10)
                assert connection.received["goaway"]
            else:
                assert connection.received == {"ponged": PINGS}

    async with running_api.running():
        await asyncio.gather(ping(running_api.address), ping(health))
