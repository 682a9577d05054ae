"""Bounds on what a model server may send: the client's library reads a whole response into memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2

MAX_BYTES = 4 << 20  # of a response; 400 decisions, or one token with 20 alternatives, have a hundredth of it


class Oversized(ValueError):
    """A response that is no reply. The text holds counts alone."""


def hooks() -> dict[str, list[Callable[[Any], Awaitable[None]]]]:
    """For `event_hooks` of an httpx2.AsyncClient."""
    return {"request": [_ask_plain], "response": [_bound]}


async def _ask_plain(request: httpx2.Request) -> None:
    """Compressed, a small response may become a large one."""
    request.headers["Accept-Encoding"] = "identity"


async def _bound(response: httpx2.Response) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Oversized("a compressed response, which was not asked for")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """A response's body. Raises Oversized when it is longer than MAX_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in self._stream:
            read += len(chunk)
            if read > MAX_BYTES:
                raise Oversized(f"a response of more than {MAX_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
