"""A client of a real Kafka leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc

import pytest

from moderation.kafka import clients
from moderation.settings import KafkaSettings


@pytest.mark.parametrize("kind", ["consumer", "producer"])
async def test_a_start_that_is_cancelled_leaves_no_connection_open(kafka: str, kind: str) -> None:
    """As when a partition is taken away while it is being opened. pytest reports what was never closed."""
    settings = KafkaSettings(bootstrap=kafka)

    async def opened() -> None:
        client = clients.consumer(settings) if kind == "consumer" else clients.producer(settings)
        try:
            await clients.connected(client.start, settings)
            await asyncio.sleep(60)
        finally:
            await clients.stop(client)

    for moment in range(30):
        opening = asyncio.create_task(opened())
        await asyncio.sleep(moment * 0.001)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
    await asyncio.sleep(0.1)
    gc.collect()
