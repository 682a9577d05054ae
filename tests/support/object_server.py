"""An object store on a socket that keeps to the protocol or breaks it, as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest

from moderation.errors import PostError
from moderation.media.sources.object_stores import ObjectStores
from moderation.settings import MediaSettings, StoreSettings
from moderation.types import Reason

KEY = "uploads/picture.png"
Answer = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # decoded
    headers: dict[str, str]  # by name in lower case

    @property
    def range(self) -> tuple[int, int]:
        """First and last byte that are asked for."""
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        return int(first), int(last)


@dataclass
class ObjectServer:
    """Answers by path, as `/bucket/key`; what has no answer is not there."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def methods(self, path: str) -> list[str]:
        return [request.method for request in self.requests if request.path == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while not writer.is_closing():
                line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                if length := int(headers.get("content-length", 0)):
                    await reader.readexactly(length)
                method, path, _ = line.split()
                request = Request(method, unquote(path.partition("?")[0]), headers)
                self.requests.append(request)
                await self.answers.get(request.path, refused(404))(request, writer)
                await writer.drain()


@asynccontextmanager
async def an_object_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[ObjectServer]:
    store = ObjectServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await store._serve(reader, writer)
        writer.transport.abort()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    store.url = f"{'https' if tls else 'http'}://{host}:{port}"
    try:
        yield store
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def head(writer: asyncio.StreamWriter, status: int, **headers: object) -> None:
    """Names of headers have _ for -."""
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())


def described(writer: asyncio.StreamWriter, size: int, etag: str = '"1"', **more: object) -> None:
    """The answer to HEAD."""
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    head(writer, 200, Content_Length=size, ETag=etag, Last_Modified=date, **more)


def ranged(request: Request, writer: asyncio.StreamWriter, size: int, **more: object) -> None:
    """The head of the answer to a ranged GET of an object of `size` bytes."""
    first, last = request.range
    last = min(last, size - 1)
    fields: dict[str, object] = {
        "Content_Range": f"bytes {first}-{last}/{size}",
        "Content_Length": last - first + 1,
        "ETag": '"1"',
        "Last_Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
    }
    head(writer, 206, **{name: value for name, value in (fields | more).items() if value is not None})


def whole(data: bytes, etag: str = '"1"', **more: object) -> Answer:
    """A store that does all as it should."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.method == "HEAD":
            return described(writer, len(data), etag, **more)
        if request.headers.get("if-match", etag) != etag:
            return head(writer, 412, Content_Length=0)
        first, last = request.range
        ranged(request, writer, len(data), ETag=etag, **more)
        return writer.write(data[first : last + 1])

    return answer


def refused(status: int, body: bytes = b"", **headers: object) -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        head(writer, status, Content_Length=len(body), **headers)
        if request.method != "HEAD":
            writer.write(body)

    return answer


def stores(**fields: Any) -> MediaSettings:
    limits = {name: fields.pop(name) for name in ("max_bytes", "timeout_s") if name in fields}
    given: dict[str, Any] = {"url": "s3://bucket/uploads", "credentials": "anonymous"} | fields
    return MediaSettings(stores={"pictures": StoreSettings(**given)}, **limits)


@asynccontextmanager
async def a_source(**fields: Any) -> AsyncIterator[tuple[ObjectServer, ObjectStores]]:
    async with an_object_server() as server:
        yield server, ObjectStores(stores(endpoint=server.url, **fields))


async def reason_of(source: ObjectStores, uri: str = f"s3://bucket/{KEY}") -> Reason:
    with pytest.raises(PostError) as caught:
        await source.read(uri)
    assert "secret" not in str(caught.value)
    return caught.value.reason
