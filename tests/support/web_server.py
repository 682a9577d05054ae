"""A web server on loopback that answers with any bytes, over TLS with a certificate of its own authority."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from moderation.errors import PostError
from moderation.media.sources.https import HttpsServers
from moderation.settings import MediaSettings
from moderation.types import Detail, Problem, Reason

NAME = "images.web.example"
Answer = bytes | Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


def ok(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer with a Content-Length, true unless another is given."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def to(location: str, status: str = "302 Found") -> bytes:
    """A redirect."""
    return ok(b"", f"Location: {location}", status=status)


def chunked(*headers: str) -> bytes:
    """The head of an answer in chunks."""
    return "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def endless(head: bytes, piece: bytes = b"x" * 65536) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # drain gives way to others only when its buffer is full

    return answer


def hangs_after(start: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        await asyncio.Event().wait()

    return answer


def ends(start: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()

    return answer


def drips(head: bytes, piece: bytes = b"x") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    return answer


class Names(AbstractResolver):
    """A resolver whose answers are given, as (address, port); by default, one answer for all names."""

    def __init__(self, default: tuple[str, int], answers: Mapping[str, list[tuple[str, int]]] | None = None) -> None:
        self._default = default
        self.answers = dict(answers or {})
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=own,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address, own in self.answers.get(host, [self._default])
        ]

    async def close(self) -> None:
        pass


@dataclass
class WebServer:
    """What clients asked for, and a source whose names all lead here."""

    ca: Path = Path()
    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)  # of requests
    connections: int = 0
    greeting: bytes = b""  # sent before anything is asked
    open: bool = True
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def settings(self, **changes: Any) -> MediaSettings:
        given = {"https_hosts": ("*.web.example",), "https_ca_file": self.ca, "https_timeout_s": 5.0}
        return MediaSettings(**(given | changes))

    @asynccontextmanager
    async def source(
        self,
        answers: Mapping[str, list[tuple[str, int]]] | None = None,
        may_dial: Callable[[str], bool] = "127.0.0.1".__eq__,
        **changes: Any,
    ) -> AsyncIterator[HttpsServers]:
        names = Names(("127.0.0.1", self.port), answers)
        source = HttpsServers(self.settings(**changes), resolver=names, may_dial=may_dial)
        try:
            yield source
        finally:
            await source.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self.asked.set()
                answer = self.answers[head.split()[1].decode()]
                if not isinstance(answer, bytes):
                    await answer(writer)
                    break
                writer.write(answer)
                await writer.drain()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            writer.write(self.greeting)
            await self._serve(reader, writer)
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close() if self.open else writer.transport.abort()


@functools.cache
def _authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def _certificate() -> trustme.LeafCert:
    return _authority().issue_cert("*.web.example")


@asynccontextmanager
async def web_server(
    folder: Path,
    answers: Mapping[str, Answer] | None = None,
    *,
    address: str = "127.0.0.1",
    certificate: trustme.LeafCert | None = None,
    authority: trustme.CA | None = None,  # of the certificate
    tls: bool = True,
) -> AsyncIterator[WebServer]:
    """answers: by path. certificate: by default one for all names of web.example."""
    ca = authority or _authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (certificate or _certificate()).configure_cert(context)
    served = WebServer(answers=dict(answers or {}))
    server = await asyncio.start_server(served._met, address, ssl=context if tls else None)
    served.port = server.sockets[0].getsockname()[1]
    served.ca = folder / f"ca-{served.port}.pem"
    ca.cert_pem.write_to_path(served.ca)
    tasks = set(asyncio.all_tasks())
    try:
        yield served
    finally:
        served.open = False
        server.close()
        left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def problem_of(reading: Awaitable[bytes]) -> Problem:
    with pytest.raises(PostError) as caught:
        await reading
    assert "web.example" not in str(caught.value), "a message holds content"
    return caught.value.problem


def unavailable(detail: Detail | None = None) -> Problem:
    return Problem(Reason.IMAGE_UNAVAILABLE, "", detail)


def forbidden(detail: Detail) -> Problem:
    return Problem(Reason.IMAGE_FORBIDDEN, "", detail)
