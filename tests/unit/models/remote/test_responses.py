from __future__ import annotations

import asyncio

import httpx2
import pytest

from moderation.models.remote import responses
from moderation.models.remote.responses import MAX_BYTES, Oversized
from tests.support.model_server import ModelServer, Play, dripping, model_server, sends


async def fetched(server: ModelServer, play: Play) -> int:
    """How many bytes of a response were read."""
    server.plays(play)
    async with httpx2.AsyncClient(event_hooks=responses.hooks()) as client:
        return len((await client.get(server.url)).content)


async def test_a_response_up_to_the_bound_is_read_and_no_longer_one() -> None:
    with model_server() as server:
        assert await fetched(server, sends(200, b" " * MAX_BYTES)) == MAX_BYTES
        assert "identity" in server.requests[0].headers["accept-encoding"]
        with pytest.raises(Oversized):
            await fetched(server, sends(200, b" " * (MAX_BYTES + 1)))
        with pytest.raises(Oversized):
            await fetched(server, sends(500, b" " * (MAX_BYTES + 1)))
        async with asyncio.timeout(20):
            with pytest.raises(Oversized):
                await fetched(server, dripping(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65_536, 0.0))


async def test_a_compressed_response_is_refused() -> None:
    """A thousand bytes of it may become a million."""
    with model_server() as server:
        with pytest.raises(Oversized, match="compressed"):
            await fetched(server, sends(200, b"\x1f\x8b\x08\x00", content_encoding="gzip"))
        assert await fetched(server, sends(200, b"{}", content_encoding="identity")) == 2
